"""Weights and checkpoints: safetensors with JSON in the header, in one file, replaced atomically. No pickle.

safetensors checks the layout of a file but not its numbers, so a checksum of all that is in it stands in the header.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench import strict_json
from kdbench.errors import CheckpointError, DamagedError, listed
from kdbench.store import write_atomic
from kdbench.train.view_cache import weights_hash

OURS = re.compile(r"[0-9a-f]{64} \{")


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], *, durable: bool = False) -> None:
    """Write tensors and JSON facts into one file; a crash leaves the old file or the new, never a mixture.

    durable: also outlive a power cut. It costs several milliseconds, and what an epoch leaves can be trained again.
    """
    from safetensors.torch import save as as_bytes

    # copied even where it is contiguous on the CPU: safetensors refuses tensors that share memory, as tied weights do
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    text = json.dumps(facts, allow_nan=True)
    # one entry, because safetensors writes several in an order that changes, and equal weights must be equal bytes
    content = as_bytes(plain, metadata={"kdbench": f"{checksum(plain, text)} {text}"})
    write_atomic(path, content, durable=durable)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote. Raise CheckpointError that names the file if it is missing or damaged.

    Files that others wrote have no checksum, and are not checked further.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            expected, text = _header(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if expected not in (None, checksum(tensors, text)):
                raise ValueError("its content does not fit its checksum")
            found = strict_json.loads(text, nan=True)
            if not isinstance(found, dict):
                raise ValueError("its facts are no mapping")
            return tensors, found
    except (OSError, ValueError, SafetensorError) as error:
        kind = CheckpointError if isinstance(error, FileNotFoundError) else DamagedError
        raise kind(f"{path}: cannot be read as a checkpoint ({error}). Delete it to train again.") from error


def facts(path: Path) -> dict[str, Any]:
    """The JSON facts alone of what `save` wrote, with no look at the tensors. Raise CheckpointError as `load`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            found = strict_json.loads(_header(file.metadata() or {})[1], nan=True)
        if not isinstance(found, dict):
            raise ValueError("its facts are no mapping")
        return found
    except (OSError, ValueError, SafetensorError) as error:
        kind = CheckpointError if isinstance(error, FileNotFoundError) else DamagedError
        raise kind(f"{path}: cannot be read as a checkpoint ({error}). Delete it to train again.") from error


def _header(entries: Mapping[str, str]) -> tuple[str | None, str]:
    """Checksum and facts of a file's header, which versions before 0.2 wrote as two entries.

    They are known by their form, so that a damaged name of the entry does not hide them.
    """
    ours = entries.get("kdbench") or next(filter(OURS.match, entries.values()), "{}")
    if ours.startswith("{"):
        return entries.get("checksum"), ours
    expected, _, facts = ours.partition(" ")
    return expected, facts


def checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of names, types, shapes and values of the tensors, and of a text."""
    return hashlib.sha256(f"{weights_hash(tensors)}\x1f{text}".encode()).hexdigest()


def load_weights(net: nn.Module, tensors: Mapping[str, Tensor], what: str, *, skip: str | None = None) -> None:
    """Load a state dict into `net`; names that start with `skip` are left as they are.

    Raise CheckpointError that lists missing, unknown and misshapen names.
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
    for parameter, values in optimizer.state.items():
        for field, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                # a file holds rows in their order, and fused kernels go through memory without a look at strides
                values[field] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
