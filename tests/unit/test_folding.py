"""Folding batch norms of a frozen network: the same outputs with fewer layers, wherever the structure allows it."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdbench.method import Outputs
from kdbench.models import model_from, models
from kdbench.nets.base import Network
from kdbench.train.folding import HOOKS, foldable, folded, largest_error
from kdbench.train.teachers import LiveTeacher

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
# Of how many batch norms so many have a layer of their own before them; the others come before a convolution.
FOLDED = {
    "cnn": (4, 4), "imagenet_resnet": (20, 20), "mlp": (2, 2), "mobilenetv2": (53, 53), "resnet": (21, 21),
    "shufflenetv1": (49, 49), "shufflenetv2": (56, 56), "timm": (20, 20), "torchvision": (20, 20), "vgg": (5, 5),
    "wrn": (7, 13),
}  # fmt: skip


def with_statistics(net: Network) -> Network:
    """The network in eval mode, with statistics and affine weights that are not those of a fresh batch norm."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, NORMS):
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-0.3, 0.3, generator=generator)
            module.momentum = None
    net.train()
    with torch.no_grad():
        net(IMAGES)
    return net.eval()


@pytest.mark.parametrize("name", models.names())
def test_outputs_of_every_family_stay_the_same_to_rounding(name: str) -> None:
    config = {"name": name, "depth": 18} if name == "imagenet_resnet" else {"name": name}
    net = with_statistics(model_from(config).network((3, 16, 16), 10))
    before = copy.deepcopy(net.state_dict())
    twin = folded(net, IMAGES[:2])
    norms, left = ([m for m in n.modules() if isinstance(m, NORMS)] for n in (net, twin))
    assert (len(norms) - len(left), len(norms)) == FOLDED.get(name, (0, 0))
    assert (twin is net) == (name not in FOLDED)
    with torch.no_grad():
        plain, fast = net(IMAGES), twin(IMAGES)
    assert list(plain.features) == list(fast.features) and list(plain.preactivations) == list(fast.preactivations)
    exact, folded_exactly = in_float64(net), folded(in_float64(net), IMAGES[:2].double())
    with torch.no_grad():
        wanted = exact(IMAGES.double())
        assert largest_error(wanted, folded_exactly(IMAGES.double())) < 1e-9
    # In float32 the folded network is as near to the exact outputs as the other one is, up to a factor.
    assert largest_error(wanted, fast) < 10 * largest_error(wanted, plain) + 1e-6
    after = net.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(getattr(module, hooks) for module in net.modules() for hooks in HOOKS)
    assert not any(p.requires_grad for p in twin.parameters()) or twin is net


def in_float64(net: Network) -> Network:
    return copy.deepcopy(net).double().eval()


class Branching(Network):
    """A convolution whose output is read by its batch norm and, where `how` says so, by something else too."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Outputs:
        maps = self.conv(images)
        if self.how == "activated":
            maps = torch.relu_(maps)
        after = self.norm(maps)
        if self.how == "added":
            after = after + maps
        if self.how == "twice":
            after = after + self.norm(self.conv(images))
        pooled = after.mean((2, 3))
        return Outputs(self.head(pooled), pooled, {"maps": maps if self.how == "given" else after})


@pytest.mark.parametrize("how", ["activated", "added", "twice", "given"])
def test_a_layer_whose_output_goes_elsewhere_too_is_left_alone(how: str) -> None:
    net = Branching(how).eval()
    assert foldable(net, IMAGES) == []
    assert folded(net, IMAGES) is net


def test_a_layer_and_the_batch_norm_that_alone_reads_it_are_a_pair() -> None:
    assert foldable(Branching("").eval(), IMAGES) == [("conv", "norm")]


def test_a_batch_norm_in_train_mode_or_with_a_hook_is_left_alone() -> None:
    assert foldable(Branching("").train(), IMAGES) == []
    hooked = Branching("").eval()
    hooked.norm.register_forward_hook(lambda module, given, out: None)
    assert foldable(hooked, IMAGES) == []


class Shifted(Branching):
    """Gives something else when its batch norm is gone."""

    def forward(self, images: Tensor) -> Outputs:
        outputs = super().forward(images)
        shift = 0.0 if isinstance(self.norm, nn.BatchNorm2d) else 1.0
        return Outputs(outputs.logits + shift, outputs.pooled, outputs.features)


def test_a_network_that_does_not_run_alike_is_not_folded_and_that_is_said(caplog: Any) -> None:
    net = Shifted("").eval()
    with caplog.at_level(logging.WARNING):
        assert folded(net, IMAGES) is net
    assert "Shifted: its batch norms are not folded, for outputs would be off by" in caplog.text


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_live_teacher_keeps_the_network_as_it_was_trained_and_runs_the_folded_one(precision: str) -> None:
    net = with_statistics(model_from({"name": "resnet", "depth": 8}).network((3, 16, 16), 10))
    plain, fast = (LiveTeacher(net, torch.device("cpu"), precision, fold) for fold in (False, True))
    index = torch.arange(4)
    one, other = (teacher(IMAGES, index, index) for teacher in (plain, fast))
    assert fast.net is net and isinstance(net.norm_before("stage3"), nn.BatchNorm2d)
    assert largest_error(one, other) < (2e-5 if precision == "fp32" else 0.05)  # bf16 has 8 bits
    assert other.logits.dtype == torch.float32
