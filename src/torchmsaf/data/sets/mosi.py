"""CMU-MOSI: sentiment of opinions in videos of people who speak of films and books.

Zadeh, Zellers, Pincus and Morency, "MOSI: Multimodal Corpus of Sentiment Intensity and Subjectivity Analysis in Online
Opinion Videos", arXiv 1606.06259, 2016. The names of the sequences are those of the CMU-MultimodalSDK; the counts are
those of its label file in its standard folds, 2199 in all as in the paper.
"""

from torchmsaf.data.sets.base import DataSet

MOSI = DataSet(
    name="mosi",
    title="CMU-MOSI",
    url="http://multicomp.cs.cmu.edu/resources/cmu-mosi-dataset",
    citation="Zadeh, Zellers, Pincus and Morency, arXiv 1606.06259, 2016",
    classes=None,
    limits=(-3.0, 3.0),
    utterances={"train": 1_284, "validation": 229, "test": 686},
    sequences={
        "words": ("modifiedtimestampedwords", "timestampedwords", "words"),
        "labels": ("opinionsegmentlabels", "opinion", "labels", "label"),
        "video": ("facet42", "facet41", "facet", "openface2", "openface1", "openface"),
        "audio": ("covarep", "opensmile"),
        "text": ("timestampedwordvectors", "glovevectors", "glove", "wordvectors", "timestampedbert"),
    },
)
