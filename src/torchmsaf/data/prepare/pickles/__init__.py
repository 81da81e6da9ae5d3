"""Pickles that others share, read as data: nothing is imported for them, and nothing in them is called."""

from torchmsaf.data.prepare.pickles.reader import read_pickle as read_pickle

__all__ = ["read_pickle"]
