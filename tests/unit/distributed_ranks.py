"""What each of two processes runs in test_distributed.py: trainings in float64 that one process runs as well.

`python distributed_ranks.py RANK FOLDER` writes FOLDER/RANK.json: by case, how far apart the two ways are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.combine import method_from
from kdbench.data.views import Views
from kdbench.errors import KdbenchError
from kdbench.nets.base import Network
from kdbench.testing.networks import TinyConv, TinyMLP, TinyPatches
from kdbench.train.batch_norm import SynchronisedBatchNorm
from kdbench.train.distributed import Group, join_group
from kdbench.train.group import ALONE, Alone, Share
from kdbench.train.loop import Training
from kdbench.train.recipe import Recipe
from kdbench.train.task import Task
from kdbench.train.teachers import LiveTeacher

N, CLASSES = 25, 5  # batches of 8, and a last one of a single sample, which is left out


class DoubleViews(Views):
    """Views in float64."""

    def batch(self, index: Tensor, view: Tensor) -> Tensor:
        return super().batch(index, view).double()


def images(n: int, seed: int) -> DoubleViews:
    pixels = torch.randint(256, (n, 8, 8, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return DoubleViews(pixels, 1, True, (0.5,) * 3, (0.25,) * 3)


class Undivided(Group):
    """A group whose batches all have fewer samples than it has processes, so that each takes all of them."""

    def share(self, low: int, high: int) -> Share:
        return Share(low, high, (high - low) / self.size, high - low)


def network(make: Callable[[int], Network], seed: int) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make(CLASSES).double()


def training(case: dict[str, Any], group: Alone) -> Training:
    """A training of a case, always the same."""
    method, make = method_from(case["method"]), {"conv": TinyConv, "patches": TinyPatches, "mlp": TinyMLP}[case["net"]]
    teacher = network(TinyConv, 1).eval()
    labels = torch.arange(case.get("n", N)) % CLASSES
    task = Task(
        train=images(len(labels), 2),
        train_labels=labels,
        validation=images(23, 3),
        validation_labels=torch.arange(23) % CLASSES,
        teacher=LiveTeacher(teacher, torch.device("cpu"), "fp32") if "teacher" in method.frozen else None,
        frozen={"teacher": teacher} if "teacher" in method.frozen else {},
        unlabelled=images(13, 4) if method.unlabelled else None,
        group=group,
    )
    recipe = Recipe(**{"epochs": 2, "batch_size": 8, "lr": 0.05, "precision": "fp32", **case.get("train", {})})
    peers = {role: network(make, 6) for role in method.trained if role != "student"}
    with torch.random.fork_rng():
        torch.set_default_dtype(torch.float64)  # of the modules that a method builds
        out = Training(method, network(make, 5), task, recipe, 7, "fp32", peers)
        torch.set_default_dtype(torch.float32)
    return out


def difference(case: dict[str, Any], group: Group) -> float:
    """The largest difference of weights, buffers and curves between two processes and one, after two epochs."""
    together, alone = training(case, group), training(case, ALONE)
    for each in (together, alone):
        while not each.over:
            each.epoch()
    pairs = [
        (a.double(), b.double())
        for one, other in zip(
            [*together.stored.values(), together.aux], [*alone.stored.values(), alone.aux], strict=True
        )
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    ]
    names = [name for name in alone.curves if name != "epoch_wall_s"]
    pairs += [(torch.tensor(together.curves[k]), torch.tensor(alone.curves[k])) for k in names]
    return max(float((a - b).abs().max()) for a, b in pairs)


def drift(case: dict[str, Any], group: Group) -> str:
    """What is said of a process whose weights have changed beside the training."""
    drifting = training(case, group)
    drifting.epoch()
    if group.rank == 1:
        with torch.no_grad():
            next(drifting.student.parameters()).add_(1e-9)
    try:
        drifting.epoch()
    except KdbenchError as error:
        return str(error)
    return ""


def own_kind(group: Group) -> dict[str, Any]:
    """What the group does about a batch norm that is none of torch's, and what a record says of it."""

    class Own(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    net = nn.Sequential(nn.BatchNorm2d(3), Own(3))
    group.join({"student": net})
    share = group.share(0, 3)
    return {"facts": group.facts(), "kinds": [type(m).__name__ for m in net], "share": [share.low, share.high]}


def main() -> None:
    """Join, run every case of cases.json, and write what came out."""
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    device = torch.device("cpu")
    order = {"rank": rank, "processes": 2, "meeting": str(folder / "meeting"), "timeout_s": 120}
    first = join_group(order, device)
    found: dict[str, Any] = {}
    for name, case in json.loads((folder / "cases.json").read_text()).items():
        found[name] = difference(case, Group(device, 120))
    found["undivided"] = difference({"method": {"name": "kd"}, "net": "conv"}, Undivided(device, 120))
    group = Group(device, 120)
    student = training({"method": {"name": "scratch"}, "net": "conv"}, group)
    student.epoch()
    found["synchronised"] = sum(isinstance(m, SynchronisedBatchNorm) for m in student.student.modules())
    found["facts"] = group.facts()
    shares = [first.share(0, 8), first.share(8, 15), first.share(15, 16)]
    found["shares"] = [[share.low, share.high, share.samples, share.of] for share in shares]
    found["drift"] = drift({"method": {"name": "scratch"}, "net": "conv"}, Group(device, 120))
    found["own_kind"] = own_kind(Group(device, 120))
    (folder / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
