"""MLflow that is down, slow, broken, locked or full: the study does not notice, and `kdbench sync` completes it."""

from __future__ import annotations

import http.server
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from small import facts, start, write_study
from test_mlflow_server import final, search

from kdbench.record import TrialRecord
from kdbench.session import read_only
from kdbench.track.background import CLOSE_S, BackgroundMirror
from kdbench.track.mirror import Mirror, SyncReport
from kdbench.track.mlflow import default_uri
from kdbench.track.payload import milliseconds, payload_of
from kdbench.track.server import free_port, running

pytestmark = pytest.mark.slow


class Between(http.server.BaseHTTPRequestHandler):
    """Passes requests on to `server.target`, unless `server.odd` answers them."""

    server: Any
    protocol_version = "HTTP/1.0"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, content = self.server.odd(self) or self.forward(body)
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            return  # the client has given up

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

    def forward(self, body: bytes) -> tuple[int, bytes]:
        names = {"Content-Type": self.headers.get("Content-Type", "application/json")}
        request = urllib.request.Request(self.server.target + self.path, body or None, names, method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


@contextmanager
def between(target: str, odd: Callable[[Between], tuple[int, bytes] | None]) -> Iterator[str]:
    """A server in front of another one; odd: what it does itself with a request, or None to pass it on."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Between)
    server.target, server.odd = target, odd  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("store")
    with running(default_uri(folder), folder / "mlartifacts", "127.0.0.1", 0) as (_, address):
        yield address


def check_equal(mirror: Mirror, records: list[TrialRecord]) -> None:
    """MLflow holds one whole run for each record, and no run that is not over."""
    runs = mirror.experiment.runs()
    assert {run.info.status for run in runs} <= {"FINISHED", "FAILED"}
    own = [run for run in runs if "kdbench.key" in run.data.tags]
    assert sorted(run.data.tags["kdbench.key"] for run in own) == sorted(record.key for record in records)
    by_key = {run.data.tags["kdbench.key"]: run for run in own}
    for record in records:
        wanted, run = payload_of(record, mirror.experiment.name), by_key[record.key]
        assert run.data.params == dict(wanted.params)
        assert wanted.tags.items() <= run.data.tags.items()
        assert {point.name for point in wanted.points} <= set(run.data.metrics)
        values = {name: value for name, value in record.result.items() if name in run.data.metrics}
        assert values == {name: run.data.metrics[name] for name in values}
        assert (run.info.status, run.info.end_time) == (wanted.status, milliseconds(record.ended))
    parents = [run.data.tags["kdbench.parent"] for run in runs if "kdbench.parent" in run.data.tags]
    assert len(set(parents)) == len(parents)


RECORDS = [search(0), search(1), final(0)]


@pytest.mark.parametrize(("status", "after"), [(500, True), (503, False)])
def test_a_server_that_answers_errors_is_given_up_and_completed_later(
    store: str, tmp_path: Path, status: int, after: bool
) -> None:
    """after: the request is carried out before the error, so that whoever repeats it makes a second run."""

    def odd(request: Between) -> tuple[int, bytes] | None:
        if not request.path.endswith(("/runs/create", "/runs/log-batch")):
            return None
        if after:
            length = int(request.headers.get("Content-Length") or 0)
            request.forward(request.rfile.read(length))
        return status, b'{"error_code": "INTERNAL_ERROR", "message": "out of order"}'

    folder = tmp_path / f"errors{status}{after}"
    with between(store, odd) as address:
        background = BackgroundMirror(folder, address)
        began = time.monotonic()
        background.sync(RECORDS)
        assert time.monotonic() - began < 0.5
        assert background.close() == tuple(record.key for record in RECORDS)
        assert time.monotonic() - began < CLOSE_S + 1
    Mirror(folder, store).sync(RECORDS)
    check_equal(Mirror(folder, store), RECORDS)
    assert Mirror(folder, store).sync(RECORDS) == SyncReport(0, 0, len(RECORDS))


def test_a_server_that_answers_too_late_delays_the_end_by_a_bound_and_is_completed_later(
    store: str, tmp_path: Path
) -> None:
    def odd(request: Between) -> tuple[int, bytes] | None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        time.sleep(30)
        return request.forward(body)

    with between(store, odd) as address:
        background = BackgroundMirror(tmp_path / "late", address)
        began = time.monotonic()
        for record in RECORDS:
            background.write(record)
        assert time.monotonic() - began < 0.5
        assert background.close(timeout=3) == tuple(record.key for record in RECORDS)
        assert time.monotonic() - began < 4
    Mirror(tmp_path / "late", store).sync(RECORDS)
    check_equal(Mirror(tmp_path / "late", store), RECORDS)


@pytest.mark.parametrize("wait_s", [0.3, 1.0, 2.0])
def test_a_store_whose_making_was_killed_is_made_again(tmp_path: Path, wait_s: float) -> None:
    code = """
import sys
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store
from kdbench.track.mlflow import Experiment
print("ready", flush=True)
Experiment(Path(sys.argv[1])).connect()
"""
    folder = tmp_path / "killed"
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
        time.sleep(wait_s)
        maker.kill()
    assert Mirror(folder).sync([search(0)]) == SyncReport(1, 0, 0)
    assert not list(folder.glob("mlflow.db.new*"))


def test_a_writer_that_is_killed_in_the_middle_leaves_nothing_that_sync_does_not_mend(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_mlflow_faults import Mirror, search
mirror = Mirror(Path(sys.argv[1]))
mirror.experiment.connect()
print("ready", flush=True)
for trial in range(200):
    mirror.write(search(trial))
    print(trial, flush=True)
"""
    folder = tmp_path / "killed"
    folder.mkdir()
    for wait_s in (0.05, 0.13, 0.21):  # each strikes another call of those that make a run
        arguments = [sys.executable, "-c", code, str(folder), str(Path(__file__).parent)]
        writer = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(wait_s)
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
    records = [search(trial) for trial in range(6)]
    Mirror(folder).sync(records)
    kept = {record.key: record for record in records}
    left = {run.data.tags.get("kdbench.key") for run in Mirror(folder).experiment.runs()} - {None, *kept}
    records += [record for trial in range(6, 200) if (record := search(trial)).key in left]
    Mirror(folder).sync(records)
    check_equal(Mirror(folder), records)


def run(study: Path) -> str:
    """Run the study to its end in a process of its own; returns what it printed."""
    process = start("run", str(study), "--results", str(study.parent), cwd=study.parent)
    output, _ = process.communicate(timeout=250)
    assert process.returncode == 0, output
    return str(output)


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes out with tracking off."""
    folder = tmp_path_factory.mktemp("without")
    run(write_study(folder))
    return facts(folder / "small")


def sync(folder: Path) -> None:
    done = start("sync", "small", "--results", str(folder), cwd=folder)
    output, _ = done.communicate(timeout=120)
    assert done.returncode == 0, output


@pytest.mark.parametrize("how", ["down", "full", "locked"])
def test_a_study_ends_as_without_mlflow_says_what_is_missing_and_sync_completes_it(
    how: str, tmp_path: Path, without: dict[str, Any], store: str
) -> None:
    folder = tmp_path / "small"
    port = free_port("127.0.0.1", 0)
    uri = f"http://127.0.0.1:{port}" if how == "down" else "auto"
    study = write_study(tmp_path, mlflow=f'"{uri}"')
    if how == "full":
        folder.mkdir()
        (folder / "mlflow.db").symlink_to("/dev/full")
        output = run(study)
        (folder / "mlflow.db").unlink()
    elif how == "locked":
        folder.mkdir()
        Mirror(folder).experiment.connect()
        with closing(sqlite3.connect(folder / "mlflow.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            output = run(study)
    else:
        output = run(study)
    found = facts(folder)
    assert found == without
    lines = " ".join(output.split())
    assert f"MLflow lacks {len(list((folder / 'records').glob('*.json')))} records; write them with:" in lines, output
    if how == "down":
        stored = json.loads((folder / "study.json").read_text())
        stored["track"]["mlflow"] = uri = store
        (folder / "study.json").write_text(json.dumps(stored))
    sync(tmp_path)
    records = [record for record in read_only(folder).values() if record.spec.phase != "latency"]
    check_equal(Mirror(folder, None if uri == "auto" else uri), records)
