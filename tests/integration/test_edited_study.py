"""A study file that is edited between runs: what was added runs, and what would mix unlike trainings is refused."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from small import facts, kdbench_cli

from kdbench.cli import main
from kdbench.errors import StudyError

STUDY = """
study: small
data: {name: digits, validation: 100, train: 100}
teacher: {model: cnn, depth: 5, width: 0.25}
student: {model: cnn, depth: 5, width: [0.125, 0.25]}
methods:
  scratch:
  kd: {temperature: {low: 1, high: 10}}
search: {trials: 1, repeats: 1, sampler: random}
final: {seeds: 1}
train: {epochs: 1, batch_size: 50, lr: 0.05}
resources: {executor: local, cpus_per_teacher: 1}
track: {mlflow: "off"}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the study has been run to its last seed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(STUDY)
    result = kdbench_cli(
        "run", folder / "small.yaml", "--results", folder / "results", "--until", "final", "--no-report"
    )
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The same, to be edited."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def run(copy: Path, *arguments: object, until: str = "final") -> str:
    """Run it again, and return what was said."""
    result = kdbench_cli(
        "run", copy / "small.yaml", "--results", copy / "results", "--until", until, "--no-report", *arguments
    )
    assert result.exit_code == 0, result.output
    return result.output


def files(copy: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file of the results, but for the lock."""
    found = (path for path in (copy / "results").rglob("*") if path.is_file() and path.name != "lock")
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def records(copy: Path) -> dict[str, int]:
    return {path.stem: path.stat().st_mtime_ns for path in (copy / "results/small/records").glob("*.json")}


def added(copy: Path, before: dict[str, int]) -> list[tuple[str, str]]:
    """Phase and method of the trainings that are new; all others have to be untouched."""
    now = records(copy)
    assert {key: made for key, made in now.items() if key in before} == before
    specs = [record["spec"] for key, record in facts(copy / "results/small").items() if key not in before]
    return sorted((spec["phase"], spec["method"]["name"]) for spec in specs)


def test_an_added_method_is_the_only_one_that_runs(copy: Path) -> None:
    before = records(copy)
    said = run(copy, "--set", "methods.label_smoothing={}")
    assert added(copy, before) == [("final", "label_smoothing"), ("search", "label_smoothing")]
    assert "Edited since the last run: methods.label_smoothing added." in said


def test_an_added_seed_runs_for_every_method(copy: Path) -> None:
    before = records(copy)
    said = run(copy, "--set", "final.seeds=2")
    assert added(copy, before) == [("final", "kd"), ("final", "scratch")]
    assert "Edited since the last run: final.seeds: 1 -> 2." in said


def test_a_longer_search_keeps_its_first_trials(copy: Path) -> None:
    before = records(copy)
    run(copy, "--set", "search.trials=2", "--set", "search.repeats=2", until="search")
    assert added(copy, before) == [("search", "kd")] * 3 + [("search", "scratch")] * 3


def test_other_resources_and_another_question_train_nothing(copy: Path) -> None:
    before = records(copy)
    said = run(copy, "--set", "question=Why?", "--set", "pareto.reference={top1_pct: 5}", "--set",
               "resources.max_retries=1")  # fmt: skip
    assert added(copy, before) == []
    assert "max_retries: 2 -> 1" in said


def test_a_method_that_was_taken_out_keeps_its_records_and_may_come_back(copy: Path) -> None:
    before = records(copy)
    assert "methods.kd removed: its records are kept, and left out" in run(copy, "--set", "methods={scratch: }")
    assert added(copy, before) == []
    assert "methods.kd added" in run(copy)
    assert added(copy, before) == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epochs=2", "train.epochs: 1 -> 2. 5 finished trainings of 'small' hang on the old value."),
        ("data.train=150", "data.train: 100 -> 150. 5 finished trainings of 'small' hang on the old value."),
        ("teacher.seed=3", "teacher.seed: 0 -> 3. 3 finished trainings of 'small' hang on the old value."),
        ("methods.kd.temperature=3",
         "methods.kd.temperature: {low: 1, high: 10} -> 3. 2 finished trainings of 'small' hang on the old value."),
        ("search.objectives=[val_nll]",
         "search.objectives: [val_top1_pct, params] -> [val_nll]. 4 finished trainings of 'small' hang on the old"),
    ],
)  # fmt: skip
def test_a_change_that_would_mix_trainings_is_refused_and_touches_nothing(copy: Path, override: str, said: str) -> None:
    before = files(copy)
    with pytest.raises(StudyError) as raised:
        run(copy, "--set", override)
    change, advice = raised.value.problems
    assert change.startswith(f"--set '{override}': {said}")
    assert advice.endswith("begin new ones by another name, study: small-2")
    assert files(copy) == before
    run(copy)  # and the study as it was goes on


def test_an_edit_of_the_file_is_named_by_its_line_with_exit_status_2(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = copy / "small.yaml"
    file.write_text(STUDY.replace("lr: 0.05", "lr: 0.1"))
    monkeypatch.setattr(sys, "argv", ["kdbench", "run", str(file), "--results", str(copy / "results")])
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 2
    line = 1 + next(n for n, text in enumerate(STUDY.splitlines()) if text.startswith("train:"))
    assert f"{file}:{line}:40: train.lr: 0.05 -> 0.1. 5 finished trainings" in capsys.readouterr().err


def test_the_name_that_is_proposed_keeps_the_old_results(copy: Path) -> None:
    before = files(copy)
    run(copy, "--set", "train.epochs=2", "--set", "study=small-2", until="teachers")
    assert {path: content for path, content in files(copy).items() if path in before} == before
    assert len(list((copy / "results/small-2/records").glob("*.json"))) == 1


def test_a_plan_says_that_the_run_would_be_refused(copy: Path) -> None:
    plan = kdbench_cli(
        "plan", copy / "small.yaml", "--results", copy / "results", "--no-probe", "--set", "train.epochs=2"
    )
    assert plan.exit_code == 0
    assert "`kdbench run` would refuse this:\n--set 'train.epochs=2': train.epochs: 1 -> 2." in plan.stderr


def test_a_study_json_that_cannot_be_read_is_said_and_written_anew(copy: Path) -> None:
    before = records(copy)
    (copy / "results/small/study.json").write_text('{"study": "small", "da')
    assert "Which fields of the study were edited cannot be told" in run(copy)
    assert added(copy, before) == []
    assert "Edited" not in run(copy)
