"""Data sets that torchvision can download, kept in the data root as .npz files."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from kdbench.data._base import DataInfo, DataSet
from kdbench.data.npz import REQUIRED, NpzFile
from kdbench.errors import DataError, listed

PROBE_S = 5.0  # a machine without a network has to say so at once
STALLED_S = 30.0


class TorchvisionFile(NpzFile):
    """A known data set: `<data root>/<name>.npz` where it is there, else downloaded through torchvision.

    kind: name of the class in torchvision.datasets.
    """

    kind: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__(type(self).name)

    def info(self, root: Path) -> DataInfo:
        """The published facts, with the numbers of images of the file where there is one."""
        info = DataSet.info(self, root)
        if not self.path(root).exists():
            return replace(info, available=False)
        headers = self.headers(root)
        shape = headers["train_images"].shape[1:]
        channels, height, width = self.image_shape
        if (*shape, 1)[:3] != (height, width, channels):
            allowed = f"({height}, {width}, {channels})"
            raise DataError(
                f"{self.path(root)}: train_images: images of shape {shape}. Allowed for {self.name}: {allowed}."
            )
        validation = headers["val_images"].shape[0] if "val_images" in headers else 0
        n_train, n_test = headers["train_images"].shape[0], headers["test_images"].shape[0]
        note = "; ".join(filter(None, (self.note, self.remark(root))))
        return replace(info, n_train=n_train, n_validation=validation, n_test=n_test, note=note)

    def prepare(self, root: Path) -> None:
        """Download the set if its file is missing. Raise DataError if that fails."""
        path = self.path(root)
        if path.exists():
            return
        try:
            from torchvision import datasets as published
        except ImportError:
            raise DataError(
                self.missing(root, "torchvision is not installed (pip install 'kdbench[vision]')")
            ) from None
        source = getattr(published, self.kind)
        if reason := unreachable(getattr(source, "url", None) or source.mirrors[0]):
            raise DataError(self.missing(root, f"the download failed: {reason}"))
        root.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=f".{self.name}-", dir=root)
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(STALLED_S)
        try:
            convert(source, Path(folder), path)
        except (OSError, RuntimeError, EOFError) as error:
            raise DataError(self.missing(root, f"the download failed: {str(error).rstrip('.')}")) from None
        finally:
            socket.setdefaulttimeout(timeout)
            shutil.rmtree(folder, ignore_errors=True)

    def missing(self, root: Path, reason: str) -> str:
        """The message for a set that is neither here nor to be had."""
        return (
            f"the data set '{self.name}' is not in the data root {root}, and {reason}. "
            f"Set KDBENCH_DATA to a folder that has {self.name}.npz, or put that file into {root} "
            f"(arrays {listed(REQUIRED)}; images uint8 (N, H, W, C))."
        )


def unreachable(url: str) -> str:
    """Why the address does not answer within PROBE_S, or an empty string if it does."""
    answer = [f"no answer within {PROBE_S:g} s"]

    def probe() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_S).close()
            answer[0] = ""
        except urllib.error.HTTPError:
            answer[0] = ""  # an answer all the same: whether the file is there is for the download to say
        except urllib.error.URLError as error:
            answer[0] = str(error.reason)
        except OSError as error:
            answer[0] = str(error)

    # Looking up a host name does not obey the socket's timeout, so it happens in a thread that can be left behind.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_S)
    return answer[0]


def convert(source: Any, folder: Path, path: Path) -> None:
    """Download both splits into `folder` and write them as one .npz at `path`, whole or not at all."""
    import numpy as np

    arrays: dict[str, Any] = {}
    for split in ("train", "test"):
        part = source(folder, train=split == "train", download=True)
        arrays[f"{split}_images"] = np.asarray(part.data, dtype=np.uint8)
        arrays[f"{split}_labels"] = np.asarray(part.targets, dtype=np.int64)
    written = folder / path.name
    with written.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)
