"""`kdbench run` on a study with a section `evaluation`, on digits, without Ray."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from small import kdbench_cli

from kdbench.report.evaluations import evaluations
from kdbench.report.load import load
from kdbench.session import study_status

STUDY = """
study: evaluated
data: {name: digits, validation: 100, train: 200}
teacher: {model: cnn, depth: 5, width: 0.5, epochs: 2}
student: {model: cnn, depth: 5, width: 0.25}
methods: {scratch: , kd: , simkd: }
search: {trials: 1, repeats: 1}
final: {select: best, seeds: 2}
EVALUATION
train: {epochs: 2, batch_size: 50, lr: 0.05}
pareto: {reference: {top1_pct: 5, params: 1.0e5}}
resources: {executor: local, cpus_per_teacher: 1}
track: {mlflow: "off"}
"""
SECTION = "evaluation: {agreement: true, corruptions: {names: [contrast, shot_noise], severities: [1, 5], images: 50}}"


def write(folder: Path, section: str) -> Path:
    path = folder / "evaluated.yaml"
    path.write_text(STUDY.replace("EVALUATION", section))
    return path


def records(folder: Path) -> dict[str, Any]:
    found = [json.loads(path.read_text()) for path in (folder / "evaluated/records").glob("*.json")]
    return {record["key"]: record for record in found}


def phases(folder: Path) -> dict[str, int]:
    names = [record["spec"]["phase"] for record in records(folder).values()]
    return {name: names.count(name) for name in names}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was run without the section, and then with it: the finals were trained before."""
    folder = tmp_path_factory.mktemp("evaluated")
    for section in ("", SECTION):
        before = records(folder)
        result = kdbench_cli("run", write(folder, section), "--results", folder)
        assert result.exit_code == 0, result.output
        assert {key: found for key, found in records(folder).items() if key in before} == before
    return folder


def test_every_final_is_evaluated_and_nothing_else_is_trained_again(folder: Path) -> None:
    found = phases(folder)
    assert (found["final"], found["evaluation"], found["search"]) == (6, 6, 3)
    current = json.loads((folder / "evaluated/current.json").read_text())
    assert len(current["evaluation"]) == 6
    status = study_status(folder / "evaluated")
    assert status["done"]["evaluation"] == 6 and (status["to_go"], status["finished"]) == (0, True)


def test_agreement_of_rows_that_learn_from_the_teacher_is_what_their_training_measured(folder: Path) -> None:
    results = load(folder / "evaluated")
    found = evaluations(results)
    for final in results.phase("final"):
        measured = found[final.key]
        assert 0 <= measured["test_agreement_pct"] <= 100 and measured["test_agreement_kl_nat"] >= 0
        if final.spec.row != "scratch":
            assert measured["test_agreement_pct"] == final.result["test_agreement_pct"]
        for name in ("contrast", "shot_noise"):
            assert 0 <= measured[f"test_corrupted_{name}_top1_pct"] <= 100


def test_the_report_has_the_exhibits(folder: Path) -> None:
    lines = list(csv.DictReader((folder / "evaluated/robustness.csv").open()))
    assert {line["method"] for line in lines} == {"scratch", "kd", "simkd"}
    assert {line["seeds_evaluated"] for line in lines} == {"2"}
    assert len(list(csv.DictReader((folder / "evaluated/corruptions.csv").open()))) == 3 * 2
    assert len(list(csv.DictReader((folder / "evaluated/fidelity.csv").open()))) == 3


def test_a_deleted_evaluation_is_the_only_one_that_is_made_again_and_equal(folder: Path) -> None:
    before = records(folder)
    victim = next(key for key, record in before.items() if record["spec"]["phase"] == "evaluation")
    (folder / "evaluated/records" / f"{victim}.json").unlink()
    plan = kdbench_cli("plan", folder / "evaluated.yaml", "--results", folder, "--no-probe")
    assert "evaluation: 1" in plan.output
    assert kdbench_cli("run", folder / "evaluated.yaml", "--results", folder).exit_code == 0
    after = records(folder)
    assert {key: record for key, record in after.items() if key != victim} == {
        key: record for key, record in before.items() if key != victim
    }
    assert after[victim]["result"] == before[victim]["result"]


def test_other_settings_are_another_evaluation_of_the_same_students(folder: Path) -> None:
    before = records(folder)
    changed = ("--set", "evaluation.corruptions.severities=[3]", "--set", "final.seeds=1")
    assert kdbench_cli("run", folder / "evaluated.yaml", "--results", folder, *changed).exit_code == 0
    added = [record for key, record in records(folder).items() if key not in before]
    assert [record["spec"]["phase"] for record in added] == ["evaluation"] * 3
    assert len(load(folder / "evaluated").phase("evaluation")) == 3
