"""The command line in a process of its own, with secrets wherever a user may put them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Each is given to kdbench in another way, and none of them may be found afterwards.
SECRETS = {
    "address": "hunter2-in-address", "override": "hunter2-in-override", "MLFLOW_TRACKING_TOKEN": "hunter2-in-token",
    "AWS_SECRET_ACCESS_KEY": "hunter2-in-variable",
}  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """What a command said, and the folder of its study."""

    folder: Path
    stdout: str
    stderr: str
    status: int


def run_cli(folder: Path, *arguments: str) -> Ran:
    """`kdbench ARGUMENTS` in a folder, with secrets in the environment and a cache of its own."""
    secrets = {name: secret for name, secret in SECRETS.items() if name.isupper()}
    done = subprocess.run(
        [sys.executable, "-c", "from kdbench.cli import main; main()", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=280,
        env={**os.environ, **secrets, "KDBENCH_CACHE": str(folder / "cache"), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
    )  # fmt: skip
    return Ran(folder / "results" / "small", done.stdout, done.stderr, done.returncode)


def closed_port() -> int:
    """A port at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
