"""Before the first training: is every node of a cluster fit to run one? All that is wrong is said at once."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kdbench.errors import KdbenchError
from kdbench.plugins import GROUPS
from kdbench.redact import redact
from kdbench.search.capacity import Node, fitting, gpus_per_trial
from kdbench.search.place import inspection
from kdbench.search.place.connect import ALLOW, authenticated
from kdbench.study.schema import Resources

NEEDED = ("kdbench", "torch", "numpy", "ray", "PyYAML", "safetensors", "pydantic", "platformdirs")
AS_HERE = ("torchvision", "timm", "pillow", "scipy", "scikit-learn")  # needed where the driver has them
SAME = ("kdbench", "torch", "numpy", "ray", "torchvision", "timm", "pillow", "scipy")  # their versions decide numbers
ANSWER_S = 180.0
GIB = 2**30
DISK_GIB, MEMORY_GIB = 1.0, 0.5  # at least; memory for each training
CLOCK_S = 2.0

log = logging.getLogger(__name__)
Facts = Mapping[str, Any]


def preflight(resources: Resources, nodes: Sequence[Node]) -> None:
    """Look at every node on which a training may run, and at the head node.

    Raise KdbenchError with one line for each thing that is wrong, which names the node, what it has, what the driver
    has, and what to do. What is odd but no reason to stop is logged.
    """
    packages = [*NEEDED, *(name for name in AS_HERE if inspection.version_of(name) is not None)]
    storage = resources.storage
    marker = put_marker(storage) if storage is not None else ""
    try:
        here = inspection.look(packages, list(GROUPS), storage, marker, nodes[0].gpus)
        there = look_at(nodes, [packages, list(GROUPS), storage, marker])
    finally:
        if storage is not None:
            remove_marker(storage, marker)
    share = gpus_per_trial(resources, sum(node.gpus for node in nodes))
    lines = []
    for node in nodes:
        workers = fitting(resources, share, node.cpus, node.gpus)
        lines += judge(node, here, there[node.id], workers)
        for text in oddities(node, here, there[node.id]) if workers else ():
            log.warning("%s", text)
    if lines:
        raise KdbenchError(redact("\n".join(["the cluster is not ready:", *lines])))


def look_at(nodes: Sequence[Node], arguments: list[Any]) -> dict[str, Facts | str]:
    """What every node says about itself, or why it does not, by its id."""
    ray.cloudpickle.register_pickle_by_value(inspection)  # kdbench may be missing there
    try:
        look: Any = ray.remote(num_cpus=0, max_retries=0)(inspection.look)
        asked = {
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(
                *arguments, node.gpus
            ): node
            for node in nodes
        }
    finally:
        ray.cloudpickle.unregister_pickle_by_value(inspection)
    found: dict[str, Facts | str] = {}
    limit = time.monotonic() + ANSWER_S
    waiting = list(asked)
    while waiting and (left := limit - time.monotonic()) > 0:
        done, waiting = ray.wait(waiting, num_returns=1, timeout=left)
        for answer in done:
            try:
                facts = ray.get(answer)
                found[asked[answer].id] = {**facts, "clock_offset_s": facts["clock_s"] - time.time()}
            except ray.exceptions.RayError as error:
                found[asked[answer].id] = f"cannot be looked at ({' '.join(str(error).split())[-300:]})"
    for answer in waiting:
        ray.cancel(answer, force=True)
        found[asked[answer].id] = f"did not answer within {ANSWER_S:.0f} s"
    return found


def judge(node: Node, here: Facts, there: Facts | str, workers: int) -> list[str]:
    """What is wrong with a node. here: of the driver; there: of the node; workers: trainings that will run on it.

    Of a node that runs none, such as a head node without CPUs, only the authentication counts.
    """
    if isinstance(there, str):
        return [f"{node.label}: {there}. Is it reachable from this machine, and does Ray run there?"] if workers else []
    found = []
    if authenticated() and there["authentication"] != "token":
        found.append(
            f"its Ray runs without token authentication (RAY_AUTH_MODE={there['authentication'] or 'unset'}), here it "
            f"is asked for. Start Ray there with RAY_AUTH_MODE=token and the token (docs/cluster.md), or set {ALLOW}=1"
        )
    if workers:
        found += [*versions(here, there), *room(there, workers), *devices(node, there)]
    return [f"{node.label}: {text}." for text in found]


def versions(here: Facts, there: Facts) -> list[str]:
    """What differs in software."""
    found = []
    if there["python"] != here["python"]:
        found.append(f"Python is {there['python']}, here {here['python']}. Install Python {here['python']} there")
    for name, own in here["versions"].items():
        other = there["versions"].get(name)
        if other is None and own is not None:
            found.append(f"{name} is missing, here it is {own}. Run there: pip install '{name}=={own}'")
        elif name in SAME and other != own:
            found.append(f"{name} is {other}, here {own}. Run there: pip install '{name}=={own}'")
    if there["kdbench_sha256"] not in (None, here["kdbench_sha256"]):
        found.append(
            f"the source of kdbench is another one ({there['kdbench_sha256'][:12]}, here {here['kdbench_sha256'][:12]})"
            ". Install the same kdbench there"
        )
    for name, own in here["plugins"].items():
        other = there["plugins"].get(name)
        if other != own:
            what = "is missing" if other is None else f"has another source ({other[:12]}, here {own[:12]})"
            found.append(f"the plug-in {name} {what}. Install the same there")
    found += [
        f"the plug-in {name} is installed, here it is not. Remove it there, or install it here"
        for name in there["plugins"]
        if name not in here["plugins"]
    ]
    return found


def room(there: Facts, workers: int) -> list[str]:
    """What lacks room or cannot be written."""
    found = []
    if there["scratch_error"] is not None:
        found.append(f"{there['scratch']} cannot be written ({there['scratch_error']}). Set KDBENCH_CACHE there")
    elif (disk := there["disk_free_bytes"] / GIB) < DISK_GIB:
        found.append(f"{disk:.1f} GiB are free in {there['scratch']}, needed are {DISK_GIB:g}. Set KDBENCH_CACHE there")
    memory, needed = there["memory_free_bytes"] / GIB, MEMORY_GIB * workers
    if 0 < memory < needed:
        each = f"{MEMORY_GIB:g} for each of {workers} trainings"
        found.append(f"{memory:.1f} GiB of memory are free, needed are {needed:g} ({each}). Give Ray fewer CPUs there")
    if there["storage_error"] is not None:
        found.append(
            f"resources.storage cannot be used ({there['storage_error']}). Name a place that every node can write"
        )
    return found


def devices(node: Node, there: Facts) -> list[str]:
    """GPUs that Ray gives away and torch does not see."""
    if node.gpus and not there["gpu"]:
        return [f"Ray has {node.gpus:g} GPUs there, but torch sees none. Install a torch for CUDA and the driver"]
    return []


def oddities(node: Node, here: Facts, there: Facts | str) -> list[str]:
    """What a person should know, though a study can run."""
    if isinstance(there, str):
        return []
    found = []
    if abs(offset := there["clock_offset_s"]) > CLOCK_S:
        found.append(f"its clock is {offset:+.0f} s off this one's, and with it the times in records made there")
    if there["cpu_flags"] != here["cpu_flags"]:
        odd = ", ".join(sorted(set(there["cpu_flags"]) ^ set(here["cpu_flags"])))
        found.append(f"its processor differs from this one's in {odd}, so precision and last digits may")
    if (there["gpu"] or "") != (here["gpu"] or ""):
        found.append(f"its GPU is {there['gpu'] or 'none'}, here {here['gpu'] or 'none'}")
    return [f"{node.label}: {text}." for text in found]


def put_marker(storage: str) -> str:
    """Leave a file in the storage; returns its name. Raise KdbenchError where that fails."""
    marker = f".kdbench-marker-{uuid.uuid4().hex}"
    try:
        from fsspec.core import url_to_fs

        files, root = url_to_fs(storage)
        files.makedirs(root, exist_ok=True)
        files.pipe_file(f"{root}/{marker}", b"kdbench")
    except Exception as error:  # whatever a file system of fsspec raises is what is wrong with it
        raise KdbenchError(
            redact(
                f"resources.storage: '{storage}' cannot be written ({type(error).__name__}: {error}). Allowed: a "
                "folder or a URL of fsspec that every node can write, such as s3://bucket/prefix (needs s3fs)."
            )
        ) from error
    return marker


def remove_marker(storage: str, marker: str) -> None:
    """Take the file away again."""
    from fsspec.core import url_to_fs

    files, root = url_to_fs(storage)
    try:
        files.rm_file(f"{root}/{marker}")
    except OSError as error:
        log.warning("%s/%s is left over: %s", redact(storage), marker, error)
