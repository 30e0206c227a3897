"""Checkpoints of trainings under way in a place that all nodes reach: a folder, or whatever fsspec has a URL for."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from kdbench.errors import CheckpointError
from kdbench.redact import shown
from kdbench.store import write_atomic
from kdbench.train import checkpoint

EVERY_S = 30.0
CHECKPOINT = "checkpoint.safetensors"
BESIDE = ("best_epoch_*.safetensors", "set_aside.txt", "evaluated.json")

log = logging.getLogger(__name__)


class CheckpointStorage:
    """Copies of the work folders of one study's trainings, without what need not outlive a node.

    `push` goes after every epoch and copies every EVERY_S seconds at most; a copy that fails is a warning, for the
    training has what it needs. `pull` is for the beginning, `remove` for the end.
    """

    def __init__(self, url: str, study: str) -> None:
        self.files: AbstractFileSystem
        self.files, root = url_to_fs(url)
        self.root = f"{root.rstrip('/')}/{study}"
        self._due: dict[str, float] = {}
        self._sent: dict[tuple[str, str], int] = {}  # modification times of what is there

    def push(self, work: Path) -> bool:
        """Copy a work folder, named by its training's key, if it is time; returns whether it was copied."""
        due = self._due.setdefault(work.name, time.monotonic() + EVERY_S)
        if time.monotonic() < due or not (work / CHECKPOINT).exists():
            return False
        try:
            self._copy(work)
        except Exception as error:  # whatever a file system of fsspec raises is no reason to end a training
            log.warning(
                "the checkpoint of %s was not stored: %s: %s", work.name, type(error).__name__, shown(str(error))
            )
            return False
        finally:
            self._due[work.name] = time.monotonic() + EVERY_S
        return True

    def _copy(self, work: Path) -> None:
        """What the checkpoint refers to before the checkpoint; what it no longer refers to goes at last."""
        beside = sorted(path for pattern in BESIDE for path in work.glob(pattern))
        self.files.makedirs(f"{self.root}/{work.name}", exist_ok=True)
        for path in (*beside, work / CHECKPOINT):
            changed = path.stat().st_mtime_ns
            if self._sent.get((work.name, path.name)) != changed:
                self._put(work.name, path.name, path.read_bytes())
                self._sent[work.name, path.name] = changed
        kept = {CHECKPOINT, *(path.name for path in beside)}
        for name in set(self._names(work.name)) - kept:
            self.files.rm_file(f"{self.root}/{work.name}/{name}")

    def _put(self, key: str, name: str, content: bytes) -> None:
        """Write a file whole or not at all: under another name, then moved."""
        partial = f"{self.root}/{key}/.{name}.{uuid.uuid4().hex[:8]}.partial"
        self.files.pipe_file(partial, content)
        self.files.mv(partial, f"{self.root}/{key}/{name}")

    def _names(self, key: str) -> list[str]:
        self.files.invalidate_cache()  # other nodes write there too
        try:
            found = self.files.ls(f"{self.root}/{key}", detail=False)
        except FileNotFoundError:
            return []
        return [str(path).rstrip("/").rpartition("/")[2] for path in found]

    def pull(self, work: Path) -> bool:
        """Bring the stored checkpoint into a work folder if it is further than the one there; returns whether it was.

        One that is damaged is as good as none. What the storage itself raises is raised.
        """
        names = self._names(work.name)
        if CHECKPOINT not in names:
            return False
        fetched = work / ".stored.safetensors"
        write_atomic(fetched, self._get(work.name, CHECKPOINT), durable=False)
        try:
            if epochs_of(fetched) <= epochs_of(work / CHECKPOINT):
                return False
            for name in names:
                if name != CHECKPOINT and any(Path(name).match(pattern) for pattern in BESIDE):
                    write_atomic(work / name, self._get(work.name, name), durable=False)
            fetched.replace(work / CHECKPOINT)
        finally:
            fetched.unlink(missing_ok=True)
        return True

    def _get(self, key: str, name: str) -> bytes:
        return bytes(self.files.cat_file(f"{self.root}/{key}/{name}"))

    def remove(self, key: str) -> None:
        """Forget a training whose record is filed. A failure is a warning."""
        self._due.pop(key, None)
        try:
            with contextlib.suppress(FileNotFoundError):
                self.files.rm(f"{self.root}/{key}", recursive=True)
        except Exception as error:  # as in `push`
            log.warning(
                "the stored checkpoint of %s is left over: %s: %s", key, type(error).__name__, shown(str(error))
            )


def epochs_of(path: Path) -> int:
    """Epochs that a checkpoint has behind it; -1 where there is none that can be read."""
    try:
        return int(checkpoint.load(path)[1].get("epochs_done", -1))
    except CheckpointError:
        return -1
