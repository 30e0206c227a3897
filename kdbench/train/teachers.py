"""The frozen teacher of a training: run on every batch, or looked up in the view cache."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from kdbench.data.views import Views
from kdbench.losses._inputs import full_precision
from kdbench.method import Outputs
from kdbench.nets.base import Network
from kdbench.train.folding import folded
from kdbench.train.view_cache import Compute, ViewCache

FEW = 2  # images on which a network is looked at while it runs


@contextlib.contextmanager
def precision_of(device: torch.device, precision: str) -> Iterator[None]:
    """Run networks in `precision`: autocast for `bf16`, convolutions without TF32 for `fp32`."""
    context = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else without_tf32()
    with context:
        yield


def without_tf32() -> contextlib.AbstractContextManager[None]:
    """Convolutions of float32 on CUDA in float32: by default cuDNN rounds their inputs to the 10 bits of TF32.

    Matrix products are in float32 by default. On a CPU it changes nothing.
    """
    # None keeps a setting; what `flags` is not given, it sets to its own defaults, cuDNN off among them.
    return torch.backends.cudnn.flags(
        enabled=None, benchmark=None, benchmark_limit=None, deterministic=None, allow_tf32=False
    )


def in_float(outputs: Outputs) -> Outputs:
    """Outputs in float32, so that losses never lose digits to autocast; float64 stays as it is."""
    return dataclasses.replace(
        outputs,
        logits=full_precision(outputs.logits),
        pooled=full_precision(outputs.pooled),
        features=InFloat(outputs.features),
        preactivations=InFloat(outputs.preactivations),
    )


class InFloat(Mapping[str, Tensor]):
    """Maps by name, in float32 where they are read: most methods read none, and a copy of all would cost them time."""

    def __init__(self, maps: Mapping[str, Tensor]) -> None:
        self.maps = maps

    def __getitem__(self, name: str) -> Tensor:
        return full_precision(self.maps[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)


class Teacher(Protocol):
    """What the training loop asks of a teacher."""

    def prepare(self, index: Tensor, view: Tensor) -> None:
        """Get ready for an epoch that will show views `view` of the training samples `index`, both int64 (n,)."""

    def __call__(self, images: Tensor, index: Tensor, view: Tensor) -> Outputs:
        """Outputs for `images` (B, C, H, W), which are views `view` (B,) of the training samples `index` (B,)."""


class LiveTeacher:
    """A teacher that runs on every batch, in eval mode, without gradients; nothing in it ever changes.

    net: the network as it was trained, which is what methods and guards look into. fold: whether a copy with its batch
    norms folded runs in its place; it is made at the first batch.
    """

    def __init__(self, net: Network, device: torch.device, precision: str, fold: bool = False) -> None:
        self.net = net.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        self.device = device
        self.precision = precision
        self._running = None if fold else self.net

    def prepare(self, index: Tensor, view: Tensor) -> None:
        """Nothing to get ready."""

    def __call__(self, images: Tensor, index: Tensor, view: Tensor) -> Outputs:
        """Run the network on `images`."""
        if self._running is None:
            with without_tf32():
                self._running = folded(self.net, images[:FEW])
        with torch.no_grad(), precision_of(self.device, self.precision):
            return in_float(self._running(images))


class CachedTeacher:
    """A teacher whose logits and pooled features come from the view cache; it has no feature maps.

    compute: the same teacher in fp32, from index and view to outputs, which fills what is missing.
    """

    def __init__(self, cache: ViewCache, compute: Compute) -> None:
        self.cache, self.compute = cache, compute

    @staticmethod
    def compute_with(live: LiveTeacher, views: Views) -> Compute:
        """The live teacher as a function of positions and views of the training images."""
        return lambda index, view: live(views.batch(index, view), index, view)

    def prepare(self, index: Tensor, view: Tensor) -> None:
        """Compute what the cache lacks of this epoch, in large batches."""
        self.cache.fill(index, view, self.compute)

    def __call__(self, images: Tensor, index: Tensor, view: Tensor) -> Outputs:
        """Look the batch up."""
        return self.cache.gather(index, view)
