"""Samples in memory, and the folds that they are compared on."""

from torchmsaf.data.arrays import load_arrays as load_arrays
from torchmsaf.data.digits import load_digits as load_digits
from torchmsaf.data.folds import Fold as Fold
from torchmsaf.data.folds import Protocol as Protocol
from torchmsaf.data.folds import check_fold as check_fold
from torchmsaf.data.folds import fold_ids as fold_ids
from torchmsaf.data.folds import make_protocol as make_protocol
from torchmsaf.data.samples import Samples as Samples
from torchmsaf.data.samples import make_samples as make_samples
from torchmsaf.data.standardize import Standardizer as Standardizer

__all__ = [
    "Fold",
    "Protocol",
    "Samples",
    "Standardizer",
    "check_fold",
    "fold_ids",
    "load_arrays",
    "load_digits",
    "make_protocol",
    "make_samples",
]
