"""A limit on the wall-clock time of what may hang: a step that sleeps for ever, a kernel that does not return.

`faulthandler` and interval timers count on clocks that nobody sets, so a clock that jumps does not matter.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any

GRACE_S = 60.0
SETUP_S = 600.0  # more, to read data and start: an import that is interrupted leaves a process of no use
NOTE = "hung.txt"
EXIT_STATUS = 1  # of a process that faulthandler ends


class TimeLimitError(BaseException):
    """The time is up. No Exception, so that a method that catches its own errors does not catch this."""


def grace_s() -> float:
    """Seconds that a training may take beyond its limit, for what is no training: reading data, testing."""
    return float(os.environ.get("KDBENCH_GRACE_S", GRACE_S))


@contextlib.contextmanager
def time_limit(seconds: float | None, folder: Path) -> Iterator[None]:
    """Raise TimeLimitError in the block once so many seconds and the grace have passed. None: no limit.

    Python code and sleeps are interrupted by a signal. Code that never comes back to Python cannot be: after twice the
    grace the process ends with status 1, and leaves the traceback of the place as `hung.txt` in the folder.
    """
    if seconds is None or not math.isfinite(seconds):
        yield
        return
    grace = grace_s()
    limit = max(seconds, 0.0) + grace
    note = folder / NOTE
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file: IO[Any] = stack.enter_context(note.open("wb"))
        except OSError:  # a full disk: then nobody learns the place, but the process still ends
            file = sys.__stderr__ or sys.stderr
        faulthandler.dump_traceback_later(limit + grace, exit=True, file=file)
        stack.callback(faulthandler.cancel_dump_traceback_later)
        stack.callback(_forget, note)
        with _alarm(limit):
            yield


def _forget(note: Path) -> None:
    with contextlib.suppress(OSError):  # an empty note says nothing
        note.unlink(missing_ok=True)


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise TimeLimitError in the main thread after so many seconds; elsewhere there is no way to."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeLimitError

    before = signal.signal(signal.SIGALRM, ring)
    other = signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *other)  # of whoever had set one before


def hung(folder: Path) -> str | None:
    """Where an earlier start of a training hung until its process was ended; None if none did."""
    note = folder / NOTE
    text = note.read_text(errors="replace") if note.exists() else ""
    main = text.rpartition("(most recent call first)")[2]  # faulthandler lists the oldest thread last
    frames = [line.strip() for line in main.splitlines() if line.lstrip().startswith("File ")]
    return frames[0] if frames else None
