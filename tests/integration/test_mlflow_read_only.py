"""MLflow's database on a disk that turned read-only: the study does not notice, and `kdbench sync` completes it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from invariants import unmirrored
from small import facts, kdbench_cli, start, write_study
from test_mlflow_server import search

from kdbench.track.background import BackgroundMirror
from kdbench.track.mirror import Mirror

pytestmark = pytest.mark.slow
SHORT = [
    "--set", "source=null", "--set", "methods={scratch: {}, kd: {}}", "--set", "train.epochs=1", "--set",
    "final.seeds=1",
]  # fmt: skip


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """A file that nobody can write to, not even root; mounting needs root."""
    subprocess.run(["mount", "--bind", path, path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def test_a_study_ends_as_without_mlflow_and_sync_completes_it_once_the_file_can_be_written(tmp_path: Path) -> None:
    other = tmp_path / "without"
    other.mkdir()
    assert kdbench_cli("run", write_study(other), "--results", other, *SHORT).exit_code == 0
    folder = tmp_path / "small"
    folder.mkdir()
    Mirror(folder).experiment.connect()
    study = write_study(tmp_path, mlflow='"auto"')
    with read_only(folder / "mlflow.db"):
        run = start("run", str(study), "--results", str(tmp_path), *SHORT, cwd=tmp_path)
        output, _ = run.communicate(timeout=250)
    assert run.returncode == 0, output
    assert facts(folder) == facts(other / "small")
    said, count = " ".join(output.split()), len(list((folder / "records").glob("*.json")))
    assert f"MLflow lacks {count} records; write them with: kdbench sync" in said, output
    assert "mlflow.db: the file is read-only (make it, or its disk, writable)" in said and "Traceback" not in said
    assert unmirrored(folder) == []


def test_a_file_that_turns_read_only_behind_the_check_is_told_on_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    make = "import sys, pathlib, kdbench.track.mlflow as m; m.Experiment(pathlib.Path(sys.argv[1])).connect()"
    subprocess.run([sys.executable, "-c", make, tmp_path], check=True)  # this process would keep the file open
    monkeypatch.setattr("kdbench.track.mlflow.require_writable", lambda uri: None)
    with read_only(tmp_path / "mlflow.db"):
        background = BackgroundMirror(tmp_path)
        background.write(search(1))
        assert background.close(timeout=60) == (search(1).key,)
    (line,) = [record.message for record in caplog.records if record.name == "kdbench.track"]
    assert "MLflow lacks what comes now, and the study goes on" in line and "\n" not in line
    assert "Traceback" not in "".join(capfd.readouterr())
