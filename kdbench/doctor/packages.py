"""Versions of Python and of the packages that kdbench needs, against those that it was made for."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping

from packaging.requirements import Requirement
from packaging.version import Version

import kdbench
from kdbench.doctor.finding import Finding, Level
from kdbench.search.place import family
from kdbench.track.server import end_group

PYTHON = "3.11"
OPTIONAL = ("ray", "mlflow", "report", "vision", "dvc")  # extras that people install; `dev` is for kdbench's own tests


def versions(needed: Iterable[str]) -> Iterator[Finding]:
    """needed: extras that the study cannot do without."""
    version = platform.python_version()
    if Version(version) < Version(PYTHON):
        todo = f"Install Python {PYTHON} or newer."
        yield Finding("packages", "problem", f"Python {version}, needed is {PYTHON}", todo)
    else:
        yield Finding("packages", "ok", f"Python {version}, kdbench {kdbench.__version__}")
    try:
        asked = importlib.metadata.requires("kdbench") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", "warning", "kdbench is not installed, so versions cannot be checked",
                      "Install it: pip install kdbench, or pip install --editable . in its sources.")  # fmt: skip
        return
    yield from judged(map(Requirement, asked), installed, set(needed))


def installed(name: str) -> str | None:
    """Version of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def judged(
    asked: Iterable[Requirement], version_of: Callable[[str], str | None], needed: set[str]
) -> Iterator[Finding]:
    """One line for all that is right, and one for each package that is missing or has a version that does not fit."""
    right: list[str] = []
    missing: dict[str, list[str]] = {}
    for requirement in asked:
        extra = extra_of(requirement)
        if requirement.name == "kdbench" or extra not in (None, *OPTIONAL):
            continue
        version = version_of(requirement.name)
        if version is None:
            missing.setdefault(extra or "", []).append(requirement.name)
        elif requirement.specifier.contains(version, prereleases=True):
            right.append(f"{requirement.name} {version}")
        else:
            todo = f"Install one that fits: pip install '{requirement.name}{requirement.specifier}'."
            level: Level = "problem" if extra in (None, *needed) else "warning"
            yield Finding("packages", level, f"{requirement.name} {version}, needed is {requirement.specifier}", todo)
    yield Finding("packages", "ok", ", ".join(right) or "none of the packages that kdbench needs")
    for extra, names in missing.items():
        what = f"not installed: {', '.join(names)}"
        if not extra:
            yield Finding("packages", "problem", what, f"pip install {' '.join(names)}")
        elif extra in needed:
            yield Finding("packages", "problem", f"{what}, which the study needs", f"pip install 'kdbench[{extra}]'")
        else:
            yield Finding("packages", "ok", f"{what} (optional: pip install 'kdbench[{extra}]')")


def extra_of(requirement: Requirement) -> str | None:
    """The extra that asks for a package; None where everybody needs it."""
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        return None
    extras = (*OPTIONAL, "dev", "all")
    return next((extra for extra in extras if requirement.marker.evaluate({"extra": extra})), "")


def torchvision() -> Iterator[Finding]:
    """Whether torchvision can be imported: one that was built for another torch takes torchmetrics and timm along."""
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        what = f"torchvision cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}"
        todo = "Install the torchvision that belongs to the torch that is installed, built for CPU or CUDA alike."
        yield Finding("packages", "warning", what, todo)


def answer(code: str, environment: Mapping[str, str], seconds: float) -> object:
    """What a Python process of its own prints as JSON in its last line; None if it does not within the time.

    Of its own, so that what hangs can be ended, with all that it has started, and nothing is left behind here.
    """
    mark = secrets.token_hex(8)
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **environment, family.MARK: mark}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        family.end(mark)
        end_group(process, patience=0.1)  # where there is no /proc
        if process.stdout is not None:
            process.stdout.close()
    lines = output.decode(errors="replace").strip().splitlines()
    try:
        return json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
