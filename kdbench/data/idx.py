"""MNIST and its kin, from the .idx files of the publisher.

Where the data root has no <name>.npz, the four files are read, packed or not, from `<root>/<KIND>/raw` (where
torchvision puts them) or `<root>/<name>`. Files in the root itself are MNIST's: all of its kin use the same names.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kdbench.data._base import DataInfo, DataSet
from kdbench.data.torchvision import TorchvisionFile
from kdbench.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from kdbench.data._base import Arrays

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class IdxFiles(TorchvisionFile):
    """A known data set: `<name>.npz`, else .idx files, else downloaded through torchvision."""

    def info(self, root: Path) -> DataInfo:
        """The published facts, with the numbers of images of the files where they are there."""
        if self.path(root).exists() or not (files := self.files(root)):
            return super().info(root)
        n_train, n_test = (self._count(*files[split]) for split in ("train", "test"))
        return replace(DataSet.info(self, root), n_train=n_train, n_test=n_test)

    def prepare(self, root: Path) -> None:
        """Download the set if neither form is there. Raise DataError if that fails."""
        if not self.files(root):
            super().prepare(root)

    def stamp(self, root: Path) -> Hashable:
        """Paths, times of change and sizes of the files."""
        if self.path(root).exists() or not (files := self.files(root)):
            return super().stamp(root)
        return tuple(
            (str(path), path.stat().st_mtime_ns, path.stat().st_size) for pair in files.values() for path in pair
        )

    def read(self, root: Path, split: str) -> Arrays:
        """Images and labels of "train" or "test"."""
        import numpy as np

        if self.path(root).exists() or not (files := self.files(root)):
            return super().read(root, split)
        self._count(*files[split])
        images, labels = (read_idx(path) for path in files[split])
        if labels.max() >= self.classes:
            raise DataError(f"{files[split][1]}: a label of {labels.max()}. Allowed: 0 to {self.classes - 1}.")
        return images[..., np.newaxis], labels.astype(np.int64)

    def files(self, root: Path) -> dict[str, tuple[Path, Path]]:
        """Images and labels of "train" and "test" in the first folder that has all four files, or nothing."""
        for folder in (root / self.kind / "raw", root / self.name, *([root] if self.kind == "MNIST" else [])):
            found: dict[str, tuple[Path, Path]] = {}
            for split, names in FILES.items():
                images, labels = (_packed_or_not(folder / name) for name in names)
                if images is not None and labels is not None:
                    found[split] = images, labels
            if len(found) == len(FILES):
                return found
        return {}

    def _count(self, images: Path, labels: Path) -> int:
        """The number of images. Raise DataError unless they have the set's shape and one label each."""
        shape, (count,) = idx_shape(images, 3), idx_shape(labels, 1)
        if shape[1:] != self.image_shape[1:] or shape[0] == 0:
            raise DataError(f"{images}: images of shape {shape}. Allowed for {self.name}: (N, 28, 28) with N > 0.")
        if count != shape[0]:
            raise DataError(f"{labels}: {count} labels for {shape[0]} images. Allowed: one label for each image.")
        return count


def _packed_or_not(path: Path) -> Path | None:
    packed = path.with_name(path.name + ".gz")
    return path if path.is_file() else packed if packed.is_file() else None


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def idx_shape(path: Path, dimensions: int) -> tuple[int, ...]:
    """The shape that the head of an .idx file of unsigned bytes states. Raise DataError for another file."""
    try:
        with _open(path) as file:
            return _shape(path, file, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not readable: {error}. Download it again.") from None


def read_idx(path: Path) -> np.ndarray:
    """The array of an .idx file of unsigned bytes, uint8. Raise DataError if it is cut off or damaged."""
    import numpy as np

    try:
        with _open(path) as file:
            shape = _shape(path, file, 3 if "idx3" in path.name else 1)
            content = file.read(math.prod(shape) + 1)  # a packed file may unpack to any length
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not readable: {error}. Download it again.") from None
    if len(content) != math.prod(shape):
        raise DataError(f"{path}: {len(content)} bytes of data for shape {shape}. Download it again.")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _shape(path: Path, file: BinaryIO, dimensions: int) -> tuple[int, ...]:
    # Two zeros, 8 for unsigned bytes, the number of dimensions; then each of them as a big-endian int32.
    head = file.read(4 + 4 * dimensions)
    if len(head) != 4 + 4 * dimensions or head[:4] != bytes([0, 0, 8, dimensions]):
        raise DataError(
            f"{path}: begins with {head[:4].hex(' ') or 'nothing'}. Allowed: 00 00 08 0{dimensions}, an .idx file of "
            f"unsigned bytes with {dimensions} dimensions. Download it again."
        )
    return tuple(int.from_bytes(head[at : at + 4], "big") for at in range(4, len(head), 4))
