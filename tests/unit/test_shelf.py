"""Teachers that studies share: what is taken from the shelf, and what is not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from kdbench.cli import app
from kdbench.record import TrialRecord, TrialSpec
from kdbench.store import Store
from kdbench.train import checkpoint, shelf
from kdbench.train.workshop import file_hash

SPEC = TrialSpec("teacher", {"name": "digits"}, {"name": "cnn", "depth": 5}, {"name": "scratch"}, {"epochs": 1}, 3)
TIMES = ("2026-11-22T08:00:00+00:00", "2026-11-22T08:05:00+00:00")
FACTS = {"data_hash": "d" * 64, "test_hash": "e" * 64}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "teachers"


def trained(folder: Path, spec: TrialSpec = SPEC, **changes: Any) -> tuple[Store, TrialRecord]:
    """A study in which a network has been trained."""
    store = Store(folder)
    record = TrialRecord(spec, "finished", {"test_top1_pct": 93.75}, {}, FACTS, 1, *TIMES, 7.5)
    checkpoint.save(store.weights_path(spec.key), {"w": torch.arange(4.0)}, {"spec": spec.to_json()})
    record = replace(record, **changes)
    store.write(record)
    return store, record


@pytest.fixture
def shared(tmp_path: Path) -> TrialRecord:
    """The record of a teacher on the shelf."""
    store, record = trained(tmp_path / "first")
    assert shelf.put(store, record)
    return record


def take(folder: Path, spec: TrialSpec = SPEC, **hashes: Any) -> TrialRecord | None:
    return shelf.take(Store(folder), spec, **{**FACTS, **hashes})


def test_a_teacher_of_one_study_serves_another(shared: TrialRecord, tmp_path: Path) -> None:
    taken, store = take(tmp_path / "second"), Store(tmp_path / "second")
    assert taken is not None and store.read(SPEC.key) == taken
    assert taken == replace(shared, environment={**FACTS, "taken_from": "another study"})
    assert store.weights_path(SPEC.key).read_bytes() == Store(tmp_path / "first").weights_path(SPEC.key).read_bytes()
    assert torch.equal(checkpoint.load(store.weights_path(SPEC.key))[0]["w"], torch.arange(4.0))


def test_an_empty_shelf_has_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert take(tmp_path / "second") is None
    assert not caplog.records and not (tmp_path / "second").exists()


def test_another_key_is_another_teacher(shared: TrialRecord, tmp_path: Path) -> None:
    assert take(tmp_path / "second", replace(SPEC, seed=4)) is None


@pytest.mark.parametrize("kind", ["data_hash", "test_hash"])
def test_other_data_are_not_served(
    shared: TrialRecord, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert take(tmp_path / "second", **{kind: "f" * 64}) is None
    assert f"is trained again: it was made with other data ({kind}" in caplog.text


def flip_a_byte(folder: Path) -> None:
    path = folder / f"{SPEC.key}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change(**values: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / f"{SPEC.key}.json"
        facts = json.loads(path.read_text())
        facts["record"].update(values)
        path.write_text(json.dumps(facts))

    return apply


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte, "its weights do not fit their checksum"),
        (change(protocol=99), r"its record cannot be used \(made under protocol 99"),
        (change(key="0" * 16), r"its record cannot be used \(the key is 0000"),
        (change(status="failed"), "a teacher training that is failed"),
        (lambda folder: (folder / f"{SPEC.key}.json").write_text("{"), "json is damaged"),
        (lambda folder: (folder / f"{SPEC.key}.json").write_text("[]"), "json holds no mapping"),
        (lambda folder: (folder / f"{SPEC.key}.json").write_text("{}"), "its record cannot be used"),
    ],
)
def test_what_is_damaged_is_trained_again_and_then_replaced(
    shared: TrialRecord, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], Any], reason: str,
) -> None:  # fmt: skip
    damage(cache)
    assert take(tmp_path / "second") is None
    assert re.search(reason, caplog.text), caplog.text
    assert not Store(tmp_path / "second").weights_path(SPEC.key).exists()
    assert shelf.put(*trained(tmp_path / "second"))
    assert take(tmp_path / "third") is not None


def test_weights_that_are_missing_count_as_nothing(shared: TrialRecord, cache: Path, tmp_path: Path) -> None:
    (cache / f"{SPEC.key}.safetensors").unlink()
    assert take(tmp_path / "second") is None


def test_what_was_distilled_from_other_weights_is_not_served(shared: TrialRecord, tmp_path: Path) -> None:
    assistant = replace(SPEC, method={"name": "kd"}, teacher=SPEC.key)
    first = Store(tmp_path / "first")
    facts = {**FACTS, "teacher_hash": file_hash(first.weights_path(SPEC.key))}
    assert shelf.put(*trained(tmp_path / "first", assistant, environment=facts))
    assert take(tmp_path / "second", assistant) is None, "the teacher itself is not there"
    assert take(tmp_path / "second") is not None
    assert take(tmp_path / "second", assistant) is not None
    other = Store(tmp_path / "third")
    checkpoint.save(other.weights_path(SPEC.key), {"w": torch.ones(4)}, {})
    assert take(tmp_path / "third", assistant) is None


def test_a_sound_one_is_not_replaced(shared: TrialRecord, tmp_path: Path) -> None:
    assert shelf.put(*trained(tmp_path / "second", wall_s=1.0))
    taken = take(tmp_path / "third")
    assert taken is not None and taken.wall_s == 7.5


@pytest.mark.parametrize(
    "changes", [{"status": "failed"}, {"spec": replace(SPEC, phase="search")},
                {"spec": replace(SPEC, method={"name": "checkpoint", "sha256": "0"})}],
)  # fmt: skip
def test_only_trained_teachers_and_sources_are_shared(changes: dict[str, Any], cache: Path, tmp_path: Path) -> None:
    store, record = trained(tmp_path / "first")
    assert not shelf.put(store, replace(record, **changes))
    assert not cache.exists()


def test_off_shares_nothing(shared: TrialRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", "off")
    assert shelf.shelf_folder() is None and take(tmp_path / "second") is None and shelf.list_shelf() == []
    assert not shelf.put(*trained(tmp_path / "second"))


def test_a_folder_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "file"))
    assert not shelf.put(*trained(tmp_path / "first"))
    assert "is not shared with other studies" in caplog.text


def test_the_shelf_is_listed_and_cleared(shared: TrialRecord, cache: Path) -> None:
    (cache / "0123456789abcdef.json").write_text("{")
    damaged, sound = shelf.list_shelf()
    assert (damaged.key, damaged.state) == ("0123456789abcdef", "0123456789abcdef.json is damaged")
    assert (sound.state, sound.what) == ("sound", "teacher cnn5 on digits, 93.75 %")
    output = CliRunner().invoke(app, ["cache"], catch_exceptions=False).output
    assert f"{SPEC.key}: sound, teacher cnn5 on digits, 93.75 %" in output
    assert "removed " in CliRunner().invoke(app, ["cache", "--clear"], catch_exceptions=False).output
    assert shelf.list_shelf() == [] and list(cache.iterdir()) == []
