"""How the steps of a training are computed: what may differ in speed and in the last bits, and in nothing else.

It is no part of a spec, so it never changes a key. Which one a training had stands in its record, and a training that
goes on from a checkpoint keeps the one that it was begun with.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.errors import KdbenchError, did_you_mean, listed

ENVIRONMENT = "KDBENCH_ENGINE"
ALLOWED: dict[str, tuple[str, ...]] = {
    "precision": ("fp32", "bf16"),
    "memory_format": ("channels_last", "contiguous"),
    "optimizer": ("fused", "foreach"),
    "batch_norm": ("folded", "apart"),
    "step": ("eager", "graph"),
    "compile": ("off", "on"),
}
MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
# Images of a pass without gradients. On a CPU so few that the maps stay in its caches: 1.3 to 2 times as fast as 512
# (benchmarks/inference.py).
INFERENCE_BATCH = {"cpu": 64, "cuda": 512}


@dataclass(frozen=True)
class Engine:
    """One way to compute a step; every field has one of the values of ALLOWED.

    precision: of the networks' passes. memory_format: of images and weights. optimizer: torch's implementation of it.
    batch_norm: whether that of a frozen live teacher is folded into the layers before it. step: `graph` replays a CUDA
    graph (kdbench/train/graphs.py). compile: whether the trained networks go through torch.compile.
    """

    precision: str = "fp32"
    memory_format: str = "channels_last"
    optimizer: str = "fused"
    batch_norm: str = "folded"
    step: str = "eager"
    compile: str = "off"

    def __post_init__(self) -> None:
        for name, allowed in ALLOWED.items():
            if (got := getattr(self, name)) not in allowed:
                raise KdbenchError(f"the engine's {name} is {listed(allowed)}, but got {got!r}. Choose one of them.")

    @classmethod
    def of(cls, engine: Engine | str) -> Engine:
        """An engine itself; for the name of a precision, the default engine of that precision."""
        return engine if isinstance(engine, Engine) else cls(engine)

    def to_json(self) -> dict[str, str]:
        """Plain dictionary, as kept in checkpoints and records."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Engine:
        """Inverse of `to_json`; what else a record says of it is left out. Raise KdbenchError for unknown values."""
        known = [field.name for field in fields(cls)]
        return cls(**{name: value[name] for name in known if name in value})

    @property
    def number(self) -> int:
        """A number for this engine, which processes that train together can agree on."""
        return list(itertools.product(*ALLOWED.values())).index(tuple(asdict(self).values()))

    @classmethod
    def numbered(cls, number: int) -> Engine:
        """Inverse of `number`."""
        return cls(*list(itertools.product(*ALLOWED.values()))[number])

    def sound_for(self, nets: Iterable[nn.Module], device: torch.device) -> Engine:
        """This engine where networks can be trained with it, else one that works.

        oneDNN's weight gradient of a 1x1 convolution with a stride and few input channels writes outside of its memory
        in channels_last: fewer than 8 with AVX2, than 16 with AVX-512. The rule is the same on every CPU, so that the
        choice is. Source: uxlfoundation/oneDNN issue 6035.
        """
        layers = (module for net in nets for module in net.modules() if isinstance(module, nn.Conv2d))
        narrow = any(
            layer.kernel_size == (1, 1) and max(layer.stride) > 1 and layer.groups == 1 and layer.in_channels < 16
            for layer in layers
        )
        return replace(self, memory_format="contiguous") if narrow and device.type == "cpu" else self

    def laid_out(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in this engine's memory format; rows of numbers (B, F) as they are."""
        return images.contiguous(memory_format=MEMORY_FORMATS[self.memory_format]) if images.ndim == 4 else images


def override() -> dict[str, str]:
    """The fields that KDBENCH_ENGINE sets, such as `memory_format=contiguous,optimizer=foreach`, if it is set.

    Raise KdbenchError for a name or a value that is not known. `precision` is the study's (`train.precision`), which is
    part of what was asked for.
    """
    found: dict[str, str] = {}
    known = [name for name in ALLOWED if name != "precision"]
    for part in filter(None, (part.strip() for part in os.environ.get(ENVIRONMENT, "").split(","))):
        name, _, value = part.partition("=")
        if name not in known:
            raise KdbenchError(
                f"{ENVIRONMENT} has the part '{part}'.{did_you_mean(name, known)} Allowed: NAME=VALUE, joined by "
                f"commas, of {listed(known)}. The precision is a study's: train.precision."
            )
        found[name] = value
    Engine(**found)
    return found


def before_engines(precision: str) -> Engine:
    """The engine of trainings whose checkpoints and records name none: that of kdbench before it had a choice."""
    return Engine(precision, optimizer="foreach", batch_norm="apart")
