"""Data sets in one .npz file, with the keys of MedMNIST.

`train_images`, `train_labels`, `test_images`, `test_labels` and perhaps `val_images`, `val_labels`: images uint8 (N,
H, W) or (N, H, W, C) with C of 1 to 4; labels integers (N,) or (N, 1), 0 to classes - 1. Other keys are ignored.
Nothing is unpickled. What a table should say about the images may lie beside them, as text in <name>.txt. Every
malformed file is a DataError that names file, key, what was got and what is allowed.
"""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.data._base import DataInfo, DataSet
from kdbench.errors import DataError, listed

if TYPE_CHECKING:
    import numpy as np

    from kdbench.data._base import Arrays

REQUIRED = ("train_images", "train_labels", "test_images", "test_labels")
OPTIONAL = ("val_images", "val_labels")
# What reading a damaged archive may raise, from the archive down to the header of an array.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, EOFError, SyntaxError, ValueError, OSError,
    RuntimeError, MemoryError,
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """Shape and dtype of an array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype


def read_headers(path: Path) -> dict[str, Header]:
    """Shape and dtype of every array of the file, without reading the arrays. Raise DataError if it is damaged."""
    from numpy.lib import format as npy

    out = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
                    shape, _, dtype = read(file)
                    if not dtype.hasobject and member.file_size - file.tell() != math.prod(shape) * dtype.itemsize:
                        raise ValueError(f"{member.filename} is not as long as its shape {shape} says")
                out[member.filename.removesuffix(".npy")] = Header(shape, dtype)
    except _DAMAGED as error:
        raise DataError(_unreadable(path, error)) from None
    return out


def check_headers(path: Path, headers: Mapping[str, Header]) -> None:
    """Raise DataError with one line for each key that is missing or has a wrong dtype or shape."""
    missing = [key for key in REQUIRED if key not in headers]
    if ("val_images" in headers) != ("val_labels" in headers):
        missing += [key for key in OPTIONAL if key not in headers]
    found = [f"{path}: {key}: missing; the file has {listed(headers)}. Needed: {listed(REQUIRED)}." for key in missing]
    for split in ("train", "val", "test"):
        images, labels = headers.get(f"{split}_images"), headers.get(f"{split}_labels")
        if images is not None and (what := _wrong_images(images)):
            found.append(f"{path}: {split}_images: {what}")
        if labels is not None and (what := _wrong_labels(labels)):
            found.append(f"{path}: {split}_labels: {what}")
        if images is not None and labels is not None and images.shape[:1] != labels.shape[:1]:
            got = f"{listed(map(str, labels.shape[:1]))} labels for {listed(map(str, images.shape[:1]))} images"
            found.append(f"{path}: {split}_labels: {got}. Allowed: one label for each image.")
        first = headers.get("train_images")
        if images is not None and first is not None and images.shape[1:] != first.shape[1:]:
            got = f"shape {images.shape} beside train_images of shape {first.shape}"
            found.append(f"{path}: {split}_images: {got}. Allowed: images of one size.")
    if found:
        raise DataError("\n".join(found))


def _wrong_images(header: Header) -> str:
    if header.dtype.hasobject:
        return "pickled objects, which are never loaded. Allowed: dtype uint8."
    if str(header.dtype) != "uint8":
        return f"dtype {header.dtype}. Allowed: uint8 with pixels of 0 to 255."
    shape = header.shape
    if len(shape) not in (3, 4) or 0 in shape or (len(shape) == 4 and shape[3] > 4):
        return f"shape {shape}. Allowed: (N, H, W) or (N, H, W, C) with N > 0 and C of 1 to 4, channels last."
    return ""


def _wrong_labels(header: Header) -> str:
    if header.dtype.hasobject:
        return "pickled objects, which are never loaded. Allowed: an integer dtype."
    if header.dtype.kind not in "iu":
        return f"dtype {header.dtype}. Allowed: an integer dtype."
    if len(header.shape) != 1 and header.shape[1:] != (1,):
        return f"shape {header.shape}. Allowed: (N,) or (N, 1), one class for each image."
    return ""


def _unreadable(path: Path, error: Exception) -> str:
    what = " ".join(str(error).split()) or type(error).__name__
    return f"{path}: not a readable .npz file: {what}. It is truncated or damaged; write or download it again."


def read_array(path: Path, key: str) -> np.ndarray:
    """One array of the file; the others stay on disk. Raise DataError if it is damaged."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            return np.asarray(file[key])
    except _DAMAGED as error:
        raise DataError(f"{key}: {_unreadable(path, error)}") from None


def read_labels(path: Path, split: str, classes: int | None) -> np.ndarray:
    """Labels of a split, int64 (N,). Raise DataError unless they lie in 0..classes - 1.

    classes: None where the file itself defines them: then every class from 0 to the largest label must occur.
    """
    import numpy as np

    labels = read_array(path, f"{split}_labels").reshape(-1).astype(np.int64)
    present = np.unique(labels)
    top = int(present[-1]) if classes is None else classes - 1
    if present[0] < 0 or present[-1] > top or (classes is None and len(present) != top + 1):
        got = f"{len(present)} distinct labels from {present[0]} to {present[-1]}"
        allowed = f"0 to {top}" if classes is not None else "every class from 0 to classes - 1, none left out"
        raise DataError(f"{path}: {split}_labels: {got}. Allowed: {allowed}. Number the classes from 0 without gaps.")
    if top < 1:
        raise DataError(f"{path}: {split}_labels: one class only. Allowed: at least two classes.")
    return labels


class NpzFile(DataSet):
    """The data set `<data root>/<name>.npz`."""

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]

    def path(self, root: Path) -> Path:
        """Where the file lies."""
        return root / f"{self.name}.npz"

    def remark(self, root: Path) -> str:
        """What `<name>.txt` beside the file says of its images, on one line, or an empty string."""
        beside = self.path(root).with_suffix(".txt")
        return " ".join(beside.read_text(encoding="utf-8", errors="replace").split()) if beside.is_file() else ""

    def headers(self, root: Path) -> dict[str, Header]:
        """Checked headers of the file."""
        path = self.path(root)
        headers = read_headers(path)
        check_headers(path, headers)
        return headers

    def info(self, root: Path) -> DataInfo:
        """Facts from the headers and the training labels."""
        headers = self.headers(root)
        height, width, channels = (*headers["train_images"].shape[1:], 1)[:3]
        labels = read_labels(self.path(root), "train", None)
        validation = headers["val_images"].shape[0] if "val_images" in headers else 0
        return DataInfo(
            self.name, self.name, int(labels.max()) + 1, (channels, height, width), len(labels), validation,
            headers["test_images"].shape[0], 0, False, None, None, self.licence, self.remark(root),
            available=True,
        )  # fmt: skip

    def stamp(self, root: Path) -> Hashable:
        """Path, time of change and size of the file."""
        stat = self.path(root).stat()
        return str(self.path(root).resolve()), stat.st_mtime_ns, stat.st_size

    def read(self, root: Path, split: str) -> Arrays:
        """Images and labels of one split; the other splits stay on disk."""
        info = self.info(root)
        path = self.path(root)
        labels = read_labels(path, split, info.classes)
        images = read_array(path, f"{split}_images")
        return images.reshape(*images.shape[:3], -1), labels
