"""The whole step of a training as one CUDA graph: recorded once, then replayed with the batch's numbers put in place.

Recorded are the gather of the batch, the teacher, the student, the loss, the backward pass, clipping, the method's
state and the optimiser. What differs from step to step stands in buffers that the graph reads: positions, views, draws,
progress, learning rate. Draws are made before the replay, so that generators of a method's own need no care.

A step that cannot be recorded, or whose first replay does not give what the eager step gives, is made eagerly from then
on, with one logged line. Smaller last batches are always eager.

No GPU has run this module yet: its tests replay the recorded function itself on a CPU, so what they show is that the
buffers are complete and that every way back to eager steps works. `benchmarks/gpu.sh` runs it on a GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdbench.errors import MethodError, listed
from kdbench.train.group import Share

if TYPE_CHECKING:
    from kdbench.train.loop import Training

Terms = dict[str, Tensor]
Recorder = Callable[[Callable[[], Terms]], tuple[Callable[[], object], Terms]]

WARM_UP = 3  # eager steps before the recording: libraries choose their algorithms, the optimiser makes its state
TOLERANCE = 1e-3  # of the largest value: sums in another order differ by less, a number baked into the graph by more

log = logging.getLogger(__name__)


def record_cuda(body: Callable[[], Terms]) -> tuple[Callable[[], object], Terms]:
    """Record `body` as a CUDA graph: the function that replays it, and the tensors that then hold its terms."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads of a worker may use the GPU
        terms = body()
    return graph.replay, terms


@dataclass(frozen=True)
class Buffers:
    """Where a recorded step reads what differs from step to step."""

    index: Tensor
    view: Tensor
    draw: dict[str, Tensor]
    progress: Tensor

    @classmethod
    def like(cls, index: Tensor, view: Tensor, draw: dict[str, Tensor], progress: float) -> Buffers:
        """Buffers that hold copies of these."""
        scalar = torch.tensor(progress, dtype=torch.float32, device=index.device)
        return cls(index.clone(), view.clone(), {name: tensor.clone() for name, tensor in draw.items()}, scalar)

    def fit(self, index: Tensor, draw: dict[str, Tensor]) -> bool:
        """Whether a batch has the shapes that were recorded."""
        own = {name: (tensor.shape, tensor.dtype) for name, tensor in self.draw.items()}
        return index.shape == self.index.shape and own == {k: (v.shape, v.dtype) for k, v in draw.items()}

    def fill(self, index: Tensor, view: Tensor, draw: dict[str, Tensor], progress: float) -> None:
        """Put a batch in place."""
        self.index.copy_(index)
        self.view.copy_(view)
        self.progress.fill_(progress)
        for name, tensor in draw.items():
            self.draw[name].copy_(tensor)


class GraphedStep:
    """`Training.learn` of one training, as a graph where that can be. To be called as `learn` is.

    recorder: makes a replay of a function; by default a CUDA graph. reason: why steps are eager, or nothing.
    """

    def __init__(self, training: Training, recorder: Recorder = record_cuda) -> None:
        self.training, self.recorder = training, recorder
        self.reason = ""
        self._warmed = 0
        self._buffers: Buffers | None = None
        self._state: dict[str, Tensor] = {}  # the training's, at the addresses that the graph knows
        self._replay: Callable[[], object] = lambda: None
        self._terms: Terms = {}
        if why := uncapturable(training, recorder):
            self._give_up(why)
        else:
            for group in training.optimizer.param_groups:
                # what the fused kernels read: on a GPU float32
                kind = torch.float32 if training.device.type == "cuda" else torch.float64
                group["lr"] = torch.as_tensor(group["lr"], dtype=kind, device=training.device)
                if "capturable" in group:
                    group["capturable"] = training.device.type == "cuda"

    def __call__(
        self, index: Tensor, view: Tensor, draw: dict[str, Tensor], progress: float,
        further: tuple[Tensor, Tensor] | None = None, share: Share | None = None,
    ) -> Terms:  # fmt: skip
        """One step: eager while it warms up, for smaller batches and once `reason` is set, else a replay."""
        learn = self.training.learn
        if self.reason or len(index) != self.training.recipe.batch_size:
            return learn(index, view, draw, progress, further, share)
        if self._warmed < WARM_UP:
            self._warmed += 1
            with aside(self.training.device):
                if self._warmed < WARM_UP:
                    return learn(index, view, draw, progress, further, share)
                return self._watched(index, view, draw, progress)
        if self._buffers is None:
            return self._begin(index, view, draw, progress)
        if not self._buffers.fit(index, draw):
            return learn(index, view, draw, progress, further, share)
        return self._replayed(self._buffers, index, view, draw, progress)

    def _watched(self, index: Tensor, view: Tensor, draw: dict[str, Tensor], progress: float) -> Terms:
        """An eager step that is given progress as a tensor, and that notes what a graph could not do."""
        scalar = torch.tensor(progress, dtype=torch.float32, device=index.device)
        watch = HostReads()
        with watch:
            terms = self.training.learn(index, view, draw, scalar)
        if watch.seen:
            self._give_up(f"the step reads numbers on the host or has shapes that depend on them ({watch.seen})")
        return terms

    def _begin(self, index: Tensor, view: Tensor, draw: dict[str, Tensor], progress: float) -> Terms:
        """Record the step, make this one both ways, and go on with the graph only if both give the same."""
        training = self.training
        buffers = Buffers.like(index, view, draw, progress)
        old = training.state
        self._state = {name: tensor.clone() for name, tensor in old.items()}
        training.state = self._state
        training.optimizer.zero_grad(set_to_none=True)  # so that gradients are the graph's own
        try:
            self._replay, self._terms = self.recorder(lambda: self._body(buffers))
            with unchanged(training):
                graphed = self._outcome(self._replayed(buffers, index, view, draw, progress))
        except Exception as error:  # whatever a driver, a library or a method has against it
            training.state = old
            training.optimizer.zero_grad(set_to_none=True)
            self._give_up(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
            return training.learn(index, view, draw, progress)
        terms = training.learn(index, view, draw, progress)
        eager = self._outcome(terms)
        if off := [name for name, tensor in eager.items() if not close(graphed[name], tensor)]:
            self._give_up(f"a replay does not give what the eager step gives: {', '.join(off[:3])}")
            return terms
        self._keep_state()
        self._buffers = buffers
        return terms

    def _body(self, buffers: Buffers) -> Terms:
        """What is recorded: a step on the buffers, whose new state goes where the old one was."""
        terms = self.training.learn(buffers.index, buffers.view, buffers.draw, buffers.progress)
        self._keep_state()
        return terms

    def _keep_state(self) -> None:
        if odd := set(self.training.state) - set(self._state):
            raise MethodError(f"update() adds the state {listed(sorted(odd))} in a later step")
        for name, tensor in self._state.items():
            if (new := self.training.state[name]) is not tensor:
                tensor.copy_(new)
        self.training.state = self._state

    def _replayed(
        self, buffers: Buffers, index: Tensor, view: Tensor, draw: dict[str, Tensor], progress: float
    ) -> Terms:
        """A step by the graph; its terms are overwritten by the next one."""
        if self.training.state is not self._state:  # an eager step was between
            self._keep_state()
        buffers.fill(index, view, draw, progress)
        self._replay()
        return dict(self._terms)

    def _outcome(self, terms: Terms) -> Terms:
        """Copies of all that a step leaves: terms, and what trains."""
        training = self.training
        weights = {f"weights {number}": p for number, p in enumerate(training.trained_parameters())}
        return {name: tensor.detach().clone() for name, tensor in {**terms, **weights, **training.state}.items()}

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        self._replay, self._terms, self._buffers = lambda: None, {}, None
        log.warning("method '%s': no CUDA graph, steps are eager: %s", self.training.method.name, reason)


def uncapturable(training: Training, recorder: Recorder) -> str:
    """Why the steps of a training cannot be a graph, as far as it is known before the first; empty if nothing is."""
    method = training.method
    reasons = {
        "the device is no GPU": recorder is record_cuda and training.device.type != "cuda",
        "the method makes inputs of its own": method.has_inputs,
        "the method reads images without labels": method.unlabelled,
        "the training is spread over processes": training.group.size > 1,
        "the optimiser has no fused kernel": any(not group.get("fused") for group in training.optimizer.param_groups),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


class HostReads(TorchDispatchMode):
    """Notes operations that wait for the device or whose shapes depend on its numbers. seen: the first one, or nothing.

    Works on a CPU too, where such operations wait for nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.seen and reads_on_host(func, args, kwargs or {}):
            self.seen = str(func)
        return func(*args, **(kwargs or {}))


def reads_on_host(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation of torch's reads numbers of a device: for Python, for a shape, or as a copy."""
    if torch.Tag.data_dependent_output in func.tags:
        return True
    if func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default):
        return any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])
    if torch.Tag.dynamic_output_shape in func.tags:
        return True
    away = kwargs.get("device")
    return (
        func is torch.ops.aten._to_copy.default
        and away is not None
        and torch.device(away).type == "cpu"
        and args[0].device.type != "cpu"
    )


@contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """Within, work of a GPU is on a stream of its own, as steps before a recording have to be."""
    if device.type != "cuda":
        yield
        return
    own, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    own.wait_stream(current)
    with torch.cuda.stream(own):
        yield
    current.wait_stream(own)


@contextmanager
def unchanged(training: Training) -> Iterator[None]:
    """After the block all that a step changes in place is as before: networks, optimiser, state, random generators."""
    tensors = [t for net in [*training.stored.values(), training.aux] for t in [*net.parameters(), *net.buffers()]]
    for state in training.optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    tensors += training.state.values()
    copies = [tensor.detach().clone() for tensor in tensors]
    devices = [torch.cuda.current_device()] if training.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        with torch.no_grad():
            for tensor, copy in zip(tensors, copies, strict=True):
                tensor.copy_(copy)


def close(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors differ by rounding only, and are finite in the same places."""
    if not other.numel() or not torch.equal(one.isfinite(), other.isfinite()):
        return not other.numel()
    got, wanted = (tensor.double().nan_to_num(0.0, 0.0, 0.0) for tensor in (one, other))
    return bool((got - wanted).abs().max() <= TOLERANCE * wanted.abs().max() + torch.finfo(torch.float32).eps)
