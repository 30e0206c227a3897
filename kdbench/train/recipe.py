"""How a network is trained: epochs, optimiser, schedule. The same for every method of a study."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from kdbench.errors import KdbenchError, did_you_mean, listed

CHANNELS_LAST = torch.channels_last
FIXABLE = ("momentum", "nesterov", "weight_decay")


@dataclass(frozen=True)
class Recipe:
    """Settings of one training.

    lr is the peak learning rate; milestones are epochs (counted from 1) after which a `step` schedule multiplies it by
    gamma; warmup_epochs raises it linearly from 0; clip_norm limits the gradient's L2 norm. Training stops after
    `epochs`, or earlier once validation accuracy reaches target_top1_pct, or with status `timed_out` at time_limit_s.
    stop_epoch ends it after so many epochs with the schedule of all `epochs`: a point on a longer training's route.
    precision: auto, fp32 or bf16 (autocast).
    """

    epochs: int = 100
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    clip_norm: float | None = None
    target_top1_pct: float | None = None
    precision: str = "auto"
    time_limit_s: float | None = None
    stop_epoch: int | None = None

    @property
    def last_epoch(self) -> int:
        """Number of epochs that are trained at most."""
        return self.epochs if self.stop_epoch is None else min(self.stop_epoch, self.epochs)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Recipe:
        """Build from a spec's `train`. Raise KdbenchError for an unknown name."""
        known = [f.name for f in fields(cls)]
        for name in value:
            if name not in known:
                raise KdbenchError(
                    f"unknown training setting '{name}'.{did_you_mean(name, known)} Known: {listed(known)}."
                )
        return cls(**{**value, "milestones": tuple(value.get("milestones") or ())})

    def lr_factor(self, epoch: float) -> float:
        """Learning rate at a moment of training, as a share of the peak; `epoch` counts from 0, may be fractional."""
        if epoch < self.warmup_epochs:
            return epoch / self.warmup_epochs
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "step":
            return float(self.gamma ** sum(epoch >= milestone for milestone in self.milestones))
        if self.schedule == "cosine":
            span = max(self.epochs - self.warmup_epochs, 1e-12)
            return 0.5 * (1 + math.cos(math.pi * min((epoch - self.warmup_epochs) / span, 1.0)))
        raise KdbenchError(f"unknown schedule '{self.schedule}'. Allowed: cosine, step, constant.")

    def build_optimizer(
        self, parameters: Mapping[float, Iterable[Tensor]], overrides: Mapping[str, Any], implementation: str = "fused"
    ) -> torch.optim.Optimizer:
        """The optimiser; `overrides` are settings that a method fixes by definition.

        parameters: by the factor of their learning rate, which the groups keep as `lr_factor`. implementation: torch's
        `fused` (one kernel for all that an update does) or `foreach`, which it falls back on where there is no kernel.
        """
        for name in overrides:
            if name not in FIXABLE:
                raise KdbenchError(f"optimiser() of the method fixes '{name}'. Allowed: {listed(FIXABLE)}.")
        own = replace(self, **overrides)
        groups: list[dict[str, Any]] = [{"params": list(p), "lr_factor": factor} for factor, p in parameters.items()]
        fused = implementation == "fused" and all(can_fuse(p) for group in groups for p in group["params"])
        how: dict[str, Any] = {"fused": True} if fused else {"foreach": True}
        if self.optimizer == "sgd":
            return torch.optim.SGD(
                groups, own.lr, own.momentum, weight_decay=own.weight_decay, nesterov=own.nesterov, **how
            )
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, own.lr, weight_decay=own.weight_decay, **how)
        raise KdbenchError(f"unknown optimizer '{self.optimizer}'. Allowed: sgd, adamw.")


def can_fuse(parameter: Tensor) -> bool:
    """Whether torch has fused optimiser kernels for a parameter.

    They go through memory without a look at strides; autograd gives a gradient its parameter's strides only where that
    one is dense.
    """
    dense = parameter.is_contiguous() or (parameter.ndim == 4 and parameter.is_contiguous(memory_format=CHANNELS_LAST))
    return dense and parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda")


def resolve_precision(precision: str, device: torch.device) -> str:
    """Turn `auto` into `bf16` where the hardware multiplies bf16 matrices natively, else `fp32`.

    On a CPU without such units (AVX512-BF16 or AMX) bf16 is emulated and slower than fp32.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise KdbenchError(f"unknown precision '{precision}'. Allowed: auto, fp32, bf16.")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 natively."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
