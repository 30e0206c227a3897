"""Batch norms that take mean and variance over the samples of all processes, as one process with the whole batch would.

torch's SyncBatchNorm does so on GPUs and refuses tensors of a CPU, where `SynchronisedBatchNorm` does the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SynchronisedBatchNorm(_BatchNorm):
    """Batch norm over the samples of a group of processes, on any device that the group can add tensors of.

    process_group: the group; None for all processes. A process of a group of one is alone.
    """

    process_group: dist.ProcessGroup | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, ...) by the statistics of all processes; in eval mode by the moving averages."""
        if not self.training or dist.get_world_size(self.process_group) == 1:
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        over = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        here = x.new_tensor([x.numel() / x.shape[1]])
        sums = _Sum.apply(torch.cat([x.sum(over), here]), self.process_group)
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(over), self.process_group) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        out = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        normalised: Tensor = out.to(input.dtype)
        return normalised

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the moving averages towards the statistics of a batch."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        step = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), step)
        self.running_var.lerp_(variance.to(self.running_var.dtype), step)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from two on."""


class _Sum(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx, values, group):  # type: ignore[no-untyped-def]
        ctx.group = group
        out = values.clone()
        dist.all_reduce(out, group=group)
        return out

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        out = gradient.contiguous().clone()
        dist.all_reduce(out, group=ctx.group)
        return out, None


Synchronised = SynchronisedBatchNorm | nn.SyncBatchNorm


def synchronise(modules: Iterable[nn.Module]) -> tuple[list[Synchronised], list[str]]:
    """Turn the batch norms of trained modules into synchronised ones, in place, with all that they hold.

    Returns these, and the names of the types that stay as they are: batch norms of a kind of their own, such as those
    of timm with an activation inside, go on by the statistics of each process.
    """
    changed: list[Synchronised] = []
    left: set[str] = set()
    for module in (part for whole in modules for part in whole.modules()):
        if isinstance(module, (SynchronisedBatchNorm, nn.SyncBatchNorm)):
            changed.append(module)
        elif type(module) in PLAIN:
            on_gpu = next((t.is_cuda for t in [*module.parameters(), *module.buffers()]), False)
            # The class alone changes, so that whoever holds the module, its parameters or its hooks keeps them.
            module.__class__ = nn.SyncBatchNorm if on_gpu else SynchronisedBatchNorm
            norm = cast(Synchronised, module)
            norm.process_group = None
            changed.append(norm)
        elif isinstance(module, _BatchNorm):
            left.add(type(module).__name__)
    return changed, sorted(left)
