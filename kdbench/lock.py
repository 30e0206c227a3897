"""The lock of a study's folder: one run at a time, on a disk of this machine or on one that machines share.

The lock proper is flock(2), which ends with its process. Over NFS Linux passes it on to the server (since 2.6.12, see
flock(2), "NFS details"), but a mount with local_lock keeps it to one machine, and a file system without locks refuses
it. So the holder also writes who it is and touches the file every BEAT_S seconds: a file that another machine goes on
touching is held, whatever flock says.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from kdbench.errors import LockedError

BEAT_S, STALE_S = 10.0, 60.0
HELD = (errno.EWOULDBLOCK, errno.EACCES)
OWNER = re.compile(r"process (\d+) on (\S+)")


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock file; the folder must exist. Raise LockedError that says who holds it, since when, what to do."""
    with path.open("a+") as file:
        certain = _flock(file, path)
        _require_no_other_machine(path, certain)
        _write(file, f"process {os.getpid()} on {socket.gethostname()} since {_now()}\n")
        over = threading.Event()
        threading.Thread(target=_beat, args=(path, over), daemon=True).start()
        try:
            yield
        finally:
            over.set()
            with contextlib.suppress(OSError):
                _write(file, "")


def holder(path: Path) -> str | None:
    """Who holds the lock now, such as `process 7 on host since 2026-11-21T15:00:00+00:00`, or None; takes nothing."""
    try:
        with path.open() as file:
            text = file.read().strip()
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in HELD:
                    return text or "another process"
    except FileNotFoundError:
        return None
    return text if text and _elsewhere(text) and _age_s(path) < STALE_S else None


def _flock(file: IO[str], path: Path) -> bool:
    """Take the lock; False where the file system knows none. Raise LockedError if another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        text = file.read().strip()
        if error.errno in HELD:
            raise LockedError(_refusal(path, text or "another process")) from error
        if text and not _elsewhere(text) and _lives(text):  # no locks here: what the file says has to do
            raise LockedError(_refusal(path, text)) from error
        return False
    return True


def _require_no_other_machine(path: Path, certain: bool) -> None:
    """Raise LockedError if the file says that a run on another machine holds it, and that may be true.

    certain: whether flock was got. One that another machine left behind is then taken over once STALE_S have passed
    since it was touched last; without flock a person has to remove it.
    """
    text = path.read_text().strip()
    if not text or not _elsewhere(text):
        return
    touched = path.stat().st_mtime_ns
    while (age_s := _age_s(path)) < STALE_S:
        if path.stat().st_mtime_ns != touched:
            raise LockedError(_refusal(path, text))
        time.sleep(min(1.0, max(STALE_S - age_s, 0.01)))
    if not certain:
        raise LockedError(
            f"{_refusal(path, text)} It has given no sign of life for {age_s:.0f} s. If it has ended, or its machine "
            f"is gone, remove {path}."
        )


def _refusal(path: Path, text: str) -> str:
    return (
        f"{path.parent} is being run by {text}. Wait for it, or stop it there, and run the same command again. "
        f"(Lock file: {path})"
    )


def _elsewhere(text: str) -> bool:
    found = OWNER.match(text)
    return found is not None and found[2] != socket.gethostname()


def _lives(text: str) -> bool:
    """Whether the process that the file names runs on this machine."""
    found = OWNER.match(text)
    if found is None:
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return int(found[1]) != os.getpid()


def _age_s(path: Path) -> float:
    """Seconds since the file was touched, by the clock of the disk's own machine where it can be asked."""
    probe = path.with_name(f".{path.name}.{os.getpid()}.clock")
    now = time.time()
    with contextlib.suppress(OSError):
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    return now - path.stat().st_mtime


def _write(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate(0)
    file.write(text)
    file.flush()


def _beat(path: Path, over: threading.Event) -> None:
    """Touch the file until the run is over."""
    while not over.wait(BEAT_S):
        with contextlib.suppress(OSError):  # a disk that is gone for a while
            os.utime(path)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
