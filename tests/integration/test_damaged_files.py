"""Truncated files and flipped bits: found by a checksum, set aside with a message, made again, with equal results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small import facts, kdbench_cli, write_study

from kdbench.errors import RecordError
from kdbench.record import TrialRecord, TrialSpec, with_checksum
from kdbench.store import parse_record

SHORT = [
    "--set", "source=null", "--set", "methods={scratch: {}, kd: {}}", "--set", "train.epochs=1", "--set",
    "final.seeds=1",
]  # fmt: skip

RECORD = TrialRecord(
    spec=TrialSpec("search", {"name": "digits"}, {"name": "cnn"}, {"name": "kd"}, {"epochs": 2}, 7, slot={"trial": 1}),
    status="finished",
    result={"val_top1_pct": 91.5},
    curves={"train_loss": [1.0, 0.5]},
    environment={"git": {"commit": None}},
    attempts=1,
    started="2026-01-01T00:00:00.000+00:00",
    ended="2026-01-01T00:00:01.000+00:00",
    wall_s=1.0,
)


def flip(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_any_flipped_bit_of_a_record_is_found() -> None:
    content = json.dumps(with_checksum(RECORD.to_json()), indent=1).encode()
    assert parse_record(content) == RECORD
    for bit in range(8 * len(content)):
        with pytest.raises((ValueError, RecordError)):
            parse_record(flip(content, bit))


def test_a_record_without_a_checksum_is_read_and_one_with_it_keeps_its_key() -> None:
    plain, checked = RECORD.to_json(), with_checksum(RECORD.to_json())
    assert parse_record(json.dumps(plain)) == parse_record(json.dumps(checked)) == RECORD
    assert checked["key"] == plain["key"] and with_checksum(checked) == checked


def test_a_number_that_still_is_one_does_not_pass() -> None:
    text = json.dumps(with_checksum(RECORD.to_json())).replace("91.5", "95.5")
    with pytest.raises(RecordError, match="the content does not fit its checksum"):
        parse_record(text)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    result = kdbench_cli("run", write_study(folder), "--results", folder / "results", *SHORT)
    assert result.exit_code == 0, result.output
    return folder


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_in_the_middle(path: Path) -> None:
    path.write_bytes(flip(path.read_bytes(), 8 * (path.stat().st_size * 3 // 4)))


@pytest.mark.parametrize("damage", [truncate, flip_in_the_middle])
def test_a_record_and_the_teacher_that_it_needs_are_made_again(
    damage: Callable[[Path], None], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    folder = tmp_path / "copy/results/small"
    before = facts(folder)
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "another"))  # the shelf of teachers has the weights too
    student = next(k for k, r in before.items() if r["spec"]["phase"] == "final" and r["spec"]["teacher"])
    teacher = folder / "weights" / f"{before[student]['spec']['teacher']}.safetensors"
    whole = teacher.read_bytes()
    for path in (folder / f"records/{student}.json", teacher):
        damage(path)
    result = kdbench_cli("run", tmp_path / "copy/small.yaml", "--results", tmp_path / "copy/results", *SHORT)
    assert result.exit_code == 0, result.output
    assert result.output.count("Set aside as") == 2, result.output
    assert facts(folder) == before
    assert teacher.read_bytes() == whole
    for kind, name in (("records", f"{student}.json"), ("weights", teacher.name)):
        assert [path.name for path in (folder / kind / "quarantine").iterdir()] == [name]
