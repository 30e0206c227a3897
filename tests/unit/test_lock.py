"""One run of a study at a time, on one machine and on several."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from kdbench import lock
from kdbench.errors import LockedError

HERE = re.escape(os.uname().nodename)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def no_flock(*arguments: Any) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_the_second_run_is_told_who_holds_the_study_and_since_when(path: Path) -> None:
    with lock.held(path):
        text = rf"is being run by process {os.getpid()} on {HERE} since 20\d\d-\d\d-\d\dT[\d:]+\+00:00\. Wait for it"
        with pytest.raises(LockedError, match=text), lock.held(path):
            pass
        assert re.fullmatch(rf"process {os.getpid()} on {HERE} since \S+", lock.holder(path) or "")
    assert lock.holder(path) is None and path.read_text() == ""
    with lock.held(path):
        pass


def test_what_a_dead_process_of_this_machine_left_is_taken_over_at_once(path: Path) -> None:
    path.write_text(f"process 999999999 on {os.uname().nodename} since 2026-01-01T00:00:00+00:00\n")
    assert lock.holder(path) is None
    with lock.held(path):
        assert f"process {os.getpid()} on" in path.read_text()


def test_a_file_that_another_machine_touches_is_held_though_flock_says_no(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text("process 7 on node-b since 2026-01-01T00:00:00+00:00\n")
    assert lock.holder(path) == "process 7 on node-b since 2026-01-01T00:00:00+00:00"
    pauses: list[float] = []

    def touch(seconds: float) -> None:
        pauses.append(seconds)
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))

    monkeypatch.setattr(time, "sleep", touch)
    with pytest.raises(LockedError, match="is being run by process 7 on node-b since 2026-01-01"), lock.held(path):
        pass
    assert len(pauses) == 1
    assert "node-b" in path.read_text(), "it stays as it is"


def test_what_a_dead_machine_left_is_taken_over_once_it_is_stale(path: Path) -> None:
    path.write_text("process 7 on node-b since 2026-01-01T00:00:00+00:00\n")
    os.utime(path, (0, time.time() - lock.STALE_S - 1))
    assert lock.holder(path) is None
    with lock.held(path):
        assert f"process {os.getpid()} on" in path.read_text()


def test_without_flock_a_stale_file_of_another_machine_is_for_a_person_to_remove(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", no_flock)
    path.write_text("process 7 on node-b since 2026-01-01T00:00:00+00:00\n")
    os.utime(path, (0, time.time() - lock.STALE_S - 1))
    with pytest.raises(LockedError, match=rf"no sign of life .* remove {re.escape(str(path))}\."), lock.held(path):
        pass
    path.unlink()
    with lock.held(path):
        pass


def test_without_flock_a_living_process_of_this_machine_holds_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", no_flock)
    path.write_text(f"process {os.getppid()} on {os.uname().nodename} since 2026-01-01T00:00:00+00:00\n")
    with pytest.raises(LockedError, match=f"is being run by process {os.getppid()} on"), lock.held(path):
        pass
    path.write_text(f"process 999999999 on {os.uname().nodename} since 2026-01-01T00:00:00+00:00\n")
    with lock.held(path):
        pass


def test_the_holder_touches_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.01)
    with lock.held(path):
        os.utime(path, (0, 0))
        limit = time.monotonic() + 20
        while path.stat().st_mtime == 0:
            assert time.monotonic() < limit
            time.sleep(0.01)
