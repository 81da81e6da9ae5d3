"""CMU-MOSEI: sentiment of sentences in videos of people who speak to a camera.

Zadeh, Liang, Poria, Cambria and Morency, "Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and Interpretable
Dynamic Fusion Graph", ACL 2018. The counts are those of Su, Hu, Li and Cao, arXiv 2012.07175; the names of the sequences
those of the CMU-MultimodalSDK.
"""

from torchmsaf.data.sets.base import DataSet

MOSEI = DataSet(
    name="mosei",
    title="CMU-MOSEI",
    url="http://multicomp.cs.cmu.edu/resources/cmu-mosei-dataset",
    citation="Zadeh, Liang, Poria, Cambria and Morency, ACL 2018",
    classes=None,
    limits=(-3.0, 3.0),
    utterances={"train": 16_322, "validation": 1_871, "test": 4_659},
    sequences={
        "words": ("timestampedwords", "words"),
        "labels": ("alllabels", "labels", "label"),
        "video": ("facet42", "facet", "openface2", "openface"),
        "audio": ("covarep", "opensmile"),
        "text": ("timestampedwordvectors", "glovevectors", "glove", "wordvectors"),
    },
)
