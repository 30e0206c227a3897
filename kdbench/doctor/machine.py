"""The machine: cores and threads, bf16 and GPUs, memory, disks, the clock."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import kdbench
from kdbench.doctor.finding import Finding, Level
from kdbench.record import TrialRecord
from kdbench.search.capacity import cores

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
GIB = 2**30
LITTLE_GIB, TOO_LITTLE_GIB = 5.0, 0.5  # of disk
LITTLE_MEMORY_GIB, TOO_LITTLE_MEMORY_GIB = 2.0, 0.5
LONGEST_RAY_FOLDER = 40  # characters: Ray's sockets lie 60 below it, and a socket's path ends at 107
JUMP_S = 1.0
AHEAD = timedelta(minutes=5)


def hardware() -> Iterator[Finding]:
    """Processor, cores, threads, bf16, GPU."""
    import torch

    from kdbench.train.environment import hardware as facts_of_machine
    from kdbench.train.recipe import cpu_has_bf16

    facts = facts_of_machine()
    bf16 = "native bf16" if cpu_has_bf16() else "no native bf16: `precision: auto` means fp32"
    yield Finding("hardware", "ok", f"{facts['cpu']}, {facts['cores']} cores, {facts['cpu_capability']}, {bf16}")
    if (quota := cpu_quota()) is not None and quota < facts["cores"]:
        what = f"a container limit of {quota:g} CPUs, but {facts['cores']} cores are seen"
        todo = f"Start so many trainings only: taskset --cpu-list 0-{max(int(quota), 1) - 1} kdbench run ..."
        yield Finding("hardware", "warning", what, todo)
    for name in THREADS:
        value = os.environ.get(name)
        if value and value.isdigit() and int(value) > cores():
            yield Finding("hardware", "warning", f"{name} is {value}, more than the {cores()} cores", f"unset {name}")
    if facts["gpu"]:
        free, total = torch.cuda.mem_get_info()
        yield Finding("hardware", "ok", f"GPU {facts['gpu']}, {free / GIB:.1f} of {total / GIB:.1f} GiB free")
    elif Path("/dev/nvidia0").exists():
        todo = "Install a torch that was built for this driver (nvidia-smi names its CUDA version)."
        yield Finding("hardware", "warning", f"there is a GPU, but torch {torch.__version__} does not see it", todo)
    else:
        yield Finding("hardware", "ok", "no GPU: trainings run on the CPU")


def cpu_quota(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> float | None:
    """CPUs that a container may use, from its quota; None without a limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = path.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    return None


def memory() -> Iterator[Finding]:
    """Memory that is free, and how much of it Ray may share between processes."""
    free = available_gib()
    if free is not None:
        level = graded(free, LITTLE_MEMORY_GIB, TOO_LITTLE_MEMORY_GIB)
        todo = "" if level == "ok" else "End other programs, or run fewer trainings: resources.cpus_per_trial."
        yield Finding("memory", level, f"{free:.1f} GiB free", todo)
    shared = Path("/dev/shm")
    if shared.is_dir() and (room := shutil.disk_usage(shared).free / GIB) < 1:
        yield Finding("memory", "warning", f"/dev/shm has {room:.2f} GiB free, which Ray shares data through",
                      "Give it more: in Docker, docker run --shm-size=4g.")  # fmt: skip


def available_gib(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Memory that can still be used, within the limit of a container too; None where the system does not tell."""
    found: list[float] = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) * 1024 / GIB)
    with contextlib.suppress(OSError, ValueError):  # the limit may be the word `max`
        limit, used = (int((cgroup / name).read_text()) for name in ("memory.max", "memory.current"))
        found.append(max(limit - used, 0) / GIB)
    return min(found, default=None)


def graded(value: float, little: float, too_little: float) -> Level:
    """How bad it is that there is so little of something."""
    return "problem" if value < too_little else "warning" if value < little else "ok"


def disks(places: Mapping[str, Path]) -> Iterator[Finding]:
    """Free space where results, caches and temporary files go, and whether they can be written."""
    from kdbench.train.shelf import shelf_folder

    shelf = shelf_folder()
    caches = {} if shelf is None else {"cache": shelf.parent}
    ray = os.environ.get("RAY_TMPDIR")
    for name, place in {**places, **caches, **({"Ray's files": Path(ray)} if ray else {})}.items():
        yield from disk(name, place)
    folder = ray or tempfile.gettempdir()
    if len(folder) > LONGEST_RAY_FOLDER:
        yield Finding("disk", "warning", f"Ray's temporary folder {folder} has a long path, and its sockets lie in it",
                      "Choose a shorter one: export RAY_TMPDIR=/tmp")  # fmt: skip


def disk(name: str, place: Path) -> Iterator[Finding]:
    """One folder, or the nearest one above it that there is."""
    there = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir())
    usage, files = shutil.disk_usage(there), os.statvfs(there)
    free = usage.free / GIB
    about = f"{name}: {free:.1f} GiB free in {there}"
    if not os.access(there, os.W_OK | os.X_OK) or files.f_flag & os.ST_RDONLY:
        yield Finding(
            "disk", "problem", f"{name}: {there} cannot be written", "Choose another folder, or mend its rights."
        )
    elif files.f_files and not files.f_favail:
        yield Finding(
            "disk", "problem", f"{name}: no file can be added in {there} (no inodes left)", "Delete files there."
        )
    else:
        level = graded(free, LITTLE_GIB, TOO_LITTLE_GIB)
        yield Finding("disk", level, about, "" if level == "ok" else "Make room: `kdbench cache --clear` frees caches.")


def clock(wall: float, monotonic: float, records: Mapping[str, TrialRecord]) -> Iterator[Finding]:
    """Whether the clock is right as far as this machine can tell. wall, monotonic: both clocks some seconds ago."""
    drift = (time.time() - wall) - (time.monotonic() - monotonic)
    now = datetime.now(UTC)
    built = datetime.fromtimestamp(Path(kdbench.__file__).stat().st_mtime, UTC)
    ahead = sum(1 for record in records.values() if (ended := instant(record.ended)) and ended > now + AHEAD)
    todo = "Set the clock, and keep it set: timedatectl set-ntp true. Durations are not affected."
    if abs(drift) > JUMP_S:
        yield Finding("clock", "warning", f"the clock jumped by {drift:+.1f} s while this ran", todo)
    if now < built - AHEAD:
        yield Finding(
            "clock", "warning", f"it is {now:%Y-%m-%d %H:%M} UTC, which is before kdbench was installed", todo
        )
    elif ahead:
        yield Finding("clock", "warning", f"{ahead} records of the study ended in the future of this clock", todo)
    else:
        yield Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC")


def instant(text: str) -> datetime | None:
    """A time in ISO 8601 with its zone; None for what is none."""
    with contextlib.suppress(ValueError):
        found = datetime.fromisoformat(text)
        return found if found.tzinfo is not None else None
    return None
