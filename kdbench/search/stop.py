"""Ctrl-C and SIGTERM: the first ends a run in order, the second at once.

In order: no training is started any more, those under way are left at their last epoch, the report and the mirror are
written. At once is safe too, because every file is replaced whole: only what is under way since its last epoch is lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130
TERMINATED = 143
GRACE_S = 25.0  # Kubernetes kills 30 s after SIGTERM, Slurm by default too


class Stop:
    """Listens for the signals that end a run. `signal`: the first one that came, or None."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Raise KeyboardInterrupt in the block at the first SIGINT or SIGTERM, and end the process at the second.

        After SIGTERM the process ends within `KDBENCH_STOP_GRACE_S` seconds (25), whatever it does. Outside of the main
        thread nothing is listened to.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not None]
        before = {number: signal.signal(number, self._came) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _came(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            at_once(self.status(INTERRUPTED))
        self.signal = number
        if number == signal.SIGTERM:
            grace = float(os.environ.get("KDBENCH_STOP_GRACE_S", GRACE_S))
            timer = threading.Timer(grace, at_once, [TERMINATED])
            timer.daemon = True
            timer.start()
        raise KeyboardInterrupt

    def status(self, status: int) -> int:
        """The exit status of a run: that of an interrupted one says whether it was Ctrl-C or SIGTERM."""
        return TERMINATED if status == INTERRUPTED and self.signal == signal.SIGTERM else status


def at_once(status: int) -> None:
    """End the process without unwinding. Children notice, because their pipes to it close."""
    sys.stderr.write("Stopped at once: what was filed is kept. Run the same command again to go on.\n")
    sys.stderr.flush()
    os._exit(status)
