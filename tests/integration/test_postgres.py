"""The mirror in PostgreSQL: straight, and through an MLflow server on it. Starts a PostgreSQL of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_mlflow_faults import check_equal
from test_mlflow_server import final, search

from kdbench.track.mirror import Mirror, SyncReport
from kdbench.track.server import free_port, running

pytestmark = [pytest.mark.slow, pytest.mark.postgres]
RECORDS = [search(0), search(1), final(0), final(1)]
PASSWORD = "correct-horse"


def pg_ctl() -> str:
    """Where PostgreSQL's programs are; Debian does not put them on the path."""
    places = [shutil.which("pg_ctl"), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")), reverse=True)]
    found = next((place for place in places if place), None)
    assert found, (
        "PostgreSQL is missing: apt-get install postgresql, or leave these tests out: pytest -m 'not postgres'"
    )
    return found


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """Address of an empty database that asks for a password, without that."""
    folder = Path(tempfile.mkdtemp(prefix="kdpg"))  # a short name, because the socket lies in it
    (folder / "password").write_text(PASSWORD)
    programs, port = Path(pg_ctl()).parent, free_port("127.0.0.1", 0)
    user = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        account = pwd.getpwnam("postgres")
        for path in (folder, folder / "password"):
            os.chown(path, account.pw_uid, account.pw_gid)
        user = {"user": account.pw_uid, "group": account.pw_gid}

    def call(*arguments: str) -> None:
        done = subprocess.run(
            [str(programs / arguments[0]), *arguments[1:]], capture_output=True, text=True, cwd=folder, timeout=60,
            stdin=subprocess.DEVNULL, **user,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    data = str(folder / "data")
    call("initdb", "-D", data, "-U", "mlflow", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync")
    options = f"-h 127.0.0.1 -p {port} -k {folder} -F"
    call("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def test_a_study_is_mirrored_to_postgres_with_the_password_from_the_environment(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    mirror = Mirror(tmp_path / "straight", database)
    assert mirror.sync(RECORDS) == SyncReport(4, 0, 0)
    check_equal(Mirror(tmp_path / "straight", database), RECORDS)
    assert Mirror(tmp_path / "straight", database).sync(RECORDS) == SyncReport(0, 0, 4)


def test_a_server_on_postgres_keeps_runs_and_weights(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    folder = tmp_path / "served"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / f"{final(0).key}.safetensors").write_bytes(b"weights")
    with running(database, tmp_path / "artifacts", "127.0.0.1", 0) as (_, address):
        mirror = Mirror(folder, address)
        assert mirror.sync(RECORDS) == SyncReport(4, 0, 0)
        check_equal(mirror, RECORDS)
        assert Mirror(folder, address).sync(RECORDS) == SyncReport(0, 0, 4)
    (kept,) = (tmp_path / "artifacts").rglob("*.safetensors")
    assert kept.read_bytes() == b"weights"
