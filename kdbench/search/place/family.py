"""All processes that a run has started, found by a mark in their environment, which children inherit.

Ray's processes end within seconds once their driver is gone, and until then they would train beside their successors.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

MARK = "KDBENCH_FAMILY"


def members(mark: str) -> list[int]:
    """Process ids of everything that carries the mark, but not this process. Empty where there is no /proc."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile, or not ours
            if wanted in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


def end(mark: str, seconds: float = 5.0) -> list[int]:
    """Kill all of them and wait until they are gone; returns those that are not, which nobody can help."""
    limit = time.monotonic() + seconds
    while left := members(mark):
        for process in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        if time.monotonic() > limit:
            return left
        time.sleep(0.05)
    return []
