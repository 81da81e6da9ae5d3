"""The handwritten digits that come with scikit-learn, cut into two modalities."""

from __future__ import annotations

import numpy as np
import torch

from torchmsaf.data.samples import Samples, make_samples
from torchmsaf.errors import require


def load_digits() -> Samples:
    """The left and the right half of 1797 handwritten digits.

    Returns:
        Samples with the modalities ``left`` and ``right``, each ``(1797, 1, 8, 4)`` in [0, 1], and the ten classes
        ``0`` to ``9``. The bundled set does not tell who wrote which digit, so there are no groups: a writer may
        train and test, and scores are those of known writers.

    Raises:
        MissingDependencyError: scikit-learn is not installed.

    Source:
        E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998;
        its test part, as shipped in scikit-learn. Two halves of a digit as two views is the set-up of Deep CCA
        (Andrew, Arora, Bilmes, Livescu, ICML 2013), there on MNIST.
    """
    bunch = require("sklearn.datasets", "compare").load_digits()
    images = torch.from_numpy(np.asarray(bunch.images, dtype=np.float32) / 16).unsqueeze(1)  # (n, 1, 8, 8)
    return make_samples(
        "digits",
        {"left": images[..., :4].contiguous(), "right": images[..., 4:].contiguous()},
        torch.from_numpy(np.asarray(bunch.target, dtype=np.int64)),
        classes=[str(digit) for digit in range(10)],
    )
