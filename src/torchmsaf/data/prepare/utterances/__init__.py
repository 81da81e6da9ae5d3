"""Data sets of utterances, CMU-MOSEI and sets like it, from raw files to prepared sequences."""
