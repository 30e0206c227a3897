"""Servers listen where only this machine can reach them; plug-ins are run only when named, and named in records."""

from __future__ import annotations

import http.server
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from kdbench import plugins
from kdbench.cli import app
from kdbench.errors import KdbenchError
from kdbench.track import server

SECRET = "s3cr3t-hunter2"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """Commands and environments of processes that are started; none of them comes up."""
    found: list[tuple[list[str], dict[str, str]]] = []

    def popen(command: list[str], env: dict[str, str], stdout: Any, **_: Any) -> Any:
        found.append((command, env))
        stdout.write(f"sqlalchemy: could not open {env['MLFLOW_BACKEND_STORE_URI']}\n".encode())
        stdout.flush()
        return real([sys.executable, "-c", ""], start_new_session=True)

    real = subprocess.Popen
    monkeypatch.setattr(server, "available", lambda: True)
    monkeypatch.setattr(server.subprocess, "Popen", popen)
    return found


def serve(tmp_path: Path, uri: str = f"postgresql://me:{SECRET}@db/runs", **options: Any) -> str:
    with pytest.raises(KdbenchError) as caught:
        server.serve(tmp_path / "digits", uri, port=0, **options)
    return str(caught.value)


def test_the_server_listens_on_the_loopback_address_unless_asked(
    tmp_path: Path, started: list[tuple[list[str], dict[str, str]]], caplog: pytest.LogCaptureFixture
) -> None:
    serve(tmp_path)
    command = started[0][0]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert caplog.messages == []
    ui = get_command(app).commands["ui"]  # type: ignore[attr-defined]
    assert next(option.default for option in ui.params if option.name == "host") == "127.0.0.1"


def test_another_host_is_warned_about_with_the_risk_and_a_safer_way(
    tmp_path: Path, started: list[tuple[list[str], dict[str, str]]], caplog: pytest.LogCaptureFixture
) -> None:
    serve(tmp_path, host="0.0.0.0")
    assert len(caplog.messages) == 1
    assert "read, change and delete these runs" in caplog.text and "ask for no password" in caplog.text
    assert "ssh -L" in caplog.text


def test_an_empty_host_is_refused(tmp_path: Path) -> None:
    assert "which would mean every address" in serve(tmp_path, host="")


def test_the_password_of_the_database_is_in_no_command_and_no_error(
    tmp_path: Path, started: list[tuple[list[str], dict[str, str]]]
) -> None:
    message = serve(tmp_path)
    command, environment = started[0]
    assert SECRET not in " ".join(command), "every user of a machine can read the commands that run on it"
    assert environment["MLFLOW_BACKEND_STORE_URI"].endswith(f":{SECRET}@db/runs")
    assert "could not open postgresql://me:***@db/runs" in message and SECRET not in message


class Fake(http.server.BaseHTTPRequestHandler):
    """Answers what it is told to, and remembers who asked."""

    body = b"{}"
    asked: list[str | None] = []  # noqa: RUF012 - shared on purpose

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Authorization"))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def fake() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), Fake) as web:
        thread = threading.Thread(target=web.serve_forever, daemon=True)
        thread.start()
        Fake.asked.clear()
        yield web.server_address[1]
        web.shutdown()


def test_user_and_password_are_sent_to_the_server_and_shown_to_nobody(
    tmp_path: Path, fake: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fake, "body", json.dumps({"experiment": {"experiment_id": "7"}}).encode())
    said: list[str] = []
    server.serve(tmp_path / "digits", f"http://me:{SECRET}@127.0.0.1:{fake}", announce=said.append)
    assert said == [f"http://127.0.0.1:{fake}/#/experiments/7/runs?workflowType=machine_learning"]
    assert Fake.asked == ["Basic bWU6czNjcjN0LWh1bnRlcjI="]  # base64 of me:s3cr3t-hunter2


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"experiment": 3}', b"[" * 100_000, b"NaN"])
def test_an_answer_of_something_else_is_an_error_and_no_traceback(
    tmp_path: Path, fake: int, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(Fake, "body", body)
    with pytest.raises(KdbenchError, match="is no MLflow server"):
        server.serve(tmp_path / "digits", f"http://127.0.0.1:{fake}")


SOURCE = """
from pathlib import Path
Path(__file__).with_suffix(".ran").touch()
"""


def plugin(folder: Path, mode: int = 0o644) -> Path:
    path = folder / "my_method.py"
    path.write_text(SOURCE)
    path.chmod(mode)
    return path


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(plugins.ENVIRONMENT, raising=False)
    for name in ("_files", "_hashes"):
        monkeypatch.setattr(plugins, name, dict(getattr(plugins, name)))


def test_python_files_beside_a_study_are_not_run(tmp_path: Path) -> None:
    for name in ("my_method.py", "conftest.py", "kdbench_plugin.py", "sitecustomize.py"):
        (tmp_path / name).write_text(SOURCE)
    (tmp_path / "s.yaml").write_text("study: s\nmethods: {my_method: }\n")
    done = subprocess.run(
        [sys.executable, "-c", "from kdbench.cli import main; main()", "validate", "s.yaml"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "unknown method 'my_method'" in done.stderr
    assert not list(tmp_path.glob("*.ran"))


def test_a_named_plugin_is_run(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["methods", "--plugin", str(plugin(tmp_path))], catch_exceptions=False)
    assert result.exit_code == 0 and (tmp_path / "my_method.ran").exists()


def test_a_plugin_that_only_its_owner_may_write_is_no_cause_for_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plugins.load_file(plugin(tmp_path))
    assert caplog.messages == []


def test_a_plugin_that_everybody_may_write_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    path = plugin(tmp_path, 0o666)
    plugins.load_file(path)
    assert "every user of this machine may change it" in caplog.text and f"chmod o-w '{path}'" in caplog.text


def test_a_plugin_in_a_folder_that_everybody_may_write_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "shared" / "inner"
    folder.mkdir(parents=True)
    folder.parent.chmod(0o777)
    plugins.load_file(plugin(folder))
    assert f"chmod o-w '{folder.parent}'" in caplog.text


def test_a_folder_with_the_sticky_bit_protects_the_files_of_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    plugins.load_file(plugin(folder))
    assert caplog.messages == []


def test_the_hash_of_a_package_covers_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "kd_parts"
    package.mkdir()
    (package / "__init__.py").write_text("from kd_parts.inner import Mine\n")
    (package / "inner.py").write_text("class Mine: pass\n")
    (package / "losses.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = __import__("kd_parts").Mine
    hashes = []
    for source in ("X = 1\n", "X = 2\n", "X = 1\n"):
        (package / "losses.py").write_text(source)
        plugins._package_hash.cache_clear()
        plugins._file_hash.cache_clear()
        facts = plugins.origin(entry)
        assert facts is not None and facts["file"] == "inner.py"
        hashes.append(facts["sha256"])
    assert hashes[0] == hashes[2] != hashes[1]
    for name in [name for name in sys.modules if name.partition(".")[0] == "kd_parts"]:
        del sys.modules[name]
