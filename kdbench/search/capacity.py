"""How many trainings run side by side, here or on the nodes of a cluster, and with how many threads each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from kdbench.errors import KdbenchError
from kdbench.study.schema import Resources
from kdbench.train.splitting import ONE, Spread


@dataclass(frozen=True)
class Node:
    """One machine of a cluster. id: Ray's. host, address: its name and IP address. head: whether Ray's GCS is on it."""

    id: str
    host: str
    address: str
    cpus: float
    gpus: float
    head: bool = False

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"node {self.host} ({self.address})"


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


def fitting(resources: Resources, gpus_each: float, cpus: float, gpus: float) -> int:
    """How many trainings fit side by side where there are so many cores and GPUs. gpus_each: of one training."""
    by_cpu = int(cpus // resources.cpus_per_trial)
    return min(by_cpu, int(gpus // gpus_each)) if gpus_each else by_cpu


def workers_for(resources: Resources, cpus: float, gpus: float) -> int:
    """Trainings side by side on one machine. Raise KdbenchError where not even one fits."""
    share = gpus_per_trial(resources, gpus)
    if fitting(resources, share, cpus, gpus) < 1:
        raise KdbenchError(
            f"resources: a training asks for {resources.cpus_per_trial} CPU cores (cpus_per_trial) and {share:g} GPUs "
            f"(gpus_per_trial), but there are {cpus:g} cores and {gpus:g} GPUs. Ask for less."
        )
    return fitting(resources, share, cpus, gpus)


def workers_on(resources: Resources, nodes: Sequence[Node]) -> int:
    """Trainings side by side on all nodes; a training runs on one. Raise KdbenchError where no node has the room."""
    if len(nodes) == 1:
        return workers_for(resources, nodes[0].cpus, nodes[0].gpus)
    share = gpus_per_trial(resources, sum(node.gpus for node in nodes))
    count = sum(fitting(resources, share, node.cpus, node.gpus) for node in nodes)
    if count < 1:
        have = "; ".join(f"{node.label}: {node.cpus:g} cores, {node.gpus:g} GPUs" for node in nodes)
        raise KdbenchError(
            f"resources: a training asks for {resources.cpus_per_trial} CPU cores (cpus_per_trial) and {share:g} GPUs "
            f"(gpus_per_trial) of one node, and no node of the cluster has them ({have}). Ask for less."
        )
    return count


def visible_gpus(count: int) -> tuple[str, ...]:
    """Names of this process's GPUs, as CUDA_VISIBLE_DEVICES has them. count: how many there are."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(named.split(",")[:count]) if named is not None else tuple(map(str, range(count)))


def spread_for(resources: Resources, phase: str, gpus: float, own: Sequence[str] = ()) -> Spread:
    """Over how many processes a training of a phase is spread: one for each GPU, where it has several.

    gpus: how many there are. own: those of a machine that the study has to itself: a teacher trains while nothing else
    runs, so it may have more of them than Ray reserves for a training.
    """
    of_teacher = phase == "teacher" and resources.gpus_per_teacher is not None
    asked = resources.gpus_per_teacher if of_teacher else resources.gpus_per_trial
    if asked is not None and asked != "auto" and asked > 1:
        return Spread(int(asked), tuple(own[: int(asked)]) if of_teacher else ())
    return ONE if gpus_per_trial(resources, gpus) else Spread(resources.processes_per_trial)


def require_gpus(resources: Resources, gpus: float, *, own_machine: bool) -> None:
    """Raise KdbenchError where a training asks for more GPUs than there are, or a teacher for more than it can have."""
    trial, teacher = gpus_per_trial(resources, gpus), resources.gpus_per_teacher or 0
    for field, asked in (("gpus_per_trial", trial), ("gpus_per_teacher", teacher)):
        if asked > gpus and asked > 1:
            raise KdbenchError(f"resources.{field}: got {asked:g}, but there are {gpus:g} GPUs. Ask for less.")
    if not own_machine and teacher > max(trial, 1):
        raise KdbenchError(
            f"resources.gpus_per_teacher: got {teacher}. Allowed on a cluster: up to gpus_per_trial ({trial:g}), which "
            "is what Ray reserves. Raise that, or train the teacher before, on a machine that the study has to itself."
        )
