"""What `kdbench ui` decides before and around the server; the server itself is in tests/integration."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from kdbench.errors import KdbenchError
from kdbench.track import server


def test_a_port_that_is_taken_is_an_error_that_offers_another() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(KdbenchError, match=rf"port {port} of 127.0.0.1 is taken.*--port \d+"):
            server.free_port("127.0.0.1", port)


def test_port_zero_is_any_free_port() -> None:
    assert server.free_port("127.0.0.1", 0) > 1023


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(KdbenchError, match=r"cannot listen on 192\.0\.2\.1"):  # TEST-NET-1, RFC 5737
        server.free_port("192.0.2.1", 0)


def test_a_study_without_a_store_is_told_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(KdbenchError, match="kdbench sync digits"):
        server.serve(tmp_path / "digits")


def test_a_missing_mlflow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "available", lambda: False)
    with pytest.raises(KdbenchError, match=r"kdbench\[mlflow\]"):
        server.serve(tmp_path / "digits")


def test_a_server_that_is_not_there_is_reported_and_nothing_is_started(tmp_path: Path) -> None:
    port = server.free_port("127.0.0.1", 0)
    with pytest.raises(KdbenchError, match="does not answer"):
        server.serve(tmp_path / "digits", f"http://127.0.0.1:{port}")


def test_waiting_ends_when_the_process_has_ended_or_the_time_is_up() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    port = server.free_port("127.0.0.1", 0)
    assert not server.wait_until_up(f"http://127.0.0.1:{port}", ended)
    assert not server.wait_until_up(f"http://127.0.0.1:{port}", timeout=0.3)


def test_what_answers_in_another_language_is_not_a_server_that_is_up() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        speaker = threading.Thread(target=_speak, args=(other,), daemon=True)
        speaker.start()
        assert not server.wait_until_up(f"http://127.0.0.1:{other.getsockname()[1]}", timeout=0.5)


def _speak(listener: socket.socket) -> None:
    with suppress(OSError):  # the test has closed it
        while True:
            connection, _ = listener.accept()
            connection.sendall(b"\x00\x00\x18\x04\x00\x00\x00\x00\x00\r\n")  # how gRPC greets
            connection.close()


def test_ending_a_group_ends_children_that_ignore_the_first_signal() -> None:
    child = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', {child!r}]); print(c.pid); c.wait()"
    leader = subprocess.Popen([sys.executable, "-uc", parent], stdout=subprocess.PIPE, start_new_session=True)
    assert leader.stdout is not None
    lines = {leader.stdout.readline().strip(), leader.stdout.readline().strip()}
    child_pid = int(next(iter(lines - {b"up"})))
    server.end_group(leader, patience=0.5)
    leader.stdout.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _runs(child_pid):
        time.sleep(0.05)
    assert not _runs(child_pid)
    assert leader.returncode == -signal.SIGTERM


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"  # a zombie has ended
