"""Search trials that share a stream: the study's records are those of trials that each train alone."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from small import STUDY, facts, kdbench_cli, start

SHARING = (
    STUDY.replace("source: {data: {name: digits, rotate: 90, validation: 100, train: 200}}\n", "")
    .replace("  kd:\n  finetune:\n", "  kd:\n  attention_transfer:\n  fitnet:\n")
    .replace("trials: 2, repeats: 1", "trials: 3, repeats: 1, batch: 2, shared: {lr: [0.01, 0.1]}")
    .replace("seeds: 2", "seeds: 1")
    .replace("train: {epochs: 2", "train: {epochs: 5")
)


def study_in(folder: Path, executor: str = "local") -> Path:
    path = folder / "small.yaml"
    path.write_text(SHARING.replace("executor: local", f"executor: {executor}"))
    return path


def run(folder: Path, students: str, *more: str) -> Path:
    """Run the study in this process; returns where its results are."""
    done = kdbench_cli(
        "run", study_in(folder), "--results", folder, "--no-report",
        "--set", f"resources.students_per_stream={students}", *more,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder / "small"


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (folder / "records").glob("*.json")]


def students(folder: Path) -> dict[str, list[int]]:
    """With how many others each search trial trained, by method."""
    found: dict[str, list[int]] = {}
    for record in records(folder):
        if record["spec"]["phase"] == "search":
            shared = record["environment"].get("stream", {"students": 1})["students"]
            found.setdefault(record["spec"]["method"]["name"], []).append(shared)
    return found


@pytest.fixture(scope="module")
def each_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("alone")
        patch.setenv("KDBENCH_CACHE", str(folder / "cache"))
        return run(folder, "1")


@pytest.mark.slow
def test_records_are_the_same_with_and_without_sharing(tmp_path: Path, each_alone: Path) -> None:
    shared = run(tmp_path, "auto")
    assert facts(shared) == facts(each_alone)
    assert {count for counts in students(each_alone).values() for count in counts} == {1}
    by_method = students(shared)
    assert set(by_method["scratch"] + by_method["kd"]) == {1}  # the one has no teacher, the other has the view cache
    assert set(by_method["attention_transfer"] + by_method["fitnet"]) != {1}
    others = [record for record in records(shared) if record["spec"]["phase"] != "search"]
    assert not any("stream" in record["environment"] for record in others)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_they_are_on_ray_too_where_a_worker_dies(tmp_path: Path, each_alone: Path) -> None:
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})  # one core is one worker, which gets all that may share
    try:
        study = study_in(tmp_path, "ray")
        process = start("run", str(study), "--results", str(tmp_path), "--no-report", cwd=tmp_path)
    finally:
        os.sched_setaffinity(0, mine)
    try:
        wait_for_two_checkpoints(process, tmp_path / "small")
        for child in psutil.Process(process.pid).children(recursive=True):
            if "".join(child.cmdline()[:1]).startswith("ray::ResourceTrainable"):
                child.kill()
        output, _ = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert facts(tmp_path / "small") == facts(each_alone)
    assert set(students(tmp_path / "small")["fitnet"]) > {1}
    retries = [record["environment"].get("retries", []) for record in records(tmp_path / "small")]
    assert sum("the worker process died" in why for whys in retries for why in whys) >= 2
    assert list((tmp_path / "small/work").iterdir()) == []


def wait_for_two_checkpoints(process: Any, folder: Path) -> None:
    """Until two trainings are under way on the one worker that there is."""
    limit = time.monotonic() + 300
    while len(list((folder / "work").glob("*/checkpoint.safetensors"))) < 2:
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.002)
