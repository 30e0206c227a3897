"""Weights that others trained: read from a file, and brought under the names of a kdbench network.

A file is safetensors or a torch file. Torch files are read with `weights_only`: one that holds code is refused, and so
is one that would unpack to far more than it is, or whose tensors claim more values than it stores. Names are matched by
naming schemes (kdbench/train/naming.py), and a match counts only where every tensor of the network has its tensor in
the file, of the same shape, and nothing is left over.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.errors import CheckpointError, listed
from kdbench.train.naming import matches

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
COUNTER = "num_batches_tracked"  # of batch norms: older files have none, and nothing here reads it
SHOWN = 6
PICKLE = b"\x80"
HOW_TO_SAVE = "Save the tensors alone: torch.save(net.state_dict(), path)."
# What reading a damaged or foreign file may raise, from the archive down to the storage of a tensor.
_DAMAGED = (
    OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, AttributeError, IndexError, MemoryError,
    zipfile.BadZipFile,
)  # fmt: skip
MOST_UNPACKED, MOST_TIMES = 64 * 2**20, 10  # bytes, and times a file's size: torch itself stores tensors unpacked


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read the tensors of a file by their names there, on the CPU, and the SHA-256 of its bytes.

    The tensors may lie under `state_dict`, `model_state_dict`, `model` or `net`; prefixes that wrappers put before all
    names (`module.`, `_orig_mod.`, `model.`, `net.`) are removed. Raise CheckpointError for a file that is missing,
    damaged, holds code, or holds no named tensors.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}).") from error
    found = _parse(path, content)
    inner = next((found[name] for name in WRAPPERS if isinstance(found.get(name), Mapping)), found)
    tensors = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path}: holds no named tensors, but {listed(str(name) for name in list(found)[:SHOWN])}. Allowed: a "
            f"state dict, by itself or under {listed(WRAPPERS)}. {HOW_TO_SAVE}"
        )
    if odd := [name for name, value in tensors.items() if not _is_plain(value)]:
        raise CheckpointError(
            f"{path}: {len(odd)} tensors are not stored value by value, the first is {odd[0][:80]!r}. {HOW_TO_SAVE}"
        )
    return without_prefix(tensors), hashlib.sha256(content).hexdigest()


def _parse(path: Path, content: bytes) -> Mapping[Any, Any]:
    """What the bytes of a file hold. Raise CheckpointError unless it is a mapping."""
    try:
        found = _safetensors(content) if content[8:9] == b"{" else _torch_file(content)
    except pickle.UnpicklingError as error:
        culprit = next((line for line in map(str.strip, str(error).splitlines()) if "GLOBAL" in line), "")
        if not culprit and content[:1] != PICKLE:
            raise _damaged(path, str(error)) from error
        why = culprit.split(" was not")[0].removeprefix("WeightsUnpickler error: ") or "a pickle, not a torch file"
        raise CheckpointError(
            f"{path}: refused, for it holds more than tensors, and reading that could run code ({why}). Where you "
            f"trust its origin, load it yourself. {HOW_TO_SAVE}"
        ) from error
    except _DAMAGED as error:
        raise _damaged(path, str(error) or type(error).__name__) from error
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path}: holds a {type(found).__name__}, not named tensors. {HOW_TO_SAVE}")
    return found


def _safetensors(content: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _is_plain(tensor: Tensor) -> bool:
    """Whether the file stores every value of a tensor. A few bytes can claim a sparse or repeated one of any size."""
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _torch_file(content: bytes) -> Any:
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > max(MOST_UNPACKED, MOST_TIMES * len(content)):
            raise ValueError(f"{len(content)} bytes that would unpack to {unpacked}")
    # A Namespace is plain values; published teachers keep the options of their training in one.
    with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickles of other protocols: they are read or refused
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: cannot be read as safetensors or as a torch file ({reason.splitlines()[0]}). It may be truncated: "
        "compare its size with the original, or fetch it again."
    )


def without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the prefixes of PREFIXES that all names share."""
    found = dict(tensors)
    while shared := next((p for p in PREFIXES if all(name.startswith(p) for name in found)), None):
        found = {name.removeprefix(shared): value for name, value in found.items()}
    return found


def fit(tensors: Mapping[str, Tensor], net: nn.Module, what: str) -> dict[str, Tensor]:
    """Give the tensors of a file the names that they have in `net`: a complete state dict of it, in its types.

    what: names the file in errors. Counters of batch norms that the file lacks are those of `net`. Raise
    CheckpointError that lists what does not fit in the nearest naming scheme, and the schemes that were tried.
    """
    own = net.state_dict()
    given = {name: value for name, value in tensors.items() if not name.endswith(COUNTER)}
    wanted = {name: value for name, value in own.items() if not name.endswith(COUNTER)}
    if odd := [name for name, value in given.items() if not bool(value.isfinite().all())]:
        raise CheckpointError(f"{what}: {len(odd)} tensors hold NaN or infinity, the first is {odd[0]}.")
    tried = matches(given, wanted)
    nearest = min(tried, key=lambda match: match.distance)
    if nearest.distance:
        raise CheckpointError(
            f"{what} does not fit the model. {nearest.report()} {nearest.advice()} Naming schemes tried: "
            f"{'; '.join(match.title for match in tried)}. Nearest: {nearest.title}."
        )
    return {name: nearest.named[name].to(value) if name in nearest.named else value for name, value in own.items()}
