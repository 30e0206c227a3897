"""Where and with what a training ran."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import kdbench
from kdbench.train import environment as module
from kdbench.train.environment import cpu_name, environment, git_state, hardware, versions


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout of a package named kdbench, which is taken for the one that runs."""
    package = tmp_path / "kdbench"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (tmp_path / "README.md").write_text("")
    run(tmp_path, "init", "--quiet")
    run(tmp_path, "add", ".")
    run(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message=first")
    monkeypatch.setattr(kdbench, "__file__", str(package / "__init__.py"))
    return tmp_path


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    assert git_state() == {"commit": run(checkout, "rev-parse", "HEAD"), "dirty": False}


def test_a_changed_source_file_makes_it_dirty(checkout: Path) -> None:
    (checkout / "kdbench" / "__init__.py").write_text("changed = True")
    assert git_state()["dirty"] is True


def test_a_new_source_file_makes_it_dirty_for_a_method_is_one_new_file(checkout: Path) -> None:
    (checkout / "kdbench" / "mine.py").write_text("")
    assert git_state()["dirty"] is True


def test_results_and_notes_beside_the_package_do_not_make_it_dirty(checkout: Path) -> None:
    (checkout / "README.md").write_text("changed")
    (checkout / "notes.txt").write_text("new")
    assert git_state()["dirty"] is False


def test_outside_of_a_checkout_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kdbench, "__file__", str(tmp_path / "kdbench" / "__init__.py"))
    assert git_state() == {"commit": None, "dirty": None}


def test_without_git_nothing_is_claimed(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert git_state() == {"commit": None, "dirty": None}


def test_versions_name_what_decides_numbers() -> None:
    found = versions()
    assert found["kdbench"] == kdbench.__version__
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    assert {"python", "numpy", "optuna"} <= set(found)


def test_a_package_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", ("no_such_package",))
    assert set(versions()) == {"kdbench", "python"}


def test_hardware_is_that_of_this_machine() -> None:
    found = hardware()
    assert found["cores"] >= 1
    assert 0.1 < found["memory_gib"] < 1e5
    assert found["cpu"] == cpu_name() != ""
    assert (found["gpu"] is None) == (not torch.cuda.is_available())


def test_the_processor_is_named_where_the_system_has_no_such_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Path, *_: Any) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", missing)
    assert cpu_name()


def test_a_system_without_affinity_still_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(module.os, "sched_getaffinity")
    assert hardware()["cores"] >= 1


def test_the_environment_fits_into_a_record_and_is_read_once() -> None:
    found = environment()
    assert set(found) == {"git", "versions", "hardware"}
    assert json.loads(json.dumps(found)) == found
    assert environment() is found
