"""Folders of workers on nodes other than the driver's: one for each run and node, shared by its workers.

Every worker holds a lock on the folder as long as it lives, so one that nobody holds is left over and may go.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from pathlib import Path
from typing import IO

from kdbench.search.place.inspection import scratch_root

LOCK = "lock"

log = logging.getLogger(__name__)


class Scratch:
    """The folder of one run on this node, made where it is missing, and held until this process ends."""

    def __init__(self, name: str) -> None:
        self.folder = scratch_root() / name
        self._lock = self._hold()
        for other in sorted(scratch_root().iterdir()):
            if other != self.folder:
                remove_unheld(other)

    def _hold(self) -> IO[str]:
        while True:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = self.folder / LOCK
            try:
                file = path.open("a")
                fcntl.flock(file, fcntl.LOCK_SH)
                if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                    return file
            except FileNotFoundError:
                continue  # somebody took it for left over before it was held
            file.close()


def remove_unheld(folder: Path) -> bool:
    """Remove a folder that no worker holds; returns whether it is gone."""
    try:
        with (folder / LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    except BlockingIOError:
        return False
    except OSError as error:  # another worker is at it, or it is not ours
        log.info("%s is left: %s", folder, error)
        return not folder.exists()
    return True


def remove(name: str) -> None:
    """Remove the folder of a run that is over from this node."""
    shutil.rmtree(scratch_root() / name, ignore_errors=True)
