"""The small study on a real Ray cluster of this machine: killed, interrupted, and equal to a run without Ray."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from small import facts, start, write_study

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def run(study: Path, results: Path) -> str:
    """Run the study to its end; returns what it printed."""
    process = start("run", str(study), "--results", str(results), "--no-report", cwd=results)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def wait_for_records(folder: Path, count: int, seconds: float = 240) -> None:
    limit = time.monotonic() + seconds
    while len(list((folder / "records").glob("*.json"))) < count:
        assert time.monotonic() < limit, "no records"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the study, run without Ray and without interruption."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run(write_study(folder), folder)
    return folder / "small"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_stopped_goes_on_and_ends_as_if_it_had_not_been(
    how: signal.Signals, tmp_path: Path, undisturbed: Path
) -> None:
    study = write_study(tmp_path, executor="ray")
    process = start("run", str(study), "--results", str(tmp_path), "--no-report", cwd=tmp_path)
    family, names = [], {}
    try:
        wait_for_records(tmp_path / "small", 4)
        family = psutil.Process(process.pid).children(recursive=True)
        names = {child: " ".join(child.cmdline()) for child in family}
        os.kill(process.pid, how)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    if how == signal.SIGINT:
        assert process.returncode == 130, output
        assert "Run the same command again to go on." in output
    # Ray's agents live on for a minute, which harms nobody
    _, alive = psutil.wait_procs([child for child in family if "Agent" not in names[child]], timeout=60)
    assert not alive, "workers notice within seconds that their driver is gone"
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "small/records").glob("*.json")}
    assert 4 <= len(before) < len(facts(undisturbed))
    run(study, tmp_path)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "small/records").glob("*.json")}
    assert {name: after[name] for name in before} == before, "a finished training ran twice"
    assert facts(tmp_path / "small") == facts(undisturbed)


def test_a_worker_that_is_killed_is_replaced_and_its_training_goes_on(tmp_path: Path, undisturbed: Path) -> None:
    study = write_study(tmp_path, executor="ray")
    process = start("run", str(study), "--results", str(tmp_path), "--no-report", cwd=tmp_path)
    try:
        wait_for_records(tmp_path / "small", 2)
        workers = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if " ".join(child.cmdline()).startswith("ray::ResourceTrainable")
        ]
        assert workers, "no worker is running"
        workers[0].kill()
        output, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert facts(tmp_path / "small") == facts(undisturbed)
