"""What runs beside kdbench: Ray, the MLflow store, plug-ins, and processes that earlier runs left behind."""

from __future__ import annotations

import http.client
import importlib.metadata
import os
import secrets
import shutil
import socket
import sqlite3
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from kdbench.doctor.finding import Finding, Level
from kdbench.doctor.packages import answer, installed
from kdbench.errors import KdbenchError
from kdbench.lock import holder
from kdbench.redact import redact
from kdbench.track import available
from kdbench.track.address import is_loopback, is_server, without_user

RAY_S, REACH_S = 8.0, 3.0
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# Started in a process of its own, with a folder and a token of its own: no other cluster is joined, nothing is kept.
START_RAY = """
import json, time
import ray
began = time.monotonic()
try:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    said = round(time.monotonic() - began, 1)
    ray.shutdown()
except Exception as error:
    said = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""


def ray(address: str | None, needed: bool) -> Iterator[Finding]:
    """Whether Ray starts, or the cluster that the study names answers. needed: the study runs on Ray."""
    if installed("ray") is None:
        return  # said with the packages
    if address not in (None, "local", "auto"):
        yield from reachable_cluster(str(address))
        return
    if address == "auto":
        yield Finding("Ray", "ok", "RAY_ADDRESS=auto: the study would join whichever cluster runs on this machine")
    folder = tempfile.mkdtemp(prefix="kddoctor-")
    try:
        environment = {
            "RAY_TMPDIR": folder, "RAY_ADDRESS": "", "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }  # fmt: skip
        said = answer(START_RAY, environment, RAY_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    yield started(said, needed)


def started(said: object, needed: bool) -> Finding:
    """What came of starting Ray: seconds, an error, or nothing in time."""
    if isinstance(said, float | int):
        return Finding("Ray", "ok", f"Ray {installed('ray')} starts here, in {said:g} s")
    local = "Or run in one process: --set resources.executor=local"
    if said is None:
        return Finding("Ray", "warning", f"Ray did not start within {RAY_S:g} s",
                       f"Where the machine is only busy, a study waits for it. {local}")  # fmt: skip
    level: Level = "problem" if needed else "warning"
    what = f"Ray does not start: {' '.join(str(said).split())[:300]}"
    return Finding("Ray", level, what, f"Free memory and /tmp, or reinstall: pip install 'kdbench[ray]'. {local}")


def reachable_cluster(address: str) -> Iterator[Finding]:
    """Whether something listens at a cluster's address, found out without joining it, and whether it needs a token."""
    host, port = host_and_port(address, 6379)
    if (reason := unreachable(host, port)) is not None:
        yield Finding("Ray", "problem", f"the cluster at {redact(address)} does not answer: {reason}",
                      "Start it, or mend resources.ray_address (RAY_ADDRESS); see docs/cluster.md.")  # fmt: skip
        return
    yield Finding("Ray", "ok", f"the cluster at {redact(address)} answers")
    if not is_loopback(host) and os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        todo = "Set RAY_AUTH_MODE=token on all machines, or allow it: kdbench run --allow-unauthenticated-ray."
        what = "no authentication is set up: whoever reaches the cluster's port can run code there"
        yield Finding("Ray", "warning", what, todo)


def host_and_port(address: str, port: int) -> tuple[str, int]:
    """`host:port`, with or without a scheme and a user."""
    parts = urllib.parse.urlsplit(address if "://" in address else f"//{address}")
    try:
        return parts.hostname or "127.0.0.1", parts.port or port
    except ValueError:  # a port that is no number
        return parts.hostname or "127.0.0.1", port


def unreachable(host: str, port: int) -> str | None:
    """Why nothing answers there; None if something listens."""
    try:
        socket.create_connection((host, port), timeout=REACH_S).close()
    except OSError as error:
        return f"{error.strerror or error} ({host}:{port})"
    return None


def mlflow(folder: Path | None, uri: str) -> Iterator[Finding]:
    """Whether the mirror can be written. folder: of the study's results. uri: `auto`, `off`, or where it is."""
    if uri == "off":
        yield Finding("MLflow", "ok", "switched off in the study")
        return
    if not available():
        if uri != "auto":
            yield Finding("MLflow", "problem", "MLflow is not installed, and the study names a store",
                          "pip install 'kdbench[mlflow]', or track: {mlflow: off}")  # fmt: skip
        return
    late = "Training goes on without it; `kdbench sync` writes what is missing."
    if uri == "auto" or uri.startswith("sqlite:"):
        path = sqlite_path(uri, folder)
        made = Finding("MLflow", "ok", "the store is made at the first run")
        yield made if path is None else sqlite_finding(path, late)
        return
    said = unwell(uri) if is_server(uri) else unreachable(*host_and_port(uri, PORTS.get(scheme_of(uri), 5432)))
    if said is not None:
        yield Finding("MLflow", "warning", f"{redact(uri)} does not answer: {said}", late)
    else:
        yield Finding("MLflow", "ok", f"{redact(uri)} answers")


def scheme_of(uri: str) -> str:
    """`postgresql` of `postgresql+psycopg2://host/db`."""
    return uri.partition(":")[0].partition("+")[0].lower()


def unwell(uri: str) -> str | None:
    """Why an MLflow server does not say that it is well, None if it does. User and password are not sent."""
    address, _ = without_user(uri)
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=REACH_S) as answer:
            return None if answer.status == 200 else f"status {answer.status}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return redact(str(error)) or type(error).__name__


def sqlite_path(uri: str, folder: Path | None) -> Path | None:
    """The database file; None where there is none yet."""
    path = Path(uri.partition("///")[2]) if uri.startswith("sqlite:") else (folder or Path()) / "mlflow.db"
    return path if path.is_file() else None


def sqlite_finding(path: Path, late: str) -> Finding:
    """Whether a database can be read and is not locked; it is opened for reading alone."""
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=1.0)
        try:
            database.execute("select version_num from alembic_version").fetchone()
        finally:
            database.close()
    except sqlite3.Error as error:
        locked = "locked" in str(error)
        todo = "Close the program that holds it (a `kdbench ui`, a copy under way)." if locked else (
            f"Move {path.name} away, and rebuild it from the records: kdbench sync.")  # fmt: skip
        return Finding("MLflow", "warning", f"{path}: {error}", f"{todo} {late}")
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        return Finding("MLflow", "warning", f"{path} cannot be written", f"Mend its rights. {late}")
    return Finding("MLflow", "ok", f"{path} opens")


def plugins() -> Iterator[Finding]:
    """Whether all plug-ins can be imported: files of KDBENCH_PLUGINS, and installed packages."""
    from kdbench.plugins import ENVIRONMENT, GROUPS, load_file

    named = [Path(part) for part in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if part]
    for path in named:
        try:
            load_file(path)
        except KdbenchError as error:
            yield Finding("plug-ins", "problem", str(error), f"Mend it, or take it out of {ENVIRONMENT}.")
        else:
            yield Finding("plug-ins", "ok", f"{path} loads")
    for group in GROUPS.values():
        for point in importlib.metadata.entry_points(group=group):
            owner = f"{point.name} of {point.dist.name if point.dist else 'a package'}"
            try:
                point.load()
            except (Exception, SystemExit) as error:  # whatever a stranger's module raises is the finding
                yield Finding("plug-ins", "warning", f"{owner}: {type(error).__name__}: {error}",
                              "It is left out. Mend the package, or uninstall it.")  # fmt: skip
            else:
                yield Finding("plug-ins", "ok", f"{owner} loads")


@dataclass(frozen=True)
class Process:
    """A process of this user, as far as it matters here."""

    pid: int
    parent: int
    command: str

    @property
    def kind(self) -> str | None:
        """What it is of Ray or MLflow; None for anything else."""
        program = PurePath(self.command.partition(" ")[0]).name
        if program in ("raylet", "gcs_server"):
            return program
        if self.command.startswith("ray::"):
            return "Ray worker"
        return "MLflow server" if " -m mlflow server" in self.command else None


def processes(proc: Path = Path("/proc")) -> list[Process]:
    """The processes of this user, where the system tells."""
    found = []
    for folder in proc.glob("[0-9]*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):  # it has ended meanwhile
            continue
        found.append(Process(int(folder.name), parent, command))
    return found


def leftovers(results: Path, found: list[Process] | None = None) -> Iterator[Finding]:
    """Processes whose parent has died, studies that run, and files that a crash left half-written."""
    orphans = [(p.pid, p.kind) for p in (processes() if found is None else found) if p.kind and p.parent == 1]
    if orphans:
        listed = ", ".join(f"{kind} {pid}" for pid, kind in sorted(orphans))
        yield Finding("processes", "warning", f"without a parent, left over or begun by `ray start`: {listed}",
                      "If no such cluster or server is meant to run: kill " + " ".join(str(pid) for pid, _ in orphans)
                      + ". Not `ray stop`, which ends the Ray of every study on this machine.")  # fmt: skip
    running = {path.parent: by for path in sorted(results.glob("*/lock")) if (by := holder(path)) is not None}
    for folder, by in running.items():
        yield Finding("processes", "ok", f"{folder} is being run by {by}")
    partial = [path for path in results.glob("*/**/.*.partial") if not running.keys() & set(path.parents)]
    if partial:
        yield Finding("processes", "warning", f"{len(partial)} half-written files of runs that died in {results}",
                      "They are harmless. Delete them: " + f"find {results} -name '.*.partial' -delete")  # fmt: skip
    if not orphans and not partial:
        yield Finding("processes", "ok", "nothing left over")
