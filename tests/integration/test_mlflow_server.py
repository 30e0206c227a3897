"""The mirror through a real MLflow server, the server's end, and `kdbench ui`."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdbench.record import TrialRecord, TrialSpec
from kdbench.track.background import BackgroundMirror
from kdbench.track.mirror import Mirror, SyncReport
from kdbench.track.mlflow import default_uri
from kdbench.track.server import free_port, running, wait_until_up

pytestmark = pytest.mark.slow  # each server takes about five seconds to start


def search(trial: int, epochs: int = 5) -> TrialRecord:
    spec = TrialSpec(
        phase="search",
        data={"name": "digits", "validation": 300},
        model={"name": "resnet", "depth": 8, "width": 0.5},
        method={"name": "kd", "temperature": 4.0, "lambda": 0.9},
        train={"epochs": epochs, "lr": 0.1},
        seed=trial,
        slot={"pair": "resnet56 -> resnet", "repeat": 0, "trial": trial},
    )
    return TrialRecord(
        spec=spec,
        status="finished",
        result={"val_top1_pct": 90.0 + trial, "params": 19_000},
        curves={"train_loss": [1.0 / e for e in range(1, epochs + 1)]},
        environment={},
        attempts=1,
        started="2026-11-21T08:00:00+00:00",
        ended="2026-11-21T08:01:00+00:00",
        wall_s=60.0,
    )


def final(seed: int) -> TrialRecord:
    base = search(0)
    spec = replace(base.spec, phase="final", seed=100 + seed, slot={"pair": "resnet56 -> resnet", "final": seed})
    return replace(base, spec=spec, result={**base.result, "test_top1_pct": 88.0})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with running(default_uri(folder), folder / "mlartifacts", "127.0.0.1", 0) as (_, address):
        yield address


def rest(address: str, call: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/{call}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def keys_in(mirror: Mirror) -> list[str]:
    tags = [run.data.tags for run in mirror.experiment.runs()]
    return sorted(tag["kdbench.key"] for tag in tags if "kdbench.key" in tag)


def test_syncing_twice_through_a_server_leaves_one_run_for_each_record(server: str, tmp_path: Path) -> None:
    records = [search(0), search(1), final(0)]
    mirror = Mirror(tmp_path / "twice", server)
    assert mirror.write(search(0)) == "created"
    assert mirror.sync(records) == SyncReport(2, 0, 1)
    assert Mirror(tmp_path / "twice", server).sync(records) == SyncReport(0, 0, 3)
    assert keys_in(mirror) == sorted(record.key for record in records)


def test_the_servers_own_search_finds_a_run_by_its_key(server: str, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "rest", server)
    mirror.sync([search(0), search(1)])
    query = {"experiment_ids": [mirror.experiment.id], "filter": f"tags.`kdbench.key` = '{search(1).key}'"}
    (run,) = rest(server, "runs/search", query)["runs"]
    assert run["info"]["run_name"] == "kd T=4 λ=0.9 resnet8 x0.5 search r0 t1"
    metrics = {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
    assert metrics == {"train_loss": 0.2, "val_top1_pct": 91.0, "params": 19_000}


def test_weights_and_study_file_are_kept_by_the_server(server: str, tmp_path: Path) -> None:
    folder = tmp_path / "artifacts"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / f"{final(0).key}.safetensors").write_bytes(b"weights")
    (folder / "study.yaml").write_text("study: artifacts\n")
    mirror = Mirror(folder, server)
    mirror.sync([final(0)])
    client = mirror.experiment.connect()
    files = {
        artifact.path
        for run in mirror.experiment.runs()
        for place in (None, "weights")
        for artifact in client.list_artifacts(run.info.run_id, place)
        if not artifact.is_dir
    }
    assert files == {f"weights/{final(0).key}.safetensors", "study.yaml"}


def test_a_port_that_is_taken_before_the_server_has_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        ports = [other.getsockname()[1], free_port("127.0.0.1", 0)]
        monkeypatch.setattr("kdbench.track.server.free_port", lambda host, port: ports.pop(0))
        with running(default_uri(tmp_path), tmp_path / "mlartifacts", "127.0.0.1", 0) as (process, address):
            assert ports == [] and process.poll() is None
            assert wait_until_up(address, process)


def test_what_a_dying_server_missed_is_written_by_a_later_sync(tmp_path: Path) -> None:
    store, folder = tmp_path / "server", tmp_path / "dying"
    store.mkdir()
    records = [search(trial) for trial in range(4)]
    with running(default_uri(store), store / "mlartifacts", "127.0.0.1", 0) as (_, address):
        background = BackgroundMirror(folder, address)
        background.write(records[0])
        deadline = time.monotonic() + 20
        while background._pending and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not background._pending
    begin = time.monotonic()
    for record in records[1:]:
        background.write(record)
    assert time.monotonic() - begin < 0.5
    unwritten = background.close(timeout=20)
    assert time.monotonic() - begin < 20  # without kdbench's settings MLflow would try for four minutes
    assert unwritten == tuple(record.key for record in records[1:])
    assert background.error is not None and address in background.error
    # A second start of the server would take five seconds more: its database is asked directly.
    assert Mirror(folder, default_uri(store)).sync(records) == SyncReport(3, 0, 1)
    assert Mirror(folder, default_uri(store)).sync(records) == SyncReport(0, 0, 4)


def test_a_server_that_accepts_and_never_answers_does_not_keep_the_process_from_ending(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_mlflow_server import BackgroundMirror, search
mirror = BackgroundMirror(Path(sys.argv[1]), sys.argv[2])
mirror.write(search(0))
begin = time.monotonic()
unwritten = mirror.close(timeout=1)
print(len(unwritten), time.monotonic() - begin < 3)
"""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"http://127.0.0.1:{mute.getsockname()[1]}"
        arguments = [sys.executable, "-c", code, str(tmp_path / "mute"), address, str(Path(__file__).parent)]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=40, check=True)
    assert done.stdout.split() == ["1", "True"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_ui_serves_the_studys_runs_and_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "served"
    Mirror(folder).sync([search(0), final(0)])
    code = (
        "import sys; from pathlib import Path; from kdbench.track.server import serve; serve(Path(sys.argv[1]), port=0)"
    )
    ui = subprocess.Popen([sys.executable, "-uc", code, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert ui.stdout is not None
        url = ui.stdout.readline().strip()
        address, _, page = url.partition("/#/")
        runs, _, view = page.partition("&")
        assert runs == f"experiments/{Mirror(folder).experiment.id}/runs?workflowType=machine_learning"
        assert view == "viewStateShareKey=kdbench"
        found = rest(address, "runs/search", {"experiment_ids": [page.split("/")[1]]})
        assert len(found["runs"]) == 3  # two records and their parent
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert b"<title>MLflow</title>" in answer.read()
        serving = [pid for pid in _processes() if f"--port\0{address.rpartition(':')[2]}" in _command(pid)]
        assert serving
        os.kill(ui.pid, number)
        ui.wait(timeout=60)
    finally:
        ui.kill()
        ui.communicate()
    assert not [pid for pid in serving if "mlflow" in _command(pid)]
    assert free_port("127.0.0.1", int(address.rpartition(":")[2]))


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
