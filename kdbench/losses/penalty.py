"""Penalties on weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.losses._inputs import full_precision


def half_squared_norm(weights: Iterable[Tensor]) -> Tensor:
    """1/2 * ||w||^2, summed over all elements of all tensors. Returns a scalar."""
    return 0.5 * _flat(weights).square().sum()


def distance_from_start(weights: Iterable[Tensor], start: Iterable[Tensor]) -> Tensor:
    """1/2 * ||w - w_0||^2, summed over all elements of all tensors: how far training has moved the weights.

    weights, start: tensors of equal shapes in equal order. Returns a scalar.
    """
    return 0.5 * functional.mse_loss(_flat(weights), _flat(start), reduction="sum")


def _flat(weights: Iterable[Tensor]) -> Tensor:
    """All elements in one vector, so that a penalty on a whole network costs a handful of kernels."""
    return torch.cat([full_precision(w).flatten() for w in weights])
