"""The index of records: what was read before is believed only where the file is the same."""

from __future__ import annotations

import copy
import json
import os
import pickle
import sys
from pathlib import Path

import pytest

from kdbench import record_index
from kdbench.errors import RecordError
from kdbench.record import TrialRecord
from kdbench.record_index import RecordIndex, index_path
from kdbench.report.load import load
from kdbench.status import read_only
from kdbench.store import Store

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import synthetic


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A study of about thirty records that were read once, with an index."""
    monkeypatch.setattr(record_index, "WORTHWHILE", 1)
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    synthetic.write(tmp_path, 30, epochs=3)
    return Store(tmp_path / "results" / "synthetic")


def strictly(store: Store) -> dict[str, TrialRecord]:
    """All records, each checked in full."""
    return {path.stem: store.read(path.stem) for path in store.records_folder.glob("*.json")}


def test_what_comes_from_the_index_is_what_the_files_hold(store: Store) -> None:
    expected = strictly(store)
    assert read_only(store.folder) == expected
    path = index_path(store.records_folder)
    assert path is not None and path.exists()
    for found in (read_only(store.folder), read_only(store.folder, glance=True), store.read_all()[0]):
        assert found == expected
        assert [record.to_json() for record in found.values()] == [expected[key].to_json() for key in found]
        assert all(record.key == key for key, record in found.items())
    assert {record.key: record for record in load(store.folder).records} == expected


def test_files_that_were_read_before_are_not_opened_at_a_glance(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read_only(store.folder)
    monkeypatch.setattr(Store, "read", lambda *_: pytest.fail("a record was opened"))
    assert read_only(store.folder, glance=True)


def test_a_flipped_bit_is_found_though_size_and_time_are_those_of_before(store: Store) -> None:
    read_only(store.folder)
    path = next(store.records_folder.glob("*.json"))
    facts, content = path.stat(), path.read_bytes()
    place = content.index(b'"wall_s": 60') + len('"wall_s": ')
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"9")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_ino) == (facts.st_size, facts.st_ino)
    with pytest.raises(RecordError, match="checksum"):
        read_only(store.folder)
    records, messages = store.read_all()
    assert path.stem not in records and len(messages) == 1


def test_a_record_that_was_written_again_is_read_again_at_a_glance(store: Store) -> None:
    key, record = next(iter(read_only(store.folder).items()))
    changed = TrialRecord.from_json({**record.to_json(), "wall_s": 61.0})
    store.write(changed)
    assert read_only(store.folder, glance=True)[key].wall_s == 61.0


@pytest.mark.parametrize("damage", [b"", b"{}", b"0" * 64 + b"\n{}", None])
def test_a_damaged_index_costs_time_and_nothing_else(store: Store, damage: bytes | None) -> None:
    expected = read_only(store.folder)
    path = index_path(store.records_folder)
    assert path is not None
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"finished"', b'"diverged"', 1) if damage is None else damage)
    assert read_only(store.folder, glance=True) == expected
    assert path.read_bytes().partition(b"\n")[0] == content.partition(b"\n")[0]  # it was made anew


def test_curves_that_changed_under_a_reader_are_an_error(store: Store) -> None:
    read_only(store.folder)
    key, record = next((k, r) for k, r in read_only(store.folder).items() if r.spec.phase == "search")
    store.record_path(key).write_text("{}")
    with pytest.raises(RecordError, match="changed while it was read"):
        len(record.curves)


def test_curves_are_copied_and_sent_as_plain_values(store: Store) -> None:
    read_only(store.folder)
    record = next(r for r in read_only(store.folder).values() if r.spec.phase == "search")
    plain = json.loads(store.record_path(record.key).read_text())["curves"]
    assert copy.deepcopy(record.curves) == plain
    assert type(pickle.loads(pickle.dumps(record.curves))) is dict
    assert record.curves == plain and record.curves != {}


def test_small_studies_and_a_cache_that_is_off_have_no_index(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert RecordIndex(store.records_folder, 0).path is None
    monkeypatch.setenv("KDBENCH_CACHE", "off")
    assert RecordIndex(store.records_folder, 10_000).path is None


def test_records_that_are_gone_leave_the_index(store: Store) -> None:
    records = read_only(store.folder)
    gone, *_ = records
    store.record_path(gone).unlink()
    kept, *_ = [key for key in records if key != gone]
    store.write(TrialRecord.from_json({**records[kept].to_json(), "wall_s": 61.0}))
    read_only(store.folder)
    path = index_path(store.records_folder)
    assert path is not None
    assert gone not in json.loads(path.read_bytes().partition(b"\n")[2])["entries"]
