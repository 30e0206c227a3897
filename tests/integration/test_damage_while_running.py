"""Files that are damaged while a run has them, and trainings that wait for a network that the machine lost."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import facts, kdbench_cli, write_study

from kdbench import session
from kdbench.record import TrialRecord, TrialSpec
from kdbench.search.drive import Desk
from kdbench.session import read_only, without_lost
from kdbench.store import Store
from kdbench.train import checkpoint
from kdbench.train.sound import SoundWeights
from kdbench.train.workshop import Workshop

SHORT = [
    "--set", "source=null", "--set", "methods={scratch: {}, kd: {}}", "--set", "train.epochs=1", "--set",
    "final.seeds=1",
]  # fmt: skip


def test_a_record_that_is_damaged_while_the_study_runs_is_filed_again_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: dict[str, bytes] = {}

    def damage(store: Store, agenda: Any) -> None:
        path = min(store.records_folder.glob("*.json"))
        before[path.name] = path.read_bytes()
        path.write_bytes(before[path.name][:100])

    with monkeypatch.context() as patch:
        patch.setattr(session, "share_teachers", damage)
        result = kdbench_cli("run", write_study(tmp_path), "--results", tmp_path, "--no-report", *SHORT)
    assert result.exit_code == 0, result.output
    ((name, content),) = before.items()
    said = " ".join(result.output.split())
    assert "what this run remembers of it is filed again" in said and "is done again" not in said
    assert (tmp_path / "small/records" / name).read_bytes() == content
    assert (tmp_path / "small/records/quarantine" / name).read_bytes() == content[:100]
    after = facts(tmp_path / "small")
    again = kdbench_cli("run", tmp_path / "small.yaml", "--results", tmp_path, "--no-report", *SHORT, "--json")
    assert again.exit_code == 0 and '"started"' not in again.output
    assert facts(tmp_path / "small") == after


def test_a_record_names_the_weights_that_were_loaded_and_not_what_became_of_the_file(tmp_path: Path) -> None:
    store, spec = Store(tmp_path), specs()["teacher"]
    path = store.weights_path(spec.key)
    checkpoint.save(path, {"weight": torch.arange(4.0)}, {})
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    shop = Workshop(store, torch.device("cpu"))
    assert shop.weights_hash(spec) == sha256
    shop.weights(spec, "teacher")
    path.write_bytes(path.read_bytes()[:-1])
    assert shop.weights_hash(spec) == sha256
    assert Workshop(store, torch.device("cpu")).weights_hash(spec) != sha256


def specs() -> dict[str, TrialSpec]:
    """A teacher, an assistant that learns from it, and students of both."""
    plain = TrialSpec("teacher", {"name": "digits"}, {"name": "cnn"}, {"name": "scratch"}, {"epochs": 2}, 7)
    assistant = replace(plain, seed=8, teacher=plain.key)
    student = replace(plain, phase="search", seed=9, slot={"pair": "", "trial": 0})
    return {
        "teacher": plain,
        "assistant": assistant,
        "student": replace(student, teacher=assistant.key),
        "alone": student,
        "own": replace(student, teacher=plain.key, seed=10),
    }


def record(spec: TrialSpec, status: Any) -> TrialRecord:
    moment = "2026-01-01T00:00:00.000+00:00"
    return TrialRecord(spec, status, {}, {}, {}, 1, moment, moment, 1.0, None if status == "finished" else "why")


@pytest.mark.parametrize(
    ("statuses", "standing"),
    [
        ({"teacher": "lost", "assistant": "failed", "student": "failed", "own": "failed"}, {"alone"}),
        ({"assistant": "lost", "student": "failed", "own": "failed"}, {"teacher", "alone", "own"}),
        ({"teacher": "failed", "assistant": "failed", "student": "failed"}, {*specs()}),
        ({"teacher": "lost", "own": "diverged"}, {"assistant", "student", "alone", "own"}),
    ],
)
def test_what_failed_for_want_of_a_network_that_was_lost_is_done_again_with_it(
    statuses: dict[str, str], standing: set[str]
) -> None:
    records = {spec.key: record(spec, statuses.get(name, "finished")) for name, spec in specs().items()}
    kept = without_lost(records)
    assert {name for name, spec in specs().items() if spec.key in kept} == standing


def test_weights_that_are_damaged_while_others_need_them_are_made_again_in_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ["--set", "methods={finetune: {}}", *SHORT[4:]]
    other = tmp_path / "other"
    other.mkdir()
    assert kdbench_cli("run", write_study(other), "--results", other, "--no-report", *rows).exit_code == 0
    undisturbed = facts(other / "small")
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "another"))  # the shelf has the weights too
    struck: list[tuple[Path, bytes]] = []
    ended = Desk.ended

    def damage(self: Desk, record: TrialRecord) -> None:
        ended(self, record)
        if record.spec.phase == "search" and not struck:
            path = self.store.weights_path(str(record.spec.init))
            struck.append((path, path.read_bytes()))
            path.write_bytes(struck[0][1][:-1])

    monkeypatch.setattr(Desk, "ended", damage)
    result = kdbench_cli("run", write_study(tmp_path), "--results", tmp_path, "--no-report", *rows)
    assert result.exit_code == 0, result.output
    ((path, whole),) = struck
    assert facts(tmp_path / "small") == undisturbed
    assert path.read_bytes() == whole
    assert (path.parent / "quarantine" / path.name).read_bytes() == whole[:-1]
    assert result.output.count("the network is trained again") == 1
    reasons = [r.environment["retries"] for r in read_only(tmp_path / "small").values() if "retries" in r.environment]
    assert len(reasons) == 1 and "cannot be read as a checkpoint" in reasons[0][0]


def test_weights_are_condemned_once_and_stay_until_they_are_made_again(tmp_path: Path) -> None:
    said: list[str] = []
    store, key = Store(tmp_path), "0123456789abcdef"
    sound, path = SoundWeights(store, said.append), store.weights_path(key)
    assert not sound(key) and not sound.damaged(key)
    checkpoint.save(path, {"weight": torch.arange(4.0)}, {})
    assert sound(key) and not sound.damaged(key) and said == []
    path.write_bytes(path.read_bytes()[:-1])
    assert sound(key), "every file is looked at once"
    assert sound.damaged(key) and sound.damaged(key) and not sound(key)
    assert path.exists() and len(said) == 1
    checkpoint.save(path, {"weight": torch.arange(4.0)}, {})
    assert not sound.damaged(key) and sound(key)
