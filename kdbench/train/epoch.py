"""One epoch under way, step by step, so that trainings of one process can take turns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdbench.seeds import seed_for
from kdbench.train.teachers import without_tf32

if TYPE_CHECKING:
    from kdbench.train.loop import Training


@dataclass(frozen=True)
class Course:
    """What an epoch shows: positions `order` and views `views` of the training images, both int64 (n,)."""

    order: Tensor
    views: Tensor


def course_of(training: Training) -> Course:
    """The course of a training's next epoch: it follows from the seed, the epoch and the images alone."""
    n, device = len(training.task.train_labels), training.device
    order = torch.randperm(n, generator=training.generator("order")).to(device)
    return Course(order, training.task.train.draw(n, training.generator("views")).to(device))


class Epoch:
    """The next epoch of a training: within `settings()`, `step()` until `complete`, and then `end()`.

    course: that of another training with the same seed and images; by default the training's own, which is equal.
    """

    def __init__(self, training: Training, course: Course | None = None) -> None:
        self.training = training
        training.train_mode()
        n = len(training.task.train_labels)
        self.course = Course(course.order.clone(), course.views) if course else course_of(training)  # a method sees it
        self.unlabelled = training.draw_unlabelled(n)
        self.draws = training.generator("sample", training.device)
        batches = training.batches(n)
        self.samples = batches[-1][1]
        self.shares = [training.group.share(low, high) for low, high in batches]
        if training.task.teacher is not None:
            mine = torch.cat([torch.arange(share.low, share.high) for share in self.shares]).to(training.device)
            training.task.teacher.prepare(self.course.order[mine], self.course.views[mine])
        training.group.join({**training.nets, "aux": training.aux})
        self.sums: dict[str, Tensor] = {}
        self.done = 0  # steps
        self._random: list[Tensor] = []  # states of the global generators after the steps so far

    @property
    def complete(self) -> bool:
        """Whether all steps are done."""
        return self.done == len(self.shares)

    @contextmanager
    def settings(self) -> Iterator[None]:
        """What holds for the process in the steps of this training: its own global random state, no TF32 in fp32.

        It may be left between two steps; what was drawn outside does not matter to those that follow.
        """
        training = self.training
        # Of all that a step does: the backward pass and `aux` too.
        with without_tf32() if training.precision == "fp32" else nullcontext():
            before = random_states(training.device)
            if self._random:
                set_random_states(self._random, training.device)
            else:
                seed = seed_for(training.seed, "net", training.epochs_done, *training.group.seed_names)
                torch.default_generator.manual_seed(seed)
                if training.device.type == "cuda":
                    torch.cuda.manual_seed(seed)
            try:
                yield
            finally:
                self._random = random_states(training.device)
                set_random_states(before, training.device)

    def step(self) -> None:
        """The next optimiser step."""
        training, share = self.training, self.shares[self.done]
        moment = training.epochs_done + self.done / len(self.shares)
        training.set_lr(moment)
        own = slice(share.low, share.high)
        further = (self.unlabelled[0][own], self.unlabelled[1][own]) if self.unlabelled is not None else None
        index, view = self.course.order[own], self.course.views[own]
        terms = training.step(index, view, self.draws, moment / training.recipe.epochs, further, share)
        for name, term in terms.items():
            weighted = term * share.samples
            self.sums[name] = self.sums[name] + weighted if name in self.sums else weighted
        self.done += 1

    def end(self) -> dict[str, float]:
        """Means over the epoch, and metrics on the validation images: the epoch's point of every curve, but its time.

        Sets whether the training has diverged.
        """
        training, names = self.training, list(self.sums)
        training.group.align([*training.nets.values(), training.aux])
        means = (training.group.total(torch.stack([self.sums[name] for name in names])) / self.samples).tolist()
        point = {f"train_{name}": value for name, value in zip(names, means, strict=True)}
        point["lr"] = training.recipe.lr * training.recipe.lr_factor(training.epochs_done)
        training.diverged = not math.isfinite(point["train_loss"])
        if not training.diverged:
            point.update({f"val_{name}": value for name, value in training.validate().items()})
            training.diverged = not math.isfinite(point["val_nll"])  # the last step may have broken the weights
        return point


def random_states(device: torch.device) -> list[Tensor]:
    """States of the global generators of the CPU and of a GPU."""
    own = [torch.default_generator.get_state()]
    return own if device.type != "cuda" else [*own, torch.cuda.get_rng_state(device)]


def set_random_states(states: list[Tensor], device: torch.device) -> None:
    """Inverse of `random_states`."""
    torch.default_generator.set_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
