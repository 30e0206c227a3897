"""How many trainings run side by side on this machine, and with how many threads each."""

from __future__ import annotations

import os

from kdbench.errors import KdbenchError
from kdbench.study.schema import Resources


def cores() -> int:
    """Processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def threads_for(resources: Resources, phase: str) -> int:
    """Threads of a training. A teacher trains while nothing else runs, so it may have more than the others."""
    if phase == "latency":
        return 1
    if phase == "teacher":
        return cores() if resources.cpus_per_teacher == "auto" else resources.cpus_per_teacher
    return resources.cpus_per_trial


def gpus_per_trial(resources: Resources, gpus: float) -> float:
    """GPUs that each training reserves, where there are so many."""
    if resources.gpus_per_trial == "auto":
        return 1.0 if gpus else 0.0
    return float(resources.gpus_per_trial)


def workers_for(resources: Resources, cpus: float, gpus: float) -> int:
    """Trainings side by side. Raise KdbenchError where not even one fits."""
    share = gpus_per_trial(resources, gpus)
    if resources.cpus_per_trial > cpus or share > gpus:
        raise KdbenchError(
            f"resources: a training asks for {resources.cpus_per_trial} CPU cores (cpus_per_trial) and {share:g} GPUs "
            f"(gpus_per_trial), but there are {cpus:g} cores and {gpus:g} GPUs. Ask for less."
        )
    by_cpu = int(cpus // resources.cpus_per_trial)
    return min(by_cpu, int(gpus // share)) if share else by_cpu
