"""Weights of others: a file that holds code is refused, and its code does not run."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from kdbench.errors import CheckpointError
from kdbench.train import checkpoint
from kdbench.train.foreign import read_state_dict


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


def zipped(value: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def legacy(value: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


@pytest.mark.parametrize("pack", [zipped, legacy, pickle.dumps], ids=["zip", "legacy", "pickle"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_file_with_a_payload_is_refused_and_the_payload_does_not_run(
    tmp_path: Path, pack: Callable[[Any], bytes], inside: bool
) -> None:
    mark, path = tmp_path / "ran", tmp_path / "teacher.pth"
    payload = Payload(mark)
    path.write_bytes(pack({"state_dict": {"weight": torch.zeros(2)}, "epoch": payload} if inside else payload))
    with pytest.raises(
        CheckpointError, match=r"teacher\.pth: refused, for it holds more than tensors, and .* run code"
    ):
        read_state_dict(path)
    assert not mark.exists()


def test_the_payload_of_these_tests_runs_where_it_is_let(tmp_path: Path) -> None:
    torch.load(io.BytesIO(zipped(Payload(tmp_path / "ran"))), weights_only=False)
    assert (tmp_path / "ran").exists()


def test_a_module_that_was_saved_whole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(zipped(torch.nn.Linear(2, 2)))
    with pytest.raises(CheckpointError, match="Save the tensors alone"):
        read_state_dict(path)


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**62) + b"{" + b"x" * 100,
        struct.pack("<Q", 100_000) + (b'{"a":' * 20_000),
        struct.pack("<Q", 60)
        + b'{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,4]}}'.ljust(60)
        + b"\0" * 4,
        struct.pack("<Q", 8) + b"{\xff\xff\xff}   ",
        b"",
        b"PK\x03\x04" + b"\0" * 50,
    ],
    ids=["huge header", "deep header", "huge tensor", "no text", "empty", "no archive"],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state_dict(path)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        checkpoint.load(path)


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save({"weight": torch.ones(2)}))
    assert torch.equal(read_state_dict(path)[0]["weight"], torch.ones(2))
