"""One training over several processes of a machine: what runs in each of them.

Every process draws the same order and the same views from the same seeds, and takes its share of each batch; gradients
are averaged by the number of samples, batch norms take the statistics of all, and every process makes the same step.
So a training is the same, but for rounding, whatever the number of processes. The first process keeps checkpoints,
evaluates on the test images and writes the record.

`python -m kdbench.train.distributed` is started by kdbench/train/spread.py, which sees to it that none is left waiting.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdbench.errors import CheckpointError, KdbenchError
from kdbench.record import Job, TrialRecord
from kdbench.store import Store
from kdbench.train.batch_norm import Synchronised, synchronise
from kdbench.train.engine import Engine
from kdbench.train.faults import fault_of
from kdbench.train.group import Alone, Share
from kdbench.train.parcel import Parcel
from kdbench.train.recipe import Recipe
from kdbench.train.run import CHECKPOINT, failed, run_job
from kdbench.train.starts import starts_of
from kdbench.train.student import training_of
from kdbench.train.workshop import Workshop


class Losses(nn.Module):
    """What is trained, as the one module that DistributedDataParallel wraps: its forward pass is the loss."""

    def __init__(self, nets: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleDict(nets)

    def forward(self, loss_of: Callable[[], Tensor]) -> Tensor:
        """The loss."""
        return loss_of()


class Group(Alone):
    """The processes of torch.distributed, of which this is one.

    A batch with fewer samples than processes is not divided: every process takes all of it, and stands for its part.
    """

    def __init__(self, device: torch.device, timeout_s: float) -> None:
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device
        self.seed_names = (self.rank,) if self.rank else ()
        # Each has its own sequence of messages: those of gradients and of statistics may cross.
        # Without a limit of their own they would wait as long as torch finds right.
        limit = datetime.timedelta(seconds=timeout_s)
        self.statistics = dist.new_group(timeout=limit)
        self.alone = [dist.new_group([rank]) for rank in range(self.size)][self.rank]
        self.norms: list[Synchronised] = []
        self.unsynchronised: list[str] = []
        self.wrapped: nn.parallel.DistributedDataParallel | None = None

    def share(self, low: int, high: int) -> Share:
        """As equal parts as there can be, the larger ones first."""
        n = high - low
        if n < self.size * (2 if self.unsynchronised else 1):  # statistics of a process need two samples
            return Share(low, high, n / self.size, n)
        size, more = divmod(n, self.size)
        first = low + self.rank * size + min(self.rank, more)
        last = first + size + (self.rank < more)
        return Share(first, last, last - first, n)

    def join(self, nets: Mapping[str, nn.Module]) -> None:
        """Synchronise batch norms and wrap the modules, which take the weights of the first process."""
        if self.wrapped is not None:
            return
        self.norms, self.unsynchronised = synchronise(nets.values())
        # Not every method uses every parameter in every step.
        self.wrapped = nn.parallel.DistributedDataParallel(Losses(nets), find_unused_parameters=True)

    def forward(self, loss_of: Callable[[], Tensor], share: Share) -> Tensor:
        """The loss of the share by its weight: the average over processes is that of the batch."""
        if self.wrapped is None:
            raise KdbenchError("a group of processes makes no step before it has joined")
        whole = share.high - share.low == share.of
        for norm in self.norms:
            norm.process_group = self.alone if whole else self.statistics
        loss: Tensor = self.wrapped(loss_of)
        return loss * (share.samples * self.size / share.of)

    def total(self, sums: Tensor) -> Tensor:
        """The sum over all processes."""
        dist.all_reduce(sums)
        return sums

    def agree(self, value: int) -> int:
        """The value of the first process, which has to be an integer."""
        said = torch.tensor(int(value), device=self.device)
        dist.broadcast(said, src=0)
        return int(said)

    def align(self, nets: Iterable[nn.Module]) -> None:
        """Buffers of the first process for all. Raise KdbenchError where trained weights have drifted apart."""
        for norm in self.norms:
            norm.process_group = None  # a group cannot be copied, and a student can
        modules = list(nets)
        for buffer in (buffer for module in modules for buffer in module.buffers()):
            dist.broadcast(buffer, src=0)
        sums = [p.detach().double().sum() for module in modules for p in module.parameters()]
        mine = torch.stack(sums).nan_to_num(posinf=0.0, neginf=0.0)
        first = mine.clone()
        dist.broadcast(first, src=0)
        if self.total((mine != first).any().to(torch.float32)):
            raise KdbenchError(
                f"the weights of {self.size} processes that train one network are no longer equal: the method or the "
                "network computes with more than the batch, the weights and the seed. Train it in one process "
                "(gpus_per_trial: 1, processes_per_trial: 1)."
            )

    def evaluate(self, batches: list[Tensor], run: Callable[[Tensor], Tensor]) -> Tensor:
        """Each process runs every `size`-th batch; all get the logits of all, in their order."""
        mine = [run(batch) for batch in batches[self.rank :: self.size]]
        width = self.total(torch.tensor(float(mine[0].shape[1] if self.rank == 0 else 0), device=self.device))
        rows = [sum(len(batch) for batch in batches[rank :: self.size]) for rank in range(self.size)]
        sent = torch.zeros(max(rows), int(width), device=self.device)
        if mine:
            sent[: rows[self.rank]] = torch.cat(mine)
        received = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(received, sent)
        parts: dict[int, Tensor] = {}
        for rank, logits in enumerate(received):
            own = range(rank, len(batches), self.size)
            lengths = [len(batches[number]) for number in own]
            parts |= dict(zip(own, logits[: rows[rank]].split(lengths), strict=True)) if lengths else {}
        return torch.cat([parts[number] for number in range(len(batches))])

    def facts(self) -> dict[str, Any]:
        """How many processes, and what they do about batch norm where there is any."""
        norm = "per process" if self.unsynchronised else "synchronised" if self.norms else None
        return {"processes": self.size, **({"batch_norm": norm} if norm else {})}


def join_group(order: Mapping[str, Any], device: torch.device) -> Group:
    """Meet the other processes of an order. Raise RuntimeError where they do not come in time."""
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=Path(order["meeting"]).as_uri(),
        rank=order["rank"],
        world_size=order["processes"],
        timeout=datetime.timedelta(seconds=order["timeout_s"]),
    )
    return Group(device, order["timeout_s"])


def follow(job: Job, shop: Workshop) -> None:
    """Train along with the first process, epoch by epoch, until that one has enough."""
    recipe = Recipe.from_json(job.spec.train)
    training = training_of(job, shop, recipe, Engine.numbered(shop.group.agree(0)))
    if epochs := shop.group.agree(0):
        training.restore(shop.store.work_folder(job.spec.key) / CHECKPOINT)
        if training.epochs_done != epochs:
            raise CheckpointError(
                f"the checkpoint is of epoch {training.epochs_done}, but the first process has {epochs}"
            )
    while shop.group.agree(0):
        training.epoch()


def work(order: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Do one process's part of a training; yields what is to be told: `point`, `record` or `fault`."""
    began, job = time.monotonic(), Job.from_json(order["job"])
    device = torch.device("cuda", order["rank"]) if order["cuda"] else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.set_num_threads(order["threads"])
    store = Store(Path(order["folder"]))
    source = None if order["parcel"] is None else Parcel(store, Path(order["parcel"]))
    shop = Workshop(store, device, order["use_cache"], source)
    try:
        shop.group = join_group(order, device)
        if order["rank"]:
            follow(job, shop)
            return
        for item in run_job(job, shop):
            yield {"record": item.to_json()} if isinstance(item, TrialRecord) else {"point": item}
    except Exception as error:  # as in run_job: what a method raises is its result
        if (fault := fault_of(error, shop.store.folder)) is not None:
            yield {"fault": fault.to_json()}
            return
        starts = starts_of(shop.store.work_folder(job.spec.key))
        yield {"record": failed(job.spec, error, time.monotonic() - began, starts).to_json()}


def end_with(parent: IO[bytes]) -> None:
    """End this process as soon as the one that started it is gone, whatever it is doing."""

    def wait() -> None:
        parent.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Read an order from standard input, and carry it out."""
    order = json.loads(sys.stdin.buffer.readline())
    end_with(sys.stdin.buffer)
    with os.fdopen(order["channel"], "w") as channel:
        for message in work(order):
            channel.write(json.dumps(message) + "\n")
            channel.flush()
        # A process that left would break the connections of those that still compute: it is ended by its parent.
        threading.Event().wait()


if __name__ == "__main__":
    main()
