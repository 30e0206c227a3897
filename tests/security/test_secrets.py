"""Passwords and tokens reach no file, no output and no error of a real study."""

from __future__ import annotations

from pathlib import Path

import pytest
from secret_run import SECRETS, Ran
from typer.testing import CliRunner
from untrusted import STUDY, record

from kdbench.cli import app
from kdbench.errors import KdbenchError, StudyError
from kdbench.study.load import load_study
from kdbench.track import BackgroundMirror

pytestmark = pytest.mark.slow  # a real study in a process of its own


def leaks(*texts: str | bytes) -> list[str]:
    """The kinds of secrets that stand in the texts, whole or cut off."""
    whole = [text if isinstance(text, bytes) else text.encode() for text in texts]
    return [
        kind for kind, secret in SECRETS.items() if any(secret[: len("hunter2-in") + 3].encode() in t for t in whole)
    ]


def test_a_leak_would_be_noticed() -> None:
    assert leaks("... http://me:hunter2-in-addr...") == ["address"]
    assert leaks("nothing", b"at all") == []


def test_a_study_whose_mlflow_server_is_gone_ends_with_all_its_records(ran: Ran) -> None:
    assert ran.status == 0, ran.stderr
    assert len(list((ran.folder / "records").glob("*.json"))) >= 5
    said = ran.stdout + ran.stderr
    assert "MLflow" in said and "me:***@127.0.0.1" in said, "the user is told what does not answer"


def test_no_file_of_the_results_and_no_output_holds_a_secret(ran: Ran) -> None:
    assert leaks(ran.stdout, ran.stderr) == []
    files = [path for path in ran.folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert {path.name: found for path in files if (found := leaks(path.read_bytes()))} == {}
    assert "http://me:***@127.0.0.1" in (ran.folder / "study.yaml").read_text()


@pytest.mark.parametrize("command", [("plan", "--json", "--no-probe"), ("status", "--json"), ("sync",), ("ui",)])
def test_no_other_command_tells_a_secret(
    ran: Ran, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ran.folder.parents[1])
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in filter(str.isupper, SECRETS):
        monkeypatch.setenv(name, SECRETS[name])
    done = CliRunner().invoke(app, [command[0], "small.yaml", *command[1:]])
    if command[0] in ("sync", "ui"):  # they need the server
        assert isinstance(done.exception, KdbenchError)
    else:
        assert done.exit_code == 0, done.output
    assert leaks(done.output, str(done.exception), *capfd.readouterr()) == []


WRONG = [
    "mysql+nothing://me:{secret}@127.0.0.1/runs",
    "nonsense://me:{secret}@127.0.0.1",
    "me:{secret}@127.0.0.1",
    "http://me:{secret}@[::1",
    "http://me:{secret}@127.0.0.1:99999/",
    "postgresql://me:{secret}/with/slashes@127.0.0.1/runs",
    "s3://AKIAIOSFODNN7EXAMPLE:{secret}@bucket/table.csv",
]


@pytest.mark.parametrize("written", WRONG)
def test_an_address_where_none_belongs_is_told_without_its_password(tmp_path: Path, written: str) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(STUDY)
    address = written.format(secret=SECRETS["override"])
    places = ("data.table", "study", "methods.kd.temperature", "teacher.checkpoint", "no_such_field")
    for place in places:
        with pytest.raises(StudyError) as caught:
            load_study(path, [f"track.mlflow={address}", f"{place}={address}"])
        assert leaks(str(caught.value)) == []


@pytest.mark.parametrize("written", WRONG)
def test_a_store_that_cannot_be_used_is_told_without_its_password(tmp_path: Path, written: str) -> None:
    address = written.format(secret=SECRETS["address"])
    mirror = BackgroundMirror(tmp_path / "small", address)
    mirror.write(record())
    mirror.close(timeout=60)
    assert mirror.error and leaks(mirror.error) == []
