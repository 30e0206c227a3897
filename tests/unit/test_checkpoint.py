"""Checkpoints: what is written is read, and damage is found."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kdbench.errors import CheckpointError
from kdbench.train import checkpoint

TENSORS = {
    "weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "mask": torch.tensor([True, False]),
    "empty": torch.empty(0, 3),
}
FACTS = {"epochs_done": 2, "curves": {"train_loss": [0.1, 0.2]}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "folder" / "a.safetensors", TENSORS, FACTS)
    return tmp_path / "folder" / "a.safetensors"


def equal(tensors: dict[str, Tensor]) -> bool:
    same = set(tensors) == set(TENSORS)
    return same and all(torch.equal(t, TENSORS[n]) and t.dtype == TENSORS[n].dtype for n, t in tensors.items())


@pytest.mark.parametrize("durable", [False, True])
def test_what_was_saved_is_loaded(tmp_path: Path, durable: bool) -> None:
    checkpoint.save(tmp_path / "a", TENSORS, FACTS, durable=durable)
    tensors, facts = checkpoint.load(tmp_path / "a")
    assert equal(tensors)
    assert facts == FACTS
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_channels_last_weight_keeps_its_values(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    checkpoint.save(tmp_path / "a", {"w": weight}, {})
    assert torch.equal(checkpoint.load(tmp_path / "a")[0]["w"], weight)


def test_weights_that_share_memory_are_saved_each(tmp_path: Path) -> None:
    weight = torch.randn(2, 2)
    checkpoint.save(tmp_path / "a", {"one": weight, "tied": weight, "part": weight[0]}, {})
    assert torch.equal(checkpoint.load(tmp_path / "a")[0]["tied"], weight)


def test_numbers_in_facts_come_back_bit_by_bit(tmp_path: Path) -> None:
    facts = {"loss": [0.1 + 0.2, math.pi, 1e-300, float("inf")], "nan": float("nan")}
    checkpoint.save(tmp_path / "a", {}, facts)
    loaded = checkpoint.load(tmp_path / "a")[1]
    assert loaded["loss"] == facts["loss"]
    assert math.isnan(loaded["nan"])


def test_every_flipped_bit_is_found_or_harmless(path: Path) -> None:
    sound = path.read_bytes()
    found = 0
    for place in range(len(sound)):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            tensors, facts = checkpoint.load(path)
        except CheckpointError as error:
            assert str(path) in str(error)
            found += 1
        else:
            assert equal(tensors) and facts == FACTS, f"byte {place}"
    assert found >= len(sound) - len("kdbench")  # what that name stands for is known by its form


def test_equal_weights_are_equal_bytes(tmp_path: Path, path: Path) -> None:
    for _ in range(20):
        checkpoint.save(tmp_path / "again", TENSORS, FACTS)
        assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_file_of_an_older_version_is_read_and_checked(tmp_path: Path) -> None:
    tensors, text = {"weight": torch.ones(2)}, '{"epochs_done": 2}'
    header = {"kdbench": text, "checksum": checkpoint.checksum(tensors, text)}
    save_file(tensors, tmp_path / "old", metadata=header)
    assert checkpoint.load(tmp_path / "old")[1] == {"epochs_done": 2}
    save_file({"weight": torch.zeros(2)}, tmp_path / "other", metadata=header)
    with pytest.raises(CheckpointError, match="does not fit its checksum"):
        checkpoint.load(tmp_path / "other")


def test_a_truncated_file_is_found_whatever_its_length(path: Path) -> None:
    sound = path.read_bytes()
    for length in range(len(sound)):
        path.write_bytes(sound[:length])
        with pytest.raises(CheckpointError, match="Delete it to train again"):
            checkpoint.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors: cannot be read as a checkpoint"):
        checkpoint.load(tmp_path / "nothing.safetensors")


def test_a_file_of_others_has_no_checksum_and_is_read(tmp_path: Path) -> None:
    save_file({"weight": TENSORS["weight"]}, tmp_path / "a")
    tensors, facts = checkpoint.load(tmp_path / "a")
    assert torch.equal(tensors["weight"], TENSORS["weight"])
    assert facts == {}


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(path, {"weight": torch.zeros(1)}, {})
    assert equal(checkpoint.load(path)[0])
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_weights_that_do_not_fit_are_listed() -> None:
    net = nn.Linear(2, 3)
    with pytest.raises(CheckpointError) as error:
        checkpoint.load_weights(net, {"weight": torch.zeros(3, 9), "scale": torch.zeros(1)}, "the teacher abc")
    assert str(error.value) == (
        "the teacher abc does not fit the model. Missing: bias. Unknown: scale. Shapes: weight is (3, 9), want (3, 2)."
    )


def test_names_to_skip_stay_as_they_are() -> None:
    net = nn.ModuleDict({"stem": nn.Linear(2, 2), "head": nn.Linear(2, 3)})
    head = net["head"].weight.detach().clone()
    given = {"stem.weight": torch.ones(2, 2), "stem.bias": torch.ones(2), "head.weight": torch.zeros(9, 9)}
    bias = net["head"].bias.detach().clone()
    checkpoint.load_weights(net, given, "source", skip="head.")
    assert torch.equal(net["head"].bias, bias)
    assert torch.equal(net["head"].weight, head)
    assert torch.equal(net["stem"].weight, torch.ones(2, 2))


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_an_optimiser_goes_on_where_it_was(tmp_path: Path, kind: str) -> None:
    from kdbench.train.recipe import Recipe

    recipe = Recipe(optimizer=kind, lr=0.1)
    generator = torch.Generator().manual_seed(0)
    batches = torch.randn(4, 8, 3, generator=generator)
    net = nn.Linear(3, 2)
    net.bias.requires_grad_(False)  # a parameter that gets no gradient has no state
    twin = copy.deepcopy(net)

    def steps(net: nn.Module, optimizer: torch.optim.Optimizer, part: Tensor) -> None:
        for batch in part:
            optimizer.zero_grad()
            net(batch).square().sum().backward()
            optimizer.step()

    whole = recipe.build_optimizer({1.0: net.parameters()}, {})
    steps(net, whole, batches)
    first, second = (recipe.build_optimizer({1.0: twin.parameters()}, {}) for _ in range(2))
    steps(twin, first, batches[:2])
    checkpoint.save(tmp_path / "a", checkpoint.optimizer_tensors(first, "optimizer."), {})
    checkpoint.load_optimizer(second, checkpoint.load(tmp_path / "a")[0], "optimizer.")
    steps(twin, second, batches[2:])
    assert torch.equal(net.weight, twin.weight)
