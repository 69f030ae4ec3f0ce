"""Real images that need no download: scikit-learn's handwritten digits, with a fixed split.

The 450 held-out scans also come with the package itself (29 kB), so that the book can show real images without
scikit-learn. They are from the UCI repository, under CC BY 4.0.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from companion import _shipped

HELD_OUT = 450
SPLIT_SEED = 0
SCANS = Path(__file__).parent / "scans" / "digits-held-out.safetensors"
SCANS_SHA256 = "c22848d13a8b3de1092aebbc7840f76a99e0b684aa33894fe3fa7c3b4a138c23"


class Digits(NamedTuple):
    """Images (n, 1, 8, 8) float32 in [0, 1] and labels (n,) int64, in two disjoint parts."""

    train_images: Tensor
    train_labels: Tensor
    held_out_images: Tensor
    held_out_labels: Tensor


def digits() -> Digits:
    """The 1,797 scanned digits that scikit-learn bundles, as 1,347 to train on and 450 held out.

    A pixel counts ink in a 4 × 4 block of a 32 × 32 scan (0..16), here divided by 16. The split is stratified
    by class and always the same (`SPLIT_SEED`): every accuracy in this project is on the same 450 images.

    Returns:
        A named tuple `(train_images, train_labels, held_out_images, held_out_labels)`.
    Raises:
        ImportError: scikit-learn (the `data` extra) is not installed.
    Source:
        E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        install = "pip install 'adversarial-vulnerability[data]'"
        raise ImportError(f"digits() needs scikit-learn, the data extra: {install}") from error
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).to(torch.float32).reshape(-1, 1, 8, 8) / 16
    labels = torch.from_numpy(labels).to(torch.int64)
    train, held_out = train_test_split(
        range(len(labels)), test_size=HELD_OUT, stratify=labels, random_state=SPLIT_SEED
    )
    return Digits(images[train], labels[train], images[held_out], labels[held_out])


def held_out_digits() -> tuple[Tensor, Tensor]:
    """The 450 held-out scans of `digits`, read from a file of the package: scikit-learn is not needed.

    Returns:
        Images (450, 1, 8, 8) float32 in [0, 1], and labels (450,) int64.
    Raises:
        FileNotFoundError: the file is missing.
        RuntimeError: it is not the one that was shipped (checked before it is parsed).
    Source:
        E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998; CC BY 4.0.
    """
    stored = _shipped.read(SCANS, SCANS_SHA256, what="the held-out scans", remedy="reinstall the package")
    return stored["pixels"].to(torch.float32) / 16, stored["labels"].to(torch.int64)
