"""The one training loop, for every method, on CPU and GPU.

Everything random is drawn from a seed with a name and the number of the epoch (kdbench/seeds.py), so an epoch is a
function of the state before it: a training that goes on from a checkpoint equals one that was never interrupted.
Nothing inside a step waits for the device; sums are read once an epoch.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.data.views import Views
from kdbench.errors import CheckpointError, MethodError, listed
from kdbench.method import Method, Outputs, Shapes, Step
from kdbench.nets.base import Network
from kdbench.seeds import seed_for
from kdbench.train import checkpoint
from kdbench.train.metrics import evaluate
from kdbench.train.recipe import Recipe
from kdbench.train.teachers import Teacher, in_float, precision_of, without_tf32

EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Task:
    """What a training learns from: views of the training and validation images, their labels, and the teacher.

    teacher_validation: the teacher's logits (n, C) on the validation images, for the agreement metric, or None.
    teacher_shapes: of one sample of each of the teacher's features.
    """

    train: Views
    train_labels: Tensor
    validation: Views
    validation_labels: Tensor
    teacher: Teacher | None = None
    teacher_validation: Tensor | None = None
    teacher_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def shapes_of(outputs: Outputs) -> dict[str, tuple[int, ...]]:
    """Shapes of one sample of every feature, of `pooled` and of `logits`."""
    named = {**outputs.features, "pooled": outputs.pooled, "logits": outputs.logits}
    return {name: tuple(tensor.shape[1:]) for name, tensor in named.items()}


def probe(net: Network, views: Views) -> Outputs:
    """Outputs for two training images, in eval mode: for shapes."""
    was_training = net.training
    net.eval()
    with torch.no_grad():
        outputs: Outputs = net(views.plain(torch.arange(2, device=views.device)))
    net.train(was_training)
    return outputs


def set_train_mode(module: nn.Module, before: bool = False) -> bool:
    """Train mode, but what is frozen is in eval mode with all that it holds, so that its statistics stay.

    A part without parameters (dropout, batch norm without affine) goes with the part before it, in the order in which
    parts were added; `before`: whether that one trains. Returns the same for whatever comes after `module`.
    """
    trains = {parameter.requires_grad for parameter in module.parameters()}
    if trains == {True, False}:
        module.train()
        for child in module.children():
            before = set_train_mode(child, before)
        return before
    before = True in trains if trains else before
    module.train(before)
    return before


def total(terms: dict[str, Tensor]) -> Tensor:
    """The sum of a method's terms. Raise MethodError unless they are scalars with names."""
    odd = [f"{name} of shape {tuple(term.shape)}" for name, term in terms.items() if term.ndim]
    if odd or not terms:
        raise MethodError(f"loss() must return {{name: scalar tensor}}, but got {listed(odd)}. Take mean() or sum().")
    return torch.stack(list(terms.values())).sum()


class Training:
    """One student being trained. `epoch()` until `over`; `save` and `restore` between epochs.

    net: the student, with its starting weights. seed: of everything random. curves: one number per epoch and name.
    """

    def __init__(
        self, method: Method, net: Network, task: Task, recipe: Recipe, seed: int, precision: str,
        peers: dict[str, Network] | None = None,
    ) -> None:  # fmt: skip
        self.method, self.task, self.recipe, self.seed, self.precision = method, task, recipe, seed, precision
        self.device = task.train.device
        self.nets = {"student": net, **(peers or {})}
        for role, module in self.nets.items():
            self.nets[role] = module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.student = self.nets["student"]
        shapes = Shapes(student=shapes_of(probe(self.student, task.train)), teacher=task.teacher_shapes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "init", "aux"))
            self.aux = nn.ModuleDict(method.build(shapes)).to(self.device)
            self.state = {k: v.to(self.device) for k, v in method.init_state(shapes, len(task.train_labels)).items()}
        self.start = {name: p.detach().clone() for name, p in self.student.named_parameters()}
        for name, parameter in self.student.named_parameters():
            parameter.requires_grad_(method.trains(name, self.student.head_prefix))
        self.optimizer = recipe.build_optimizer(self.trained_parameters(), method.optimiser())
        self.epochs_done = 0
        self.wall_s = 0.0
        self.diverged = False
        self.curves: dict[str, list[float]] = {}

    def trained_parameters(self) -> list[Tensor]:
        """Every parameter that the optimiser changes: of the student, its peers, and the method's own modules."""
        modules: list[nn.Module] = [*self.nets.values(), self.aux]
        found: list[Tensor] = [p for module in modules for p in module.parameters() if p.requires_grad]
        if not found:
            raise MethodError(f"'{self.method.name}' trains no parameter: trains() is False for every name")
        return found

    @property
    def over(self) -> bool:
        """Whether training has ended: all epochs done, target reached, or diverged."""
        target, reached = self.recipe.target_top1_pct, self.curves.get("val_top1_pct", [])
        hit = target is not None and bool(reached) and reached[-1] >= target
        return self.diverged or hit or self.epochs_done >= self.recipe.epochs

    def generator(self, name: str) -> torch.Generator:
        """A generator for one kind of draw in this epoch."""
        return torch.Generator().manual_seed(seed_for(self.seed, name, self.epochs_done))

    def train_mode(self) -> None:
        """Train mode for all that trains; what is frozen is in eval mode."""
        for net in self.nets.values():
            set_train_mode(net)
        for module in self.aux.values():
            set_train_mode(module, before=True)

    def epoch(self) -> dict[str, float]:
        """Train one epoch, evaluate on the validation images, and return this epoch's point of every curve."""
        began = time.monotonic()
        self.train_mode()
        n = len(self.task.train_labels)
        order = torch.randperm(n, generator=self.generator("order")).to(self.device)
        views = self.task.train.draw(n, self.generator("views")).to(self.device)
        draws = self.generator("sample")
        if self.task.teacher is not None:
            self.task.teacher.prepare(order, views)
        sums: dict[str, Tensor] = {}
        exact = without_tf32() if self.precision == "fp32" else nullcontext()  # for the backward pass and `aux` too
        with torch.random.fork_rng(), exact:
            torch.manual_seed(seed_for(self.seed, "net", self.epochs_done))
            batches = self.batches(n)
            for number, (low, high) in enumerate(batches):
                moment = self.epochs_done + number / len(batches)
                self.set_lr(moment)
                terms = self.step(order[low:high], views[low:high], draws, moment / self.recipe.epochs)
                for name, term in terms.items():
                    sums[name] = sums[name] + term * (high - low) if name in sums else term * (high - low)
        names = list(sums)
        means = (torch.stack([sums[name] for name in names]) / batches[-1][1]).tolist()
        point = {f"train_{name}": value for name, value in zip(names, means, strict=True)}
        point["lr"] = self.recipe.lr * self.recipe.lr_factor(self.epochs_done)
        self.diverged = not math.isfinite(point["train_loss"])
        if not self.diverged:
            point.update({f"val_{name}": value for name, value in self.validate().items()})
            self.diverged = not math.isfinite(point["val_nll"])  # the last step may have broken the weights
        seconds = time.monotonic() - began
        self.wall_s += seconds
        point["epoch_wall_s"] = seconds
        for name, value in point.items():
            curve = self.curves.setdefault(name, [])
            curve += [math.nan] * (self.epochs_done - len(curve))  # a method may begin or leave out a term at any epoch
            curve.append(value)
        self.epochs_done += 1
        return point

    def set_lr(self, moment: float) -> None:
        """Set the learning rate of a moment of training, in epochs from 0."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * self.recipe.lr_factor(moment)

    def batches(self, n: int) -> list[tuple[int, int]]:
        """First and last position of each batch of an epoch; a last batch of one sample is left out of this epoch,
        because batch normalisation has no variance of one."""
        size = self.recipe.batch_size
        bounds = [(low, min(low + size, n)) for low in range(0, n, size)]
        return bounds[:-1] if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] == 1 else bounds

    def step(self, index: Tensor, view: Tensor, draws: torch.Generator, progress: float) -> dict[str, Tensor]:
        """One optimiser step on one batch; returns the loss and its terms, detached."""
        images = self.task.train.batch(index, view)
        teacher = self.task.teacher(images, index, view) if self.task.teacher is not None else None
        with precision_of(self.device, self.precision):
            outputs = {role: in_float(net(images)) for role, net in self.nets.items()}
        step = Step(
            labels=self.task.train_labels[index],
            index=index,
            student=outputs["student"],
            teacher=teacher,
            nets=outputs if teacher is None else {**outputs, "teacher": teacher},
            aux=dict(self.aux.items()),
            state=self.state,
            draw={
                k: v.to(self.device) for k, v in self.method.sample(index, len(self.task.train_labels), draws).items()
            },
            params=dict(self.student.named_parameters()),
            start=self.start,
            head=self.student.head_prefix,
            progress=progress,
        )
        terms = self.method.loss(step)
        loss = total(terms)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.trained_parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            self.state = {**self.state, **self.method.update(step)}
        return {"loss": loss.detach(), **{f"loss_{name}": term.detach() for name, term in terms.items()}}

    def validate(self) -> dict[str, float]:
        """Metrics of the student on the validation images."""
        logits = logits_of(self.student, self.task.validation, self.precision)
        return evaluate(logits, self.task.validation_labels, self.task.teacher_validation)

    def save(self, path: Path, facts: dict[str, Any]) -> None:
        """Write a checkpoint from which `restore` goes on bit-equal (on a CPU)."""
        tensors = {f"{role}.{k}": v for role, net in self.nets.items() for k, v in net.state_dict().items()}
        tensors |= {f"aux.{k}": v for k, v in self.aux.state_dict().items()}
        tensors |= {f"state.{k}": v for k, v in self.state.items()}
        tensors |= checkpoint.optimizer_tensors(self.optimizer, "optimizer.")
        own = {"epochs_done": self.epochs_done, "wall_s": self.wall_s, "diverged": self.diverged, "curves": self.curves}
        checkpoint.save(path, tensors, {**facts, **own})

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint. Raise CheckpointError if it does not fit."""
        tensors, facts = checkpoint.load(path)
        if lacking := {"epochs_done", "wall_s", "diverged", "curves"} - set(facts):
            raise CheckpointError(f"{path} is no checkpoint of a training: it lacks {listed(sorted(lacking))}.")

        def under(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v.to(self.device) for k, v in tensors.items() if k.startswith(prefix)}

        for role, net in self.nets.items():
            checkpoint.load_weights(net, under(f"{role}."), f"{path} ({role})")
        checkpoint.load_weights(self.aux, under("aux."), f"{path} (aux)")
        state = under("state.")
        if lacking := set(self.state) - set(state):
            raise CheckpointError(f"{path} does not fit the method: it lacks the state {listed(sorted(lacking))}.")
        self.state = state
        checkpoint.load_optimizer(self.optimizer, tensors, "optimizer.")
        self.epochs_done, self.wall_s = facts["epochs_done"], facts["wall_s"]
        self.diverged, self.curves = facts["diverged"], facts["curves"]


def logits_of(net: Network, views: Views, precision: str) -> Tensor:
    """Logits (n, C) in float32 of all images, unaugmented, in eval mode; the mode is put back."""
    was_training = net.training
    net.eval()
    with torch.no_grad(), precision_of(views.device, precision):
        parts = [
            net(views.plain(torch.arange(low, min(low + EVALUATION_BATCH, len(views)), device=views.device))).logits
            for low in range(0, len(views), EVALUATION_BATCH)
        ]
    net.train(was_training)
    return torch.cat(parts).float()
