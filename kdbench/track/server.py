"""MLflow's own web pages on a study's store, in the foreground."""

from __future__ import annotations

import base64
import http.client
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdbench import strict_json
from kdbench.errors import KdbenchError
from kdbench.redact import shown
from kdbench.track.address import is_loopback, is_server, with_password, without_password, without_user
from kdbench.track.mlflow import ENVIRONMENT, MISSING, available, default_uri
from kdbench.track.view import SHARE_KEY, VIEW

# Four workers and eight job runners, MLflow's defaults, double the time to start; one person needs neither.
SERVER_ENVIRONMENT = {**ENVIRONMENT, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}

TRIES = 3  # of a server that may have any port

log = logging.getLogger("kdbench.track")


def serve(
    folder: Path,
    uri: str | None = None,
    host: str = "127.0.0.1",
    port: int = 5000,
    announce: Callable[[str], None] = print,
) -> int:
    """Serve the study's store until Ctrl-C or a signal; return an exit status.

    announce is called with the address of the study's runs as soon as it answers. If `uri` is itself an MLflow server,
    its address is announced and nothing is started. port 0 takes any free port. A host that other machines can reach is
    warned about. Raise KdbenchError if MLflow is missing, the study has no store yet, the port is taken, or the server
    ends by itself.
    """
    folder = folder.resolve()
    uri = with_password(uri) if uri else None
    if uri and is_server(uri):
        announce(runs_url(uri.rstrip("/"), folder.name))
        return 0
    if not host:
        raise KdbenchError("--host: got nothing, which would mean every address. Give one, such as 127.0.0.1.")
    if not is_loopback(host):
        log.warning(
            "--host %s: whoever can reach port %d of this machine can read, change and delete these runs, for MLflow's "
            "pages ask for no password. Safer: leave --host out, and reach the pages with ssh -L %d:127.0.0.1:%d.",
            host, port, port, port,
        )  # fmt: skip
    if not available():
        raise KdbenchError(MISSING)
    if not uri and not (folder / "mlflow.db").exists():
        raise KdbenchError(f"{folder} has no MLflow store yet. Make it from the records: kdbench sync {folder.name}")
    port = port and free_port(host, port)
    try:
        with running(uri or default_uri(folder), folder / "mlartifacts", host, port) as (process, address):
            announce(runs_url(address, folder.name))
            process.wait()
    except KeyboardInterrupt:
        return 0
    raise KdbenchError(f"the MLflow server on port {port} ended by itself with status {process.returncode}.")


@contextmanager
def running(uri: str, artifacts: Path, host: str, port: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """An MLflow server that answers, as (process, address); it is ended with all its children on leaving.

    port 0 takes any free port, and another one if somebody took it before the server did.

    SIGTERM and SIGHUP leave through here too: the server has a session of its own, so no other signal reaches it, and
    its worker would keep the port.
    """
    # Not in the command, which every user of the machine can read and which may hold a password.
    environment = {**SERVER_ENVIRONMENT, **os.environ, "MLFLOW_BACKEND_STORE_URI": uri}
    said = ""
    with _signals_as_exit():
        for _ in range(TRIES if port == 0 else 1):
            at = port or free_port(host, 0)
            command = [
                sys.executable, "-m", "mlflow", "server", "--artifacts-destination", str(artifacts), "--host", host,
                "--port", str(at), "--workers", "1", "--uvicorn-opts", "--log-level warning",
            ]  # fmt: skip
            with tempfile.TemporaryFile() as output:
                process = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    start_new_session=True,
                )  # fmt: skip
                try:
                    address = f"http://{_browsable(host)}:{at}"
                    if wait_until_up(address, process):
                        yield process, address
                        return
                finally:
                    end_group(process)
                output.seek(0)
                said = output.read().decode(errors="replace").strip()
            if "address already in use" not in said:
                break
    last = shown(" ".join(said.splitlines()[-3:]))
    raise KdbenchError(f"the MLflow server on {without_password(uri)} did not start: {last or 'no output'}")


def wait_until_up(address: str, process: subprocess.Popen[bytes] | None = None, timeout: float = 60.0) -> bool:
    """Whether the server at `http://host:port` answers within `timeout` seconds and before its process ends."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and (process is None or process.poll() is None):
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
                if answer.status == 200:
                    return True
        except (OSError, http.client.HTTPException):  # refused or reset while it starts, or not a web server at all
            time.sleep(0.1)
    return False


def end_group(process: subprocess.Popen[bytes], patience: float = 5.0) -> None:
    """End a process that leads a session and all that it started: SIGTERM, then SIGKILL to whoever is left."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and _group_lives(process):
            time.sleep(0.05)
    process.wait()


def free_port(host: str, port: int) -> int:
    """The port if it is free, or any free one for port 0. Raise KdbenchError that offers another if it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            return int(probe.getsockname()[1])
        except PermissionError as error:
            raise KdbenchError(
                f"port {port} may not be used by this user. Choose one above 1023: --port 5000"
            ) from error
        except OSError as error:
            if port == 0:
                raise KdbenchError(f"cannot listen on {host}: {error.strerror or error}") from error
            other = free_port(host, 0)
            raise KdbenchError(
                f"port {port} of {host} is taken: {error.strerror}. Choose another, for example --port {other}"
            ) from error


def runs_url(address: str, study: str) -> str:
    """Address of the study's table of runs, as view.py arranges it. MLflow's own start page would show traces instead.

    address: of an MLflow server; user and password in it are used for the question and are not part of the answer.
    """
    address, user = without_user(address)
    query = urllib.parse.urlencode({"experiment_name": study})
    try:
        answer = _get_json(f"{address}/api/2.0/mlflow/experiments/get-by-name?{query}", user)
        number = str(answer["experiment"]["experiment_id"])
        has_view = any(tag["key"] == VIEW for tag in answer["experiment"].get("tags", ()))
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise KdbenchError(f"the MLflow server at {without_password(address)} answered {error}") from error
        return f"{address}/#/experiments"
    except OSError as error:
        raise KdbenchError(f"the MLflow server at {without_password(address)} does not answer: {error}") from error
    except (ValueError, TypeError, KeyError, http.client.HTTPException) as error:
        raise KdbenchError(f"what answers at {without_password(address)} is no MLflow server ({error!r}).") from error
    view = f"&viewStateShareKey={SHARE_KEY}" if has_view else ""
    return f"{address}/#/experiments/{urllib.parse.quote(number, safe='')}/runs?workflowType=machine_learning{view}"


def _get_json(url: str, user: str) -> Any:
    """The JSON that a server answers. user: `user:password`, or what MLFLOW_TRACKING_* say where it is empty."""
    name, password = (os.environ.get(f"MLFLOW_TRACKING_{part}") for part in ("USERNAME", "PASSWORD"))
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    user = user or (f"{name}:{password}" if name and password else "")
    request = urllib.request.Request(url)
    if user or token:  # not for whom the server redirects to
        how = f"Basic {base64.b64encode(user.encode()).decode()}" if user else f"Bearer {token}"
        request.add_unredirected_header("Authorization", how)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return strict_json.loads(answer.read(strict_json.MAX_BYTES + 1))


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # a leader that has ended but was not waited for still counts as a member
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _browsable(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


@contextmanager
def _signals_as_exit() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise SystemExit, so that `finally` is reached."""

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
