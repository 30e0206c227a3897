"""An environment of its own for torchdistill, beside the packages that kdbench itself runs with."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

from kdbench.errors import KdbenchError

VERSION = "1.1.5"
ROOT = Path(__file__).resolve().parents[2]


def torchdistill_python(folder: Path) -> Path:
    """The Python of a virtual environment in `folder` that has torchdistill, made if it is not there.

    torch and all else come from the environment that runs the benchmark, so that both sides run the same torch. Raise
    KdbenchError that says what pip said if it cannot be installed, or does not import with this torch.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        done([sys.executable, "-m", "venv", "--without-pip", str(folder)], "making a virtual environment")
    packages = next(folder.glob("lib/python*/site-packages"))
    lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    (packages / "shared.pth").write_text("\n".join(lines) + "\n")
    if not (packages / "torchdistill").exists():
        install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
        done([*install, f"torchdistill=={VERSION}"], "installing torchdistill")
    done([str(python), "-c", "import torchdistill.core.distillation"], "importing torchdistill")
    return python


def environment() -> dict[str, str]:
    """Environment variables of a rival's process: one thread each, and kdbench importable for its networks."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": path}


def done(command: list[str], what: str) -> None:
    """Run a command. Raise KdbenchError with the end of what it said if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, env=environment())
    if result.returncode:
        said = " ".join((result.stderr or result.stdout).split())[-400:]
        raise KdbenchError(f"{what} failed with status {result.returncode}: {said}")
