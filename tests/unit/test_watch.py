"""The time limit of what may hang."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdbench.train.watch import TimeLimitError, hung, time_limit


def test_a_block_that_hangs_is_interrupted_and_leaves_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_GRACE_S", "0.2")
    began = time.monotonic()
    with pytest.raises(TimeLimitError), time_limit(0.1, tmp_path):
        time.sleep(60)
    assert 0.3 <= time.monotonic() - began < 20
    assert list(tmp_path.iterdir()) == [] and hung(tmp_path) is None


def test_a_method_that_catches_all_its_errors_does_not_catch_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDBENCH_GRACE_S", "0.1")
    with pytest.raises(TimeLimitError), time_limit(0.0, tmp_path):
        while True:
            try:
                time.sleep(60)
            except Exception:
                continue


@pytest.mark.parametrize("limit", [None, float("inf"), 3600.0])
def test_what_ends_in_time_is_left_alone_and_the_handler_is_put_back(tmp_path: Path, limit: float | None) -> None:
    before = signal.getsignal(signal.SIGALRM)
    with time_limit(limit, tmp_path):
        pass
    assert signal.getsignal(signal.SIGALRM) == before
    assert list(tmp_path.iterdir()) == []


HANGS = """
import signal, sys, threading, time
from pathlib import Path
from kdbench.train.watch import time_limit
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})  # as in a kernel that does not return to Python
threading.Thread(target=threading.Event().wait, daemon=True).start()
def step_that_hangs():
    time.sleep(600)
with time_limit(0.1, Path(sys.argv[1])):
    step_that_hangs()
"""


def test_a_process_that_never_returns_to_python_ends_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDBENCH_GRACE_S", "0.3")
    done = subprocess.run([sys.executable, "-c", HANGS, tmp_path], timeout=60)
    assert done.returncode == 1
    assert hung(tmp_path) == 'File "<string>", line 8 in step_that_hangs'
