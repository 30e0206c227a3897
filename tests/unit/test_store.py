from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from test_record import RECORD

from kdbench.errors import LockedError, RecordError
from kdbench.store import Store, write_atomic


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.work_folder(RECORD.key).mkdir(parents=True)
    store.write(RECORD)
    assert store.read_all() == ({RECORD.key: RECORD}, [])
    assert not store.work_folder(RECORD.key).exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"schema": 1}', b"\xff\xfe"])
def test_a_damaged_record_is_set_aside_with_a_message(tmp_path: Path, damage: bytes) -> None:
    store = Store(tmp_path)
    store.write(RECORD)
    store.record_path(RECORD.key).write_bytes(damage)
    records, messages = store.read_all()
    assert records == {}
    assert len(messages) == 1 and str(store.record_path(RECORD.key)) in messages[0]
    assert (tmp_path / "records" / "quarantine" / f"{RECORD.key}.json").read_bytes() == damage


def test_a_record_under_the_wrong_name_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(RECORD)
    store.record_path(RECORD.key).rename(store.record_path("f" * 16))
    with pytest.raises(RecordError, match="holds the record of"):
        store.read("f" * 16)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def _write_for_ever(path: str) -> None:
    while True:
        write_atomic(Path(path), json.dumps(list(range(20_000))).encode())


def test_a_writer_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for _ in range(5):
        writer = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(str(path),))
        writer.start()
        while not path.exists():
            time.sleep(0.001)
        time.sleep(0.01)
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
        assert json.loads(path.read_bytes())[-1] == 19_999


def test_a_second_run_of_a_study_is_told_who_holds_it(tmp_path: Path) -> None:
    with (
        Store(tmp_path).lock(),
        pytest.raises(LockedError, match=f"is being run by process {os.getpid()} on "),
        Store(tmp_path).lock(),
    ):
        raise AssertionError("both hold the lock")


def test_the_lock_is_free_again_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with Store(tmp_path).lock():
            pass
