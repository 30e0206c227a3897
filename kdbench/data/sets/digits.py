"""scikit-learn's handwritten digits: real images that need no download."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.data._base import DataSet, register
from kdbench.data.stratify import choose
from kdbench.seeds import seed_for

if TYPE_CHECKING:
    from kdbench.data._base import Arrays


@register("digits")
class Digits(DataSet):
    """1,797 handwritten digits of 8x8 pixels, 360 of them set aside as the test split.

    Source: Alpaydin, Kaynak 1998, "Optical recognition of handwritten digits", UCI, as `sklearn.datasets.load_digits`.
    Differs: pixels of 0 to 16 are scaled to 0 to 255; scikit-learn has no test split, so that a fixed one, stratified
    by class and the same in every study, is defined here. Mean and std: of the 1,437 training images.
    """

    title = "scikit-learn digits"
    classes = 10
    image_shape = (1, 8, 8)
    n_train = 1437
    n_test = 360
    crop = 1
    flip = False
    mean = (0.3052,)
    std = (0.3758,)
    licence = "CC BY 4.0"
    note = "the test split is kdbench's own: 360 images, stratified by class"

    def stamp(self, root: Path) -> Hashable:
        """The release of scikit-learn that holds the images."""
        from importlib.metadata import version

        return version("scikit-learn")

    def read(self, root: Path, split: str) -> Arrays:
        """Images and labels of "train" or "test"."""
        import numpy as np
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
        labels = digits.target.astype(np.int64)
        test = choose(labels, self.n_test, seed_for(0, "digits", "test"))
        rows = test if split == "test" else np.setdiff1d(np.arange(len(labels)), test)
        return images[rows], labels[rows]
