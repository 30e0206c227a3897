"""What `kdbench doctor` finds: each guard with a machine that it has to complain about."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from kdbench import doctor
from kdbench.cli import app
from kdbench.doctor import machine, packages, services
from kdbench.doctor.finding import Finding
from kdbench.doctor.needs import Needs
from kdbench.doctor.services import Process
from kdbench.store import Store

STUDY = """
study: small
data: {name: digits, validation: 100, train: 100}
student: {model: cnn, depth: 5}
methods: {scratch: }
search: {trials: 1, repeats: 1, objectives: [val_top1_pct]}
train: {epochs: 1, lr: 0.05}
resources: {executor: local}
track: {mlflow: "off"}
"""
GIB = 2**30


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path / "data"))
    for name in ("KDBENCH_PLUGINS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def levels(findings: Any) -> list[str]:
    return [finding.level for finding in findings]


def only(findings: Any) -> Finding:
    (finding,) = findings
    return finding


# packages

ASKED = [Requirement(text) for text in (
    "torch>=2.10", "numpy>=2.0", 'ray[tune]>=2.50; extra == "ray"', 'mlflow!=3.18.0,>=3.10; extra == "mlflow"',
    'kdbench[ray,mlflow]; extra == "all"', 'pytest>=8.3; extra == "dev"',
)]  # fmt: skip


def judge(installed: dict[str, str], *needed: str) -> dict[str, Finding]:
    found = packages.judged(ASKED, installed.get, set(needed))
    return {finding.found: finding for finding in found}


def test_versions_that_fit_are_one_line() -> None:
    found = judge({"torch": "2.15.0+cpu", "numpy": "2.4.6", "ray": "2.60.0", "mlflow": "3.17.2"})
    assert {text: one.level for text, one in found.items()} == {
        "torch 2.15.0+cpu, numpy 2.4.6, ray 2.60.0, mlflow 3.17.2": "ok"
    }


def test_a_version_below_the_minimum_is_a_problem_and_an_optional_one_a_warning() -> None:
    found = judge({"torch": "2.9.1", "numpy": "2.4.6", "ray": "2.60.0", "mlflow": "3.18.0"})
    assert found["torch 2.9.1, needed is >=2.10"].level == "problem"
    assert found["torch 2.9.1, needed is >=2.10"].todo == "Install one that fits: pip install 'torch>=2.10'."
    assert found["mlflow 3.18.0, needed is !=3.18.0,>=3.10"].level == "warning"
    assert judge({"torch": "2.15", "numpy": "2.4", "mlflow": "3.18.0"}, "mlflow")[
        "mlflow 3.18.0, needed is !=3.18.0,>=3.10"
    ].level == "problem"  # fmt: skip


def test_what_is_missing_is_a_problem_only_where_it_is_needed() -> None:
    found = judge({"torch": "2.15.0"})
    assert found["not installed: numpy"].level == "problem"
    assert found["not installed: ray (optional: pip install 'kdbench[ray]')"].level == "ok"
    needed = judge({"torch": "2.15.0", "numpy": "2.4.6"}, "ray")["not installed: ray, which the study needs"]
    assert (needed.level, needed.todo) == ("problem", "pip install 'kdbench[ray]'")


def test_this_installation_is_looked_at() -> None:
    found = list(packages.versions([]))
    assert found[0].found.startswith("Python 3.")
    assert any("torch" in finding.found for finding in found)


def test_an_old_python_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.10.14")
    assert next(iter(packages.versions([]))).found == "Python 3.10.14, needed is 3.11"


def test_a_process_that_says_nothing_in_time_is_ended() -> None:
    began = time.monotonic()
    assert packages.answer("import time; time.sleep(600)", {}, 0.5) is None
    assert time.monotonic() - began < 30
    assert packages.answer("print('noise'); print('{\"a\": 1}')", {}, 60) == {"a": 1}
    assert packages.answer("raise SystemExit(3)", {}, 60) is None


# machine


def test_a_container_limit_below_the_cores_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert machine.cpu_quota(tmp_path / "cpu.max") == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.cpu_quota(tmp_path / "cpu.max") is None
    assert machine.cpu_quota(tmp_path / "none") is None
    monkeypatch.setattr(machine, "cpu_quota", lambda: 0.5)
    assert any("a container limit of 0.5 CPUs" in finding.found for finding in machine.hardware())


def test_more_threads_than_cores_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert any(finding.todo == "unset OMP_NUM_THREADS" for finding in machine.hardware())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert not any("OMP_NUM_THREADS" in finding.found for finding in machine.hardware())


def test_memory_is_what_the_machine_or_the_container_leaves(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {8 * 2**20} kB\n")
    assert machine.available_gib(tmp_path / "meminfo", tmp_path) == 8.0
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")
    assert machine.available_gib(tmp_path / "meminfo", tmp_path) == 8.0
    (tmp_path / "memory.max").write_text(f"{4 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{3 * GIB}\n")
    assert machine.available_gib(tmp_path / "meminfo", tmp_path) == 1.0
    assert machine.available_gib(tmp_path / "none", tmp_path / "none") is None


@pytest.mark.parametrize(("free", "level"), [(8.0, "ok"), (1.0, "warning"), (0.1, "problem")])
def test_little_memory_is_a_warning_and_next_to_none_a_problem(
    monkeypatch: pytest.MonkeyPatch, free: float, level: str
) -> None:
    monkeypatch.setattr(machine, "available_gib", lambda: free)
    assert next(iter(machine.memory())).level == level


@pytest.mark.parametrize(("free", "level"), [(50.0, "ok"), (3.0, "warning"), (0.1, "problem")])
def test_a_disk_that_fills_up_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, level: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free * GIB))
    finding = only(machine.disk("results", tmp_path / "not/there/yet"))
    assert (finding.level, finding.found) == (level, f"results: {free:.1f} GiB free in {tmp_path}")


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    assert only(machine.disk("results", tmp_path)).found == f"results: {tmp_path} cannot be written"


def test_a_long_folder_for_the_sockets_of_ray_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "a" * 60)
    assert any("has a long path" in finding.found for finding in machine.disks({}))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert not any("has a long path" in finding.found for finding in machine.disks({}))


def test_a_clock_that_jumps_or_is_wrong_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, monotonic = time.time(), time.monotonic()
    assert levels(machine.clock(wall, monotonic, {})) == ["ok"]
    assert next(iter(machine.clock(wall - 3600, monotonic, {}))).found.startswith("the clock jumped by +3600.")
    ahead: Any = {"a": SimpleNamespace(ended="2999-01-01T00:00:00+00:00"), "b": SimpleNamespace(ended="")}
    assert only(machine.clock(wall, monotonic, ahead)).found.startswith("1 records of the study ended in the future")
    monkeypatch.setattr(machine.kdbench, "__file__", "/")
    assert levels(machine.clock(wall, monotonic, {})) == ["ok"]


# Ray and MLflow


def test_what_came_of_starting_ray() -> None:
    assert services.started(2.5, needed=True).level == "ok"
    assert services.started(None, needed=True).level == "warning"
    assert services.started("OSError: no space", needed=True).level == "problem"
    assert services.started("OSError: no space", needed=False).level == "warning"


@pytest.fixture
def listening() -> Iterator[int]:
    """A port on which something listens that never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_cluster_is_asked_for_without_joining_it(listening: int) -> None:
    assert levels(services.ray(f"127.0.0.1:{listening}", needed=True)) == ["ok"]
    finding = only(services.ray(f"127.0.0.1:{free_port()}", needed=True))
    assert finding.level == "problem" and "does not answer: Connection refused" in finding.found


def test_a_cluster_elsewhere_without_a_token_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "unreachable", lambda host, port: None)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert levels(services.ray("10.0.0.7:6379", needed=True)) == ["ok", "warning"]
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert levels(services.ray("10.0.0.7:6379", needed=True)) == ["ok"]


@pytest.mark.parametrize(("address", "parts"), [
    ("host:1", ("host", 1)), ("ray://host:7", ("host", 7)), ("http://me:pass@host/x", ("host", 99)),
    ("[::1]:6379", ("::1", 6379)), ("host:port", ("host", 99)),
])  # fmt: skip
def test_addresses_are_taken_apart(address: str, parts: tuple[str, int]) -> None:
    assert services.host_and_port(address, 99) == parts


def test_a_store_is_opened_for_reading_alone(tmp_path: Path) -> None:
    assert only(services.mlflow(tmp_path, "auto")).found == "the store is made at the first run"
    path = tmp_path / "mlflow.db"
    database = sqlite3.connect(path)
    database.execute("create table alembic_version (version_num text)")
    database.commit()
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    assert only(services.mlflow(tmp_path, "auto")).found == f"{path} opens"
    assert only(services.mlflow(None, f"sqlite:///{path}")).level == "ok"
    database.execute("begin exclusive")
    locked = only(services.mlflow(tmp_path, "auto"))
    assert locked.level == "warning" and "database is locked" in locked.found and "kdbench ui" in locked.todo
    database.close()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    path.write_bytes(b"no database" * 100)
    damaged = only(services.mlflow(tmp_path, "auto"))
    assert damaged.level == "warning" and "kdbench sync" in damaged.todo


@pytest.mark.parametrize(("status", "level"), [(200, "ok"), (500, "warning")])
def test_a_server_has_to_say_that_it_is_well(status: int, level: str) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        finding = only(services.mlflow(None, f"http://me:secret99@127.0.0.1:{server.server_port}"))
        server.shutdown()
    assert finding.level == level and "secret99" not in finding.found


def test_a_database_that_nobody_serves_is_a_warning_without_its_password() -> None:
    finding = only(services.mlflow(None, f"postgresql+psycopg2://me:secret99@127.0.0.1:{free_port()}/db"))
    assert finding.level == "warning" and "secret99" not in finding.found and "kdbench sync" in finding.todo


# plug-ins and what is left over


def test_a_plug_in_that_cannot_be_imported_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fine.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("import not_there_at_all\n")
    named = [str(tmp_path / name) for name in ("fine.py", "broken.py", "missing.py")]
    monkeypatch.setenv("KDBENCH_PLUGINS", os.pathsep.join(named))
    found = [finding for finding in services.plugins() if str(tmp_path) in finding.found]
    assert levels(found) == ["ok", "problem", "problem"]
    assert "broken.py:1: ModuleNotFoundError" in found[1].found


def test_an_installed_plug_in_that_fails_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise SystemExit("go away")

    point = SimpleNamespace(name="theirs", dist=SimpleNamespace(name="their-package"), load=load)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point] if group == "kdbench.methods" else [])
    finding = only(services.plugins())
    assert (finding.level, finding.found) == ("warning", "theirs of their-package: SystemExit: go away")


def test_processes_without_a_parent_are_told_with_a_command_that_hits_no_other(tmp_path: Path) -> None:
    found = [
        Process(10, 1, "/x/ray/core/src/ray/raylet/raylet --node_ip=1"), Process(11, 10, "ray::IDLE"),
        Process(12, 1, "ray::Worker.train"), Process(13, 1, "/usr/bin/python -m mlflow server --host 127.0.0.1"),
        Process(14, 7, "/x/gcs_server"), Process(15, 1, "bash -c raylet"), Process(16, 1, ""),
    ]  # fmt: skip
    finding = only(services.leftovers(tmp_path, found))
    assert finding.level == "warning"
    assert finding.found.endswith("`ray start`: raylet 10, Ray worker 12, MLflow server 13")
    assert "kill 10 12 13. Not `ray stop`" in finding.todo
    assert levels(services.leftovers(tmp_path, found[-2:])) == ["ok"]


def test_this_process_is_among_those_that_are_looked_at() -> None:
    me = next(process for process in services.processes() if process.pid == os.getpid())
    assert me.parent == os.getppid() and me.kind is None


def test_half_written_files_and_studies_that_run_are_told(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "records").mkdir(parents=True)
        (tmp_path / name / "records/.abc.json.99.partial").write_text("")
    with Store(tmp_path / "one").lock():
        found = list(services.leftovers(tmp_path, []))
    assert [finding.level for finding in found] == ["ok", "warning"]
    assert f"{tmp_path / 'one'} is being run by process {os.getpid()} on " in found[0].found
    assert found[1].found.startswith("1 half-written files")  # those of a run under way are its own


# the study


def needs(tmp_path: Path, text: str) -> list[Finding]:
    (tmp_path / "small.yaml").write_text(text)
    return list(Needs.of(tmp_path / "small.yaml", tmp_path / "results").findings())


def test_a_study_that_has_all_it_needs(tmp_path: Path) -> None:
    found = needs(tmp_path, STUDY)
    assert set(levels(found)) == {"ok"}
    assert any(finding.found == "data: digits is here" for finding in found)


def test_every_mistake_of_a_study_is_a_problem(tmp_path: Path) -> None:
    found = needs(tmp_path, STUDY.replace("epochs: 1", "epoch: 1"))
    assert "problem" in levels(found)
    assert any("train.epoch: unknown field" in finding.found for finding in found)


@pytest.mark.parametrize(("before", "after", "level", "said"), [
    ("{name: digits, validation: 100, train: 100}", "{name: cifar10}", "warning", "cifar10 is not on this machine yet"),
    ("{executor: local}", "{executor: local, cpus_per_trial: 4096}", "problem", "a training asks for 4096 CPU cores"),
    ("student:", f"teacher: {{model: cnn, checkpoint: t/w.safetensors, sha256: '{'0' * 64}'}}\nstudent:", "problem",
     "teacher: the checkpoint t/w.safetensors is not here"),
])  # fmt: skip
def test_what_a_study_lacks_is_told(tmp_path: Path, before: str, after: str, level: str, said: str) -> None:
    found = [finding for finding in needs(tmp_path, STUDY.replace(before, after)) if said in finding.found]
    assert levels(found) == [level] and found[0].todo


def test_a_study_on_ray_needs_ray_and_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.yaml").write_text(STUDY.replace("{executor: local}", "{ray_address: 'head:6379'}"))
    own = Needs.of(tmp_path / "small.yaml", tmp_path)
    assert (own.ray, own.ray_address, own.extras) == (True, "head:6379", ["ray"])
    monkeypatch.setenv("RAY_ADDRESS", "other:6379")
    assert Needs().ray_address == "other:6379"
    assert (Needs().ray, Needs().mlflow, Needs().extras) == (False, "auto", [])


# the command


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without starting Ray, which a test of its own does."""
    monkeypatch.setattr(doctor, "ray", lambda address, needed: [Finding("Ray", "ok", "not started in this test")])


def examined(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *map(str, arguments)], catch_exceptions=False)
    return result.exit_code, result.stdout


@pytest.mark.usefixtures("quick")
def test_the_exit_status_is_1_only_with_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "memory", list)  # of a test machine, which may be short of both
    monkeypatch.setattr(doctor, "disks", lambda places: [])
    (tmp_path / "small.yaml").write_text(STUDY)
    status, text = examined(tmp_path / "small.yaml", "--results", tmp_path, "--json")
    found = json.loads(text)
    assert status == 0 and {"area", "level", "found", "todo"} == set(found[0])
    assert [one["area"] for one in found] == sorted((one["area"] for one in found), key=doctor.AREAS.index)
    (tmp_path / "small.yaml").write_text(STUDY.replace("scratch", "scrat"))
    status, text = examined(tmp_path / "small.yaml", "--results", tmp_path)
    assert status == 1
    assert "Did you mean 'scratch'?" in " ".join(text.split()) and "-> Mend the study file." in text


@pytest.mark.usefixtures("quick")
def test_an_edit_that_a_run_would_refuse_is_a_problem_and_nothing_is_touched(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "results/digits"
    folder = tmp_path / "digits"
    shutil.copytree(source / "records", folder / "records")
    shutil.copy(source / "study.json", folder)
    text = (source / "study.yaml").read_text()
    (tmp_path / "digits.yaml").write_text(text.replace("train: {epochs: 8,", "train: {epochs: 9,"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    status, said = examined(tmp_path / "digits.yaml", "--results", tmp_path, "--json")
    (problem,) = [one for one in json.loads(said) if one["area"] == "study"]
    assert status == 1 and "train.epochs: 8 -> 9. 50 finished trainings" in problem["found"]
    assert problem["todo"].endswith("study: digits-2")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "cache"} == before


@pytest.mark.slow
def test_a_ray_that_takes_too_long_is_ended_with_all_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "RAY_S", 600.0)
    began = time.monotonic()
    monkeypatch.setattr(
        services, "START_RAY", services.START_RAY.replace("    ray.shutdown()", "    print(said)\n    time.sleep(600)")
    )
    mark = "kddoctor-"

    def end_once_it_is_up() -> None:
        while not any(mark in process.command and process.kind == "raylet" for process in services.processes()):
            assert time.monotonic() - began < 120
            time.sleep(0.1)
        raise subprocess.TimeoutExpired("ray", 0)

    monkeypatch.setattr(subprocess.Popen, "communicate", lambda self, timeout: end_once_it_is_up())
    assert only(services.ray(None, needed=True)).level == "warning"
    time.sleep(1.0)
    assert not [process for process in services.processes() if mark in process.command]
    assert not list(Path(tempfile.gettempdir()).glob(f"{mark}*"))


@pytest.mark.slow
def test_ray_starts_for_real_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(services, "RAY_S", 120.0)
    folders = set(Path(tempfile.gettempdir()).glob("kddoctor-*"))
    finding = only(services.ray(None, needed=True))
    assert finding.level == "ok" and "starts here, in " in finding.found
    assert set(Path(tempfile.gettempdir()).glob("kddoctor-*")) <= folders
    assert not (tmp_path / ".ray").exists()  # its token lived in the environment alone
