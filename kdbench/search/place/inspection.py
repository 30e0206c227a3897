"""What a node of a cluster has: versions, sources, room. Runs on nodes where kdbench may be missing.

It is sent there as code, not by name, so it uses the standard library alone and nothing of kdbench's.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
CUDA = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"


def look(packages: list[str], groups: list[str], storage: str | None, marker: str, gpus: float) -> dict[str, Any]:
    """Facts of this node as plain values.

    packages: distributions whose versions are asked for. groups: of entry points, by which plug-ins are installed.
    storage: folder or URL that has to hold a file `marker`, in which a file is written. gpus: that Ray gives away here.
    """
    scratch = scratch_root()
    return {
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in packages},
        "kdbench_sha256": hash_of_package("kdbench"),
        "plugins": installed_plugins(groups),
        "authentication": os.environ.get("RAY_AUTH_MODE", "").lower(),
        "scratch": str(scratch),
        "scratch_error": written_in(scratch),
        "disk_free_bytes": shutil.disk_usage(existing(scratch)).free,
        "memory_free_bytes": memory_free(),
        "storage_error": storage_error(storage, marker) if storage is not None else None,
        "cpu_flags": cpu_flags(),
        "gpu": gpu_name() if gpus else None,
        "clock_s": time.time(),  # of this machine, compared with the driver's
    }


def version_of(name: str) -> str | None:
    """The installed version of a distribution; None where it is missing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if name != "kdbench" or (spec := importlib.util.find_spec(name)) is None or spec.origin is None:
            return None
        text = Path(spec.origin).read_text()  # runs from its source tree
        return text.partition('__version__ = "')[2].partition('"')[0] or None


def hash_of_package(name: str) -> str | None:
    """SHA-256 of names and contents of a package's Python files, or of a module's one file; None where it is missing.

    Nothing is imported.
    """
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [(file, file.relative_to(folder)) for folder in folders for file in sorted(folder.rglob("*.py"))]
    if not folders and spec.origin is not None:
        files = [(Path(spec.origin), Path(Path(spec.origin).name))]
    digest = hashlib.sha256()
    for file, name_there in files:
        digest.update(f"{name_there.as_posix()}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def installed_plugins(groups: list[str]) -> dict[str, str]:
    """Hash of the sources of every installed package that offers plug-ins, by the name of its distribution."""
    points = [point for group in groups for point in importlib.metadata.entry_points(group=group)]
    return {
        point.dist.name if point.dist is not None else point.name: str(hash_of_package(point.module.partition(".")[0]))
        for point in points
    }


def scratch_root() -> Path:
    """The folder below which workers on this node keep their files: `runs` in KDBENCH_CACHE, else in the user's cache
    folder of kdbench; in the folder for temporary files where KDBENCH_CACHE is `off`."""
    named = os.environ.get("KDBENCH_CACHE")
    if named == "off":
        return Path(tempfile.gettempdir()) / f"kdbench-{os.getuid()}" / "runs"
    if named:
        return Path(named).expanduser().resolve() / "runs"
    try:
        import platformdirs
    except ModuleNotFoundError:  # reported as a missing package
        return Path(tempfile.gettempdir()) / f"kdbench-{os.getuid()}" / "runs"
    return Path(platformdirs.user_cache_dir("kdbench")) / "runs"


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def written_in(folder: Path) -> str | None:
    """Why a file cannot be written in a folder; None if it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        return error.strerror or str(error)
    return None


def memory_free() -> int:
    """Bytes of memory that are available to this process, its control group's limit included; 0 if nobody says."""
    free = [0]
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
        free = [int(lines["MemAvailable"].split()[0]) * 1024]
    except (OSError, KeyError, ValueError):
        pass  # not Linux
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # no such control group, or no limit
            free.append(int((Path(folder) / limit).read_text()) - int((Path(folder) / used).read_text()))
    return max(min(free), 0)


def storage_error(storage: str, marker: str) -> str | None:
    """Why checkpoints cannot be kept there; None if they can: the driver's file is there, and one can be written."""
    try:
        from fsspec.core import url_to_fs

        files, root = url_to_fs(storage)
        if not files.exists(f"{root}/{marker}"):
            return "the file that the driver wrote there is not there: it is another place than the driver's"
        probe = f"{root}/.kdbench-probe-{uuid.uuid4().hex}"
        files.pipe_file(probe, b"kdbench")
        files.rm_file(probe)
    except Exception as error:  # whatever a file system of fsspec raises is what is wrong with it
        return f"{type(error).__name__}: {error}"
    return None


def cpu_flags() -> list[str]:
    """Those instruction sets of the processor that decide how trainings compute."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    line = next((line for line in text.splitlines() if line.lower().startswith(("flags", "features"))), "")
    return sorted(set(FLAGS) & set(line.split()))


def gpu_name() -> str:
    """The GPU as torch sees it, empty where it sees none. A process of its own, for this one may be given none."""
    free = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run([sys.executable, "-c", CUDA], capture_output=True, text=True, env=free, timeout=120)
    return done.stdout.strip()
