"""What may die under a study, for real: Ray's processes, hanging trainings, signals. The records stay the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from small import facts, start, write_study

from kdbench.search.place import family

LONG_ENOUGH = ["--set", "train.epochs=10"]  # for a training to be under way while the next thing dies


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run = start("run", str(write_study(folder)), "--results", str(folder), "--no-report", *LONG_ENOUGH, cwd=folder)
    output, _ = run.communicate(timeout=240)
    assert run.returncode == 0, output
    return folder / "small"


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (folder / "small/records").glob("*.json")]


def wait_for(condition: Any, run: subprocess.Popen[str], seconds: float = 280) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert run.poll() is None and time.monotonic() < limit, run.communicate()[0] if run.poll() is not None else ""
        time.sleep(0.02)


def processes(run: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    """Processes below a run that are called so, or were started with that word."""
    found = []
    for child in psutil.Process(run.pid).children(recursive=True):
        try:
            if child.name() == name or name in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


DRIVER = "kdbench.search.place.driver"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_study_outlives_raylet_gcs_and_the_process_that_talks_to_them(tmp_path: Path, undisturbed: Path) -> None:
    study = write_study(tmp_path, executor="ray")
    run = start("run", str(study), "--results", str(tmp_path), "--no-report", *LONG_ENOUGH, cwd=tmp_path)
    killed: list[psutil.Process] = []
    try:
        for count, name in ((1, "raylet"), (3, "gcs_server"), (5, DRIVER)):
            wait_for(lambda count=count: len(records(tmp_path)) >= count, run)
            (victim,) = [one for one in processes(run, name) if one not in killed]
            victim.kill()
            killed.append(victim)
            # the next one is of another cluster
            wait_for(lambda v=victim, n=name: any(one != v for one in processes(run, n)), run)
        output, _ = run.communicate(timeout=280)
    finally:
        run.kill()
    assert run.returncode == 0, output
    assert output.count("Ray was lost") == 3
    assert "Traceback" not in output
    assert facts(tmp_path / "small") == facts(undisturbed)
    assert Counter(r["status"] for r in records(tmp_path)) == {"finished": len(records(tmp_path))}
    reasons = [why for record in records(tmp_path) for why in record["environment"].get("retries", [])]
    assert reasons and all(why.startswith("Ray was lost") for why in reasons)
    assert list((tmp_path / "small/work").iterdir()) == []


HANGING = '''
"""A method of a test: it never comes back."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass

from kdbench.losses.kl import cross_entropy
from kdbench.method import Method, register


@register("sleeper")
@dataclass(frozen=True)
class Sleeper(Method):
    """Sleep for ever in the second epoch."""

    reads = ()
    frozen = ()

    def loss(self, s):
        if s.progress >= 0.5:
            {how}
            time.sleep(1e6)
        return {{"ce": cross_entropy(s.student.logits, s.labels)}}
'''
DEAF = "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})"
LIMITED = [
    "--set", "source=null", "--set", "methods={sleeper: {}, scratch: {}}", "--set", "train.time_limit_s=20", "--set",
    "search.trials=1", "--set", "final.seeds=1", "--until", "search",
]  # fmt: skip


def run_with_a_hanging_method(
    folder: Path, how: str, executor: str, times: int = 1
) -> tuple[list[int | None], list[dict[str, Any]]]:
    """Run a study whose one method hangs so many times; returns the exit statuses and its search records."""
    plugin = folder / "sleeper.py"
    plugin.write_text(HANGING.format(how=how))
    study, statuses = write_study(folder, executor=executor), []
    for _ in range(times):
        run = start(
            "run", str(study), "--results", str(folder), "--no-report", "--plugin", str(plugin), *LIMITED, cwd=folder,
            KDBENCH_GRACE_S="5",
        )  # fmt: skip
        output, _ = run.communicate(timeout=280)
        statuses.append(run.returncode)
        assert run.returncode in (0, 1), output
    return statuses, [record for record in records(folder) if record["spec"]["phase"] == "search"]


def assert_timed_out(found: list[dict[str, Any]]) -> None:
    statuses = {record["spec"]["method"]["name"]: record["status"] for record in found}
    assert statuses == {"sleeper": "timed_out", "scratch": "finished"}
    (hung,) = [record for record in found if record["status"] == "timed_out"]
    assert "stopped after the limit of 20.0 s and a grace of 5 s, in: File " in hung["error"]
    assert "in loss" in hung["error"]


@pytest.mark.slow
def test_a_training_that_hangs_is_timed_out_and_the_study_goes_on(tmp_path: Path) -> None:
    statuses, found = run_with_a_hanging_method(tmp_path, "", "local")
    assert statuses == [0]
    assert_timed_out(found)
    (hung,) = [record for record in found if record["status"] == "timed_out"]
    assert len(hung["curves"]["val_top1_pct"]) == 1, "of the epoch before"


@pytest.mark.slow
def test_one_that_hangs_outside_of_python_ends_a_local_run_and_the_next_one_files_it(tmp_path: Path) -> None:
    statuses, found = run_with_a_hanging_method(tmp_path, DEAF, "local", times=2)
    assert statuses == [1, 0]
    assert_timed_out(found)


@pytest.mark.slow
@pytest.mark.ray
def test_on_ray_only_its_worker_ends(tmp_path: Path) -> None:
    statuses, found = run_with_a_hanging_method(tmp_path, DEAF, "ray")
    assert statuses == [0]
    assert_timed_out(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("executor", "numbers", "status"),
    [
        ("local", [signal.SIGTERM], 143),
        ("local", [signal.SIGINT, signal.SIGINT], 130),
        pytest.param("ray", [signal.SIGTERM], 143, marks=pytest.mark.ray),
        pytest.param("ray", [signal.SIGINT, signal.SIGINT], 130, marks=pytest.mark.ray),
    ],
)
def test_signals_end_a_run_in_order_and_leave_nothing_behind(
    executor: str, numbers: list[signal.Signals], status: int, tmp_path: Path
) -> None:
    longer = ["--set", "train.epochs=200"]
    study = write_study(tmp_path, executor=executor)
    run = start("run", str(study), "--results", str(tmp_path), *longer, cwd=tmp_path)
    wait_for(lambda: len(records(tmp_path)) >= 2, run)
    family_marks = {child.environ().get(family.MARK) for child in psutil.Process(run.pid).children(recursive=True)} - {
        None
    }
    for number in numbers:
        os.kill(run.pid, number)
        time.sleep(0.05)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == status, output
    assert "Traceback" not in output
    assert "Run the same command again to go on." in output
    assert len(family_marks) == (executor == "ray")
    limit = time.monotonic() + 20
    while any(family.members(str(mark)) for mark in family_marks):
        assert time.monotonic() < limit, "Ray's processes live on"
        time.sleep(0.1)


def test_a_cluster_that_cannot_be_reached_is_said_in_time(tmp_path: Path) -> None:
    study = write_study(tmp_path, executor="ray")
    run = start(
        "run", str(study), "--results", str(tmp_path), "--set", "resources.ray_address=127.0.0.1:9", cwd=tmp_path
    )
    output, _ = run.communicate(timeout=200)
    assert run.returncode == 2, output
    assert "could not be reached at '127.0.0.1:9'" in output and "Traceback" not in output
