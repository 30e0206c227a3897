"""What holds for every test: no telemetry, one thread, and nothing written outside of temporary folders."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Set before torch, Ray or MLflow are imported, which read them once. KDBENCH_DATA is left as it is.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
os.environ.update(ENVIRONMENT)
os.environ.pop("KDBENCH_ENGINE", None)  # tests say themselves how steps are computed

# A shell that starts a test run in the background makes it ignore Ctrl-C, and so all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def temporary_folders() -> Iterator[None]:
    """Caches and Ray's files go to a folder of this test run; its name is short, because Ray's sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="kd"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDBENCH_CACHE", str(folder / "views"))
        patch.setenv("RAY_TMPDIR", str(folder))
        yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_password_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password of another test would be hidden in the texts of this one."""
    monkeypatch.setattr("kdbench.redact._used", set())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests go first, so that the workers of a parallel run end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
