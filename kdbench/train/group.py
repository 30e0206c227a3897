"""The processes that train one student together, as the training loop sees them: here a single one.

A training over several processes (kdbench/train/distributed.py) gives every process its share of each batch, and the
rest of this contract makes of it what one process would have done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Share:
    """What one process has of a batch: the positions from `low` to `high` of the epoch's order.

    samples: for how many samples of the batch it stands in sums over all processes. of: number of samples of the batch.
    """

    low: int
    high: int
    samples: float
    of: int


class Alone:
    """One process, which trains by itself. Whatever a group agrees on is what it says."""

    rank = 0
    size = 1
    seed_names: tuple[int, ...] = ()  # of what networks draw while they train

    def share(self, low: int, high: int) -> Share:
        """This process's share of the batch from `low` to `high` in the epoch's order: all of it."""
        return Share(low, high, high - low, high - low)

    def join(self, nets: Mapping[str, nn.Module]) -> None:
        """Before the first step: these modules, by role, are trained together from now on, from equal weights."""

    def forward(self, loss_of: Callable[[], Tensor], share: Share) -> Tensor:
        """The loss of a share, ready for `backward`, which leaves the gradient of the whole batch's loss."""
        return loss_of()

    def total(self, sums: Tensor) -> Tensor:
        """The sum over all processes."""
        return sums

    def agree(self, value: int) -> int:
        """The value of the first process."""
        return value

    def align(self, nets: Iterable[nn.Module]) -> None:
        """After an epoch: buffers of the first process for all. Raise KdbenchError where weights have drifted apart."""

    def evaluate(self, batches: list[Tensor], run: Callable[[Tensor], Tensor]) -> Tensor:
        """`run` on every batch: logits (n, C) of all of them, in their order.

        batches: positions (b,) of images. run: from positions to logits (b, C) in float32.
        """
        return torch.cat([run(batch) for batch in batches])

    def facts(self) -> dict[str, Any]:
        """What a record says of the group."""
        return {}


ALONE = Alone()
