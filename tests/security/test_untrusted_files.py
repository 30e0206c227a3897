"""Weights, tables and caches that claim more than they hold: refused before they take the machine's memory."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from untrusted import record

from kdbench import data
from kdbench.data.idx import read_idx
from kdbench.errors import CheckpointError, DataError, KdbenchError
from kdbench.report.load import load
from kdbench.store import Store, write_json
from kdbench.train import checkpoint
from kdbench.train.foreign import read_state_dict


def weights(folder: Path, value: Any) -> Path:
    path = folder / "weights.pth"
    torch.save(value, path)
    return path


def test_a_zip_bomb_is_refused_unopened(tmp_path: Path) -> None:
    sound, bomb = weights(tmp_path, {"weight": torch.zeros(20_000_000)}), tmp_path / "bomb.pth"
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert bomb.stat().st_size < 200_000
    with pytest.raises(CheckpointError, match=r"bomb\.pth: .*bytes that would unpack to 80"):
        read_state_dict(bomb)
    assert read_state_dict(sound)[0]["weight"].shape == (20_000_000,)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**12),
        torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1), (10**12,)),
        torch.empty(10**12, device="meta"),
    ],
    ids=["repeated", "sparse", "meta"],
)
def test_a_tensor_that_claims_more_than_is_stored_is_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    with pytest.raises(CheckpointError, match="not stored value by value, the first is 'weight'"):
        read_state_dict(weights(tmp_path, {"weight": tensor, "bias": torch.zeros(2)}))


def test_tensors_that_are_views_of_one_storage_are_read(tmp_path: Path) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    found = read_state_dict(weights(tmp_path, {"a": whole, "b": whole.t(), "c": whole[0]}))[0]
    assert torch.equal(found["b"], whole.t()) and torch.equal(found["c"], whole[0])


@pytest.mark.parametrize("facts", ["[" * 100_000, "[1]", "3", '{"a": 1, "a": 2}', "{"])
def test_facts_of_a_checkpoint_that_are_none_are_refused(tmp_path: Path, facts: str) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(save({"weight": torch.zeros(1)}, metadata={"kdbench": facts}))
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        checkpoint.load(path)


def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue()


def test_an_npz_whose_headers_claim_more_than_it_holds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        for split in ("train", "test"):
            archive.writestr(f"{split}_images.npy", npy_header((10**13, 28, 28), "|u1"))
            archive.writestr(f"{split}_labels.npy", npy_header((10**13,), "<i8"))
    with pytest.raises(DataError, match=r"train_images\.npy is not as long as its shape"):
        data.describe("huge")


def test_a_table_whose_header_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "huge.npy").write_bytes(npy_header((10**12, 100), "<f8") + b"\0" * 800)
    with pytest.raises(DataError, match=r"not a readable \.npy file of numbers"):
        data.describe({"table": str(tmp_path / "huge.npy"), "label": 0})


def test_a_packed_file_is_read_no_further_than_its_head_says(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    with gzip.open(path, "wb") as file:
        file.write(bytes([0, 0, 8, 3]) + struct.pack(">III", 1, 2, 2) + bytes(50_000_000))
    with pytest.raises(DataError, match="5 bytes of data for shape"):
        read_idx(path)


@pytest.mark.parametrize(
    "content", [[], 3, {"search": 3}, {"search": [3]}, {"search": "abc"}, {"networks": 3}, {"networks": {"a": 1}}]
)
def test_a_current_json_that_is_none_is_an_error(tmp_path: Path, content: Any) -> None:
    store = Store(tmp_path)
    store.write(record())
    store.write_study({"study": "s"})
    write_json(tmp_path / "current.json", content)
    with pytest.raises(KdbenchError, match=r"current\.json: not a list of keys"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"schema": 1, "schema": 1}', b'{"schema": true}', b"NaN"])
def test_the_report_refuses_a_damaged_record_by_name(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path)
    store.write_study({"study": "s"})
    path = store.record_path("0123456789abcdef")
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(KdbenchError, match=r"0123456789abcdef\.json: "):
        load(tmp_path)
