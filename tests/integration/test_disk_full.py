"""A disk that is full or read-only: nothing that was written is harmed, and the study goes on when there is room."""

from __future__ import annotations

import contextlib
import errno
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small import facts, kdbench_cli, start, write_study

SHORT = [
    "--set", "source=null", "--set", "methods={scratch: {}, kd: {}}", "--set", "train.epochs=1", "--set",
    "final.seeds=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert kdbench_cli("run", write_study(folder), "--results", folder, *SHORT).exit_code == 0
    return folder / "small"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB of its own, in memory; mounting needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "kdbench-test", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Leave no room at all; returns the file that takes it."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)
    return ballast


def wait_for(condition: object, seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < limit, "it did not come"
        time.sleep(0.02)


def contents(disk: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (disk / "small/records").glob("*.json")}


def test_a_study_goes_on_when_there_is_room_again(tmp_path: Path, disk: Path, undisturbed: Path) -> None:
    run = start("run", str(write_study(tmp_path)), "--results", str(disk), *SHORT, cwd=tmp_path)
    try:
        wait_for(lambda: len(contents(disk)) >= 2)
        ballast = fill(disk)
        before, lines = contents(disk), []
        assert run.stdout is not None
        for line in run.stdout:
            lines.append(line)
            if "No space left on device. Trying again for 300 s" in line:
                time.sleep(0.5)
                assert {name: contents(disk)[name] for name in before} == before
                ballast.unlink()
        assert run.wait(timeout=60) == 0, "".join(lines)
    finally:
        run.kill()
    assert any("The disk takes files again" in line for line in lines)
    assert facts(disk / "small") == facts(undisturbed)


def test_a_disk_that_stays_full_ends_the_run_in_order(tmp_path: Path, disk: Path, undisturbed: Path) -> None:
    study = write_study(tmp_path)
    run = start("run", str(study), "--results", str(disk), *SHORT, cwd=tmp_path, KDBENCH_DISK_PATIENCE_S="0.5")
    wait_for(lambda: len(contents(disk)) >= 2)
    ballast = fill(disk)
    before = contents(disk)
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 2, output
    assert "Traceback" not in output
    last = output.strip().splitlines()[-1]
    assert last.startswith(str(disk)) and "No space left on device" in last and "run the same command again" in last
    assert {name: contents(disk)[name] for name in before} == before
    second = start("run", str(study), "--results", str(disk), *SHORT, cwd=tmp_path)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 2 and "No space left on device" in output and "Traceback" not in output
    ballast.unlink()
    assert kdbench_cli("run", study, "--results", disk, *SHORT).exit_code == 0
    assert facts(disk / "small") == facts(undisturbed)


def test_a_read_only_disk_is_said_before_anything_runs(tmp_path: Path, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(OSError, match="Read-only file system") as error:
        kdbench_cli("run", write_study(tmp_path), "--results", disk, *SHORT)
    assert error.value.errno == errno.EROFS and str(disk) in str(error.value.filename)
