"""A frozen network with its batch norms folded into the layers before them: the same function with fewer passes.

In eval mode a batch norm is a scale and a shift by channel, which the weights of the convolution or linear layer before
it can hold. Which layer that is, is seen while the network runs on a few images, not read off its code: networks of
other packages fold too, and where a layer's output goes anywhere else, it stays as it is.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from kdbench.method import Outputs
from kdbench.nets.base import Network

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
LOOKS = tuple(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device"))  # read no number
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
LARGEST_ERROR = 1e-3  # as a share of the largest value: wrong folding is off by far more, rounding by far less

log = logging.getLogger(__name__)


def folded(net: Network, images: Tensor) -> Network:
    """A copy of `net` that computes the same without the batch norms that could be folded; `net` itself if none could.

    net: in eval mode; it is left as it is. images: (b, C, H, W) or (b, F), a few on the device of `net`. Outputs differ
    by rounding; where they differ by more, `net` is returned with a warning, because then it does not always run alike.

    Source: torch.nn.utils.fusion.
    """
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        pairs = foldable(net, images)
        if not pairs:
            return net
        twin = copy.deepcopy(net).eval()  # the copy of a traced module forgets its mode
        for layer_name, norm_name in pairs:
            layer, norm = twin.get_submodule(layer_name), twin.get_submodule(norm_name)
            fuse: Any = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
            twin.set_submodule(layer_name, fuse(layer, norm))
            twin.set_submodule(norm_name, nn.Identity())
        error = largest_error(net(images), twin(images))
    if not error <= LARGEST_ERROR:
        log.warning("%s: its batch norms are not folded, for outputs would be off by %.2g", type(net).__name__, error)
        return net
    return twin.eval().requires_grad_(False)


def foldable(net: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """Names of the layers and of the batch norms that directly follow them, as the network runs on `images`.

    A pair counts if each of the two is run once, under one name, and nothing but the batch norm reads what the layer
    gives.
    """
    trace = _Trace(net)
    with trace.watching(), torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        outputs = net(images)
    given = {id(tensor) for tensor in _tensors(outputs)}
    names = Counter(id(module) for _, module in net.named_modules(remove_duplicate=False))
    name_of = {module: name for name, module in net.named_modules()}
    found = []
    for norm, seen in trace.inputs.items():
        layer = trace.made.get(id(seen))
        if layer is None or trace.uses[id(seen)] or id(seen) in given:
            continue
        once = all(trace.runs[module] == 1 and names[id(module)] == 1 for module in (layer, norm))
        if once and (seen.ndim == 2 or not isinstance(layer, nn.Linear)):
            found.append((name_of[layer], name_of[norm]))
    return found


class _Trace(TorchFunctionMode):
    """What the layers of a network give, and what reads it apart from batch norms.

    made: the layer that gave a tensor, by the tensor's id. inputs: what each batch norm was given. uses: by how many
    functions of torch outside of batch norms a tensor was read. runs: how often a module ran.

    A mode for functions, not for operations of the dispatcher: that one loads torch's compiler, which takes seconds.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        plain = [m for m in net.modules() if not any(getattr(m, name) for name in HOOKS)]
        self.layers = [m for m in plain if type(m) in LAYERS]
        self.norms = [m for m in plain if type(m) in NORMS and m.running_mean is not None and not m.training]
        self.made: dict[int, nn.Module] = {}
        self.inputs: dict[nn.Module, Tensor] = {}
        self.uses: Counter[int] = Counter()
        self.runs: Counter[nn.Module] = Counter()
        self._kept: list[Any] = []  # so that no id is given twice
        self._inside = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within, whatever runs is noted."""
        hooks = [layer.register_forward_hook(self._gave) for layer in self.layers]
        hooks += [norm.register_forward_pre_hook(self._begins) for norm in self.norms]
        hooks += [norm.register_forward_hook(self._ends) for norm in self.norms]
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _gave(self, layer: nn.Module, given: Any, output: Tensor) -> None:
        self.runs[layer] += 1
        self.made[id(output)] = layer
        self.uses[id(output)] = 0  # the id may have been that of a tensor that is gone
        self._kept.append(output)

    def _begins(self, norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        self.runs[norm] += 1
        self._inside += 1
        self.inputs[norm] = given[0]

    def _ends(self, norm: nn.Module, given: Any, output: Tensor) -> None:
        self._inside -= 1
        if output is given[0]:
            self.uses[id(output)] += 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._inside and func not in LOOKS:
            self.uses.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return func(*args, **(kwargs or {}))


def _tensors(outputs: Outputs) -> list[Tensor]:
    """All tensors of outputs."""
    return [outputs.logits, outputs.pooled, *outputs.features.values(), *outputs.preactivations.values()]


def largest_error(outputs: Outputs, others: Outputs) -> float:
    """The largest difference between two outputs, as a share of the largest value of the tensor that it is in."""
    shares = [
        float((one - other).abs().max() / one.abs().max().clamp(min=torch.finfo(one.dtype).tiny))
        for one, other in zip(_tensors(outputs), _tensors(others), strict=True)
        if one.numel()
    ]
    return max(shares, default=0.0)
