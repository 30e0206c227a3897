from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from test_record import RECORD

from kdbench.errors import KdbenchError, LockedError, RecordError
from kdbench.record import PROTOCOL, ProtocolError
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


def test_what_is_set_aside_replaces_nothing_that_was_set_aside_before(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for damage in (b"first", b"second", b"third"):
        store.write(RECORD)
        store.record_path(RECORD.key).write_bytes(damage)
        _, (message,) = store.read_all()
        aside = Path(message.split("Set aside as ")[1].split("; the training")[0])
        assert aside.read_bytes() == damage
    kept = sorted((tmp_path / "records" / "quarantine").iterdir())
    assert [path.read_bytes() for path in kept] == [b"second", b"third", b"first"]  # KEY.2.json, KEY.3.json, KEY.json
    assert store.read_all() == ({}, [])


def test_a_record_of_another_protocol_is_an_error_and_stays_where_it_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(RECORD)
    path = store.record_path(RECORD.key)
    path.write_text(json.dumps({**RECORD.to_json(), "protocol": PROTOCOL + 1}))
    for read in (store.read_all, lambda: store.read(RECORD.key)):
        with pytest.raises(ProtocolError) as error:
            read()
        assert str(error.value) == (
            f"{path}: made under protocol {PROTOCOL + 1}; this kdbench has protocol {PROTOCOL}. "
            "Give the study another name, or report with the kdbench that made it."
        )
    assert [p.name for p in (tmp_path / "records").iterdir()] == [path.name]


def test_a_study_is_read_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.read_study() is None
    store.write_study({"study": "x"})
    assert store.read_study() == {"study": "x"}
    for damage in (b"", b"{", b"\xff", b"[]"):
        (tmp_path / "study.json").write_bytes(damage)
        with pytest.raises(KdbenchError, match=r"study\.json cannot be read as a study: .*kdbench run"):
            store.read_study()


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


def test_what_need_not_outlive_a_power_cut_is_written_without_waiting_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    write_atomic(tmp_path / "a", b"1", durable=False)
    assert (tmp_path / "a").read_bytes() == b"1" and synced == []
    write_atomic(tmp_path / "a", b"2")
    assert (tmp_path / "a").read_bytes() == b"2" and len(synced) == 2  # the file and its folder


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
