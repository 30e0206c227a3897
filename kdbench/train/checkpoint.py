"""Weights and checkpoints: safetensors with JSON in the header, in one file, replaced atomically. No pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.errors import CheckpointError, listed


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts into one file; a crash leaves the old file or the new, never a mixture."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, partial, metadata={"kdbench": json.dumps(facts, allow_nan=True)})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote. Raise CheckpointError that names the file if it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("kdbench", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({error}). Delete it to train again.") from error


def load_weights(net: nn.Module, tensors: Mapping[str, Tensor], what: str, *, skip: str | None = None) -> list[str]:
    """Load a state dict into `net`; names that start with `skip` are left as they are.

    Returns the names that were left. Raise CheckpointError that lists missing, unknown and misshapen names.
    """
    own = net.state_dict()
    left = [name for name in own if skip is not None and name.startswith(skip)]
    wanted = {name: tensor for name, tensor in own.items() if name not in left}
    given = {name: t for name, t in tensors.items() if skip is None or not name.startswith(skip)}
    missing = sorted(set(wanted) - set(given))
    unknown = sorted(set(given) - set(wanted))
    shapes = [
        f"{name} is {tuple(given[name].shape)}, want {tuple(wanted[name].shape)}"
        for name in sorted(set(wanted) & set(given))
        if given[name].shape != wanted[name].shape
    ]
    if missing or unknown or shapes:
        raise CheckpointError(
            f"{what} does not fit the model. Missing: {listed(missing)}. Unknown: {listed(unknown)}. "
            f"Shapes: {listed(shapes)}."
        )
    net.load_state_dict({**{name: own[name] for name in left}, **given})
    return left


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """The optimiser's state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}{index}.{name}": torch.as_tensor(value)
        for index, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Put back what `optimizer_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            index, field = name.removeprefix(prefix).split(".", 1)
            state.setdefault(int(index), {})[field] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
