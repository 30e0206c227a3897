"""`kdbench run` as a person uses it, on a study that takes seconds, without Ray."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import facts, kdbench_cli, start, write_study

import kdbench
from kdbench.errors import KdbenchError


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the small study has been run to its end."""
    folder = tmp_path_factory.mktemp("finished")
    result = kdbench_cli("run", write_study(folder), "--results", folder / "results")
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def records(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "results/small/records").glob("*.json")}


def test_a_run_leaves_records_tables_and_figures(finished: Path) -> None:
    folder = finished / "results/small"
    names = {path.name for path in folder.iterdir()}
    assert {"study.json", "study.yaml", "splits.json", "leaderboard.csv", "leaderboard.md", "leaderboard.tex"} <= names
    assert {"leaderboard.html", "fairness.csv", "pareto.png", "pareto.svg"} <= names
    phases = [record["spec"]["phase"] for record in facts(folder).values()]
    assert {phase: phases.count(phase) for phase in set(phases)} == {
        "teacher": 1, "source": phases.count("source"), "search": 6, "final": 6,
    }  # fmt: skip
    assert 1 <= phases.count("source") <= 2


def test_every_method_has_its_trials_and_the_default_first(finished: Path) -> None:
    searched = [r["spec"] for r in facts(finished / "results/small").values() if r["spec"]["phase"] == "search"]
    for method in ("scratch", "kd", "finetune"):
        assert sorted(spec["slot"]["trial"] for spec in searched if spec["method"]["name"] == method) == [0, 1]
    first = next(s for s in searched if s["method"]["name"] == "kd" and s["slot"]["trial"] == 0)
    assert (first["method"]["temperature"], first["method"]["lambda"]) == (4.0, 0.9)


def test_search_trials_have_no_test_result_and_finals_have_one(finished: Path) -> None:
    for record in facts(finished / "results/small").values():
        has_test = any(name.startswith("test_") for name in record["result"])
        assert has_test == (record["spec"]["phase"] in ("teacher", "final"))


def test_the_table_has_a_row_for_each_method_and_for_the_teacher(finished: Path) -> None:
    rows = list(csv.DictReader((finished / "results/small/leaderboard.csv").open()))
    assert {row["method"] for row in rows} == {"teacher", "scratch", "kd", "finetune"}


def test_a_second_run_trains_nothing(copy: Path) -> None:
    before = records(copy)
    result = kdbench_cli("run", copy / "small.yaml", "--results", copy / "results")
    assert result.exit_code == 0
    assert records(copy) == before
    assert "search kd" not in result.output


def without_times(page: Path) -> str:
    """A page without wall times and dates, which are those of one training and not of another."""
    return re.sub(r"\b\d+ s\b|\b20\d\d-\d\d-\d\d\b", "", page.read_text())


def test_a_deleted_record_is_the_only_one_that_is_made_again_and_equal(copy: Path) -> None:
    folder = copy / "results/small"
    before, times = facts(folder), records(copy)
    victim = next(key for key, record in before.items() if record["spec"]["phase"] == "search")
    (folder / "records" / f"{victim}.json").unlink()
    table = without_times(folder / "leaderboard.md")
    (folder / "leaderboard.md").unlink()
    assert kdbench_cli("run", copy / "small.yaml", "--results", copy / "results", "--no-report").exit_code == 0
    assert not (folder / "leaderboard.md").exists()
    assert kdbench_cli("report", folder).exit_code == 0
    assert without_times(folder / "leaderboard.md") == table
    assert facts(folder) == before
    assert {name for name, made in records(copy).items() if times.get(name) != made} == {f"{victim}.json"}


def test_a_damaged_record_is_set_aside_and_made_again(copy: Path) -> None:
    folder = copy / "results/small"
    before = facts(folder)
    victim = folder / "records" / f"{next(iter(before))}.json"
    victim.write_text(victim.read_text()[:100])
    result = kdbench_cli("run", copy / "small.yaml", "--results", copy / "results", "--no-report")
    assert result.exit_code == 0
    assert "Set aside as" in result.output
    assert facts(folder) == before


def test_more_seeds_train_only_the_new_ones(copy: Path) -> None:
    before = records(copy)
    result = kdbench_cli(
        "run", copy / "small.yaml", "--results", copy / "results", "--no-report", "--set", "final.seeds=3"
    )
    assert result.exit_code == 0
    added = set(records(copy)) - set(before)
    assert len(added) == 3
    assert {name: made for name, made in records(copy).items() if name in before} == before


def test_a_set_option_reaches_the_training(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    result = kdbench_cli(
        "run", study, "--results", tmp_path, "--until", "search", "--no-report", "--set", "train.epochs=1", "--set",
        "methods={kd: {temperature: 7}}", "--set", "search.trials=1", "--set", "source=null",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (record,) = [r for r in facts(tmp_path / "small").values() if r["spec"]["phase"] == "search"]
    assert record["spec"]["method"]["temperature"] == 7.0
    assert record["result"]["epochs"] == 1


def test_json_output_is_one_event_a_line(tmp_path: Path) -> None:
    result = kdbench_cli(
        "run", write_study(tmp_path), "--results", tmp_path, "--until", "teachers", "--json", "--no-report"
    )
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["started", "epoch", "epoch", "ended"]
    assert events[-1]["status"] == "finished"


def test_a_budget_that_is_spent_leaves_an_honest_partial_report(tmp_path: Path) -> None:
    result = kdbench_cli("run", write_study(tmp_path, trials="60"), "--results", tmp_path, "--budget", "6s")
    assert result.exit_code == 0, result.output
    searched = [
        r["spec"]["method"]["name"] for r in facts(tmp_path / "small").values() if r["spec"]["phase"] == "search"
    ]
    counts = {method: searched.count(method) for method in ("scratch", "kd", "finetune")}
    assert 0 < max(counts.values()) < 60
    assert max(counts.values()) - min(counts.values()) <= 1
    assert "PARTIAL" in (tmp_path / "small/leaderboard.md").read_text()


@pytest.mark.parametrize("text", ["0m", "soon", "-3s", ""])
def test_a_budget_that_is_no_duration_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(KdbenchError, match="a duration above zero such as 90s, 20m or"):
        kdbench_cli("run", write_study(tmp_path), "--results", tmp_path, "--budget", text)


def test_status_and_plan_and_report_read_what_is_there(copy: Path) -> None:
    folder = copy / "results/small"
    status = json.loads(kdbench_cli("status", folder, "--json").stdout)
    assert status["finished"] and status["to_go"] == 0 and set(status["best_val_top1_pct"]) == {
        "scratch", "kd", "finetune",
    }  # fmt: skip
    table = (folder / "leaderboard.csv").read_bytes()
    (folder / "leaderboard.csv").unlink()
    assert kdbench_cli("report", folder).exit_code == 0
    assert (folder / "leaderboard.csv").read_bytes() == table
    plan = kdbench_cli("plan", copy / "small.yaml", "--results", copy / "results", "--no-probe").output
    assert "0 trainings to go" in plan


def test_plan_lists_what_would_run_and_how_long_it_takes(tmp_path: Path) -> None:
    plan = json.loads(kdbench_cli("plan", write_study(tmp_path), "--results", tmp_path, "--json").stdout)
    assert plan["counts"] == {"teacher": 1, "source": 2, "search": 6, "final": 6}
    assert all(seconds > 0 for seconds in plan["seconds_on_one_worker"].values())
    assert [spec["phase"] for spec in plan["known_trainings"]] == ["teacher", "source", "source", *["search"] * 3]
    assert not (tmp_path / "small").exists()


def test_ctrl_c_says_how_to_go_on_and_the_next_run_does(tmp_path: Path) -> None:
    study, longer = write_study(tmp_path), ["--set", "train.epochs=30"]
    assert kdbench_cli("run", study, "--results", tmp_path / "undisturbed", "--no-report", *longer).exit_code == 0
    run = start("run", str(study), "--results", str(tmp_path), *longer, cwd=tmp_path)
    wait_for_records(tmp_path / "small", 2)
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 130, output
    assert "Run the same command again to go on." in output
    assert "Traceback" not in output
    assert kdbench_cli("run", study, "--results", tmp_path, "--no-report", *longer).exit_code == 0
    assert facts(tmp_path / "small") == facts(tmp_path / "undisturbed/small")


def test_a_failed_teacher_is_said_and_can_be_mended(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    result = kdbench_cli("run", study, "--results", tmp_path, "--set", "teacher.time_limit_s=0.000001")
    assert result.exit_code == 1
    assert "The teacher has status 'timed_out'" in result.output
    statuses = {r["spec"]["method"]["name"]: r["status"] for r in facts(tmp_path / "small").values()}
    assert statuses["kd"] == "failed" and statuses["finetune"] == "finished"
    assert kdbench_cli("run", study, "--results", tmp_path).exit_code == 0
    table = (tmp_path / "small/leaderboard.md").read_text()
    assert "| kd |" in table


def test_lost_trainings_are_done_again(copy: Path) -> None:
    folder = copy / "results/small"
    before = facts(folder)
    victim = next(key for key, record in before.items() if record["spec"]["phase"] == "final")
    path = folder / "records" / f"{victim}.json"
    record = json.loads(path.read_text())
    record.pop("checksum", None)  # as older records have none
    path.write_text(json.dumps({**record, "status": "lost", "result": {}, "curves": {}, "error": "MemoryError"}))
    assert kdbench_cli("run", copy / "small.yaml", "--results", copy / "results", "--no-report").exit_code == 0
    assert facts(folder) == before


def test_data_that_changed_are_refused(copy: Path) -> None:
    path = next((copy / "results/small/records").glob("*.json"))
    record = json.loads(path.read_text())
    record.pop("checksum", None)  # as older records have none
    record["environment"]["data_hash"] = "0" * 64
    path.write_text(json.dumps(record))
    with pytest.raises(KdbenchError, match="the images or labels changed"):
        kdbench_cli("run", copy / "small.yaml", "--results", copy / "results")


def test_more_than_the_machine_has_is_refused(tmp_path: Path) -> None:
    study = write_study(tmp_path, executor="ray")
    with pytest.raises(KdbenchError, match="a training asks for 4096 CPU cores"):
        kdbench_cli("run", study, "--results", tmp_path, "--set", "resources.cpus_per_trial=4096")


def wait_for_records(folder: Path, count: int, seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while len(list((folder / "records").glob("*.json"))) < count:
        assert time.monotonic() < limit, "no records"
        time.sleep(0.02)


def test_a_study_that_is_running_is_not_run_twice(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    run = start("run", str(study), "--results", str(tmp_path), cwd=tmp_path)
    try:
        wait_for_records(tmp_path / "small", 1)
        second = start("run", str(study), "--results", str(tmp_path), cwd=tmp_path)
        output, _ = second.communicate(timeout=60)
        assert second.returncode == 2
        assert f"is being run by process {run.pid} on " in output
    finally:
        run.kill()
        run.wait()


METHOD = '''
"""A method that a test adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbench import losses
from kdbench.method import Method, Step, hp, register

if TYPE_CHECKING:
    from torch import Tensor


@register("added")
@dataclass(frozen=True)
class Added(Method):
    """Cross entropy times a weight."""

    weight: float = hp(1.0, low=0.5, high=2.0)

    def loss(self, s: Step) -> dict[str, Tensor]:
        return {"ce": self.weight * losses.kl.cross_entropy(s.student.logits, s.labels)}
'''


def test_a_new_method_is_one_new_file(tmp_path: Path) -> None:
    package = tmp_path / "kdbench"
    shutil.copytree(Path(kdbench.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "methods" / "added.py").write_text(METHOD)
    study = write_study(tmp_path)
    study.write_text(study.read_text().replace("  kd:\n", "  added:\n"))

    def run(*arguments: str) -> str:
        process = start(*arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path))
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        return output

    assert "added: Cross entropy times a weight." in run("methods")
    assert "added" in json.loads(run("schema"))["properties"]["methods"]["properties"]
    run("run", str(study), "--results", str(tmp_path))
    searched = [r["spec"]["method"] for r in facts(tmp_path / "small").values() if r["spec"]["phase"] == "search"]
    assert len({method["weight"] for method in searched if method["name"] == "added"}) == 2
    assert "| added |" in (tmp_path / "small/leaderboard.md").read_text().replace("  ", " ")


def test_view_caches_are_listed_verified_and_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "views"))
    study = write_study(tmp_path)
    assert kdbench_cli("run", study, "--results", tmp_path, "--until", "search").exit_code == 0
    # 200 images of 9 views, of which two epochs of two trials have seen some
    listed = kdbench_cli("cache", "--verify").output
    assert listed.count("% of 1800 entries filled") == 2 and listed.count("0 damaged entries") == 2
    assert kdbench_cli("cache", "--clear").exit_code == 0
    assert [path for path in (tmp_path / "views").rglob("*") if path.is_file()] == []


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from kdbench.cli import app
sys.argv = ["kdbench", "--help"]
try:
    app()
except SystemExit:
    print([name for name in ("torch", "ray", "mlflow", "optuna", "pandas", "numpy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["status", "report", "show"])
def test_what_reads_results_imports_no_torch(command: str, copy: Path) -> None:
    code = f"""
import sys
from kdbench.cli import app
sys.argv = ["kdbench", "{command}", "{copy}/results/small"]
try:
    app()
except SystemExit as end:
    print(end.code, [name for name in ("torch", "ray", "mlflow") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
