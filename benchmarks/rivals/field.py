"""A distillation as the field writes it: `python benchmarks/rivals/field.py TRIAL.json [--cheap]`.

PIL transforms in a DataLoader with workers, float32, NCHW, a teacher that runs on every batch, `loss.item()` at every
step, SGD with a step schedule, evaluation after each epoch, `torch.save` of the best: the form of RepDistiller,
mdistiller and torchvision's reference scripts, written anew. The networks and the numbers of the recipe are kdbench's.

--cheap: the same with channels_last, and with autocast to bf16 where the CPU has units for it: what a user gets for two
lines of code.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from kdbench.losses.regression import Regressor
from kdbench.nets.base import Network
from kdbench.train.recipe import cpu_has_bf16
from rivals.trial import LOG_EVERY, Trial, loaders

TEMPERATURE, LAMBDA, CE_WEIGHT, BETA, LAYER = 4.0, 0.9, 0.1, 100.0, "stage2"  # kdbench's defaults of kd and fitnet


@dataclass
class Loop:
    """Networks and optimiser of one distillation."""

    teacher: Network
    student: Network
    regressor: nn.Module | None
    optimizer: torch.optim.Optimizer
    cheap: bool

    @classmethod
    def of(cls, trial: Trial, teacher: Network, student: Network, cheap: bool, side: int = 32) -> Loop:
        """From a trial and its networks, for images of `side` pixels."""
        regressor = hint_regressor(teacher, student, side) if trial.method == "fitnet" else None
        if cheap:
            teacher, student = (net.to(memory_format=torch.channels_last) for net in (teacher, student))  # type: ignore[call-overload]
        parameters = [*student.parameters(), *(regressor.parameters() if regressor is not None else ())]
        optimizer = torch.optim.SGD(parameters, trial.lr, trial.momentum, weight_decay=trial.weight_decay)
        return cls(teacher, student, regressor, optimizer, cheap)

    def precision(self) -> AbstractContextManager[Any]:
        """Autocast, where the cheap rival has units for bf16."""
        return torch.autocast("cpu", torch.bfloat16) if self.cheap and cpu_has_bf16() else nullcontext()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch."""
        if self.cheap:
            images = images.to(memory_format=torch.channels_last)
        with self.precision():
            with torch.no_grad():
                taught = self.teacher(images)
            seen = self.student(images)
            hint = None if self.regressor is None else self.regressor(seen.features[LAYER]).float()
        logits, ce = seen.logits.float(), functional.cross_entropy(seen.logits.float(), labels)
        if hint is not None:
            return ce + BETA * functional.mse_loss(hint, taught.features[LAYER].float())
        soft = functional.softmax(taught.logits.float() / TEMPERATURE, dim=1)
        kl = functional.kl_div(functional.log_softmax(logits / TEMPERATURE, dim=1), soft, reduction="batchmean")
        return CE_WEIGHT * ce + LAMBDA * kl * TEMPERATURE**2

    def epoch(self, batches: Iterable[tuple[Tensor, Tensor]], say: Any = None) -> list[float]:
        """Train on all batches; the loss of each step."""
        self.student.train()
        losses = []
        for number, (images, labels) in enumerate(batches):
            loss = self.loss(images, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
            if say is not None and number % LOG_EVERY == 0:
                say(f"step {number}: loss {losses[-1]:.4f}")
        return losses

    @torch.no_grad()
    def validate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        """Top-1 accuracy in per cent."""
        self.student.eval()
        right = seen = 0
        for images, labels in batches:
            if self.cheap:
                images = images.to(memory_format=torch.channels_last)
            with self.precision():
                logits = self.student(images).logits
            right += (logits.argmax(dim=1) == labels).sum().item()
            seen += len(labels)
        return 100 * right / seen


def hint_regressor(teacher: Network, student: Network, side: int) -> nn.Module:
    """The regressor of FitNets, from the shapes of the two networks' features on images of `side` pixels."""
    images = torch.zeros(2, 3, side, side)
    with torch.no_grad():
        shapes = [tuple(net.eval()(images).features[LAYER].shape[1:]) for net in (student, teacher)]
    return Regressor(*shapes)


def main() -> None:
    """Train, evaluate after each epoch, keep the best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", type=Path)
    parser.add_argument("--cheap", action="store_true")
    options = parser.parse_args()
    trial = Trial.read(options.trial)
    train, validation, classes = loaders(trial)
    teacher, student = trial.networks(classes)
    loop = Loop.of(trial, teacher, student, options.cheap)
    schedule = torch.optim.lr_scheduler.MultiStepLR(loop.optimizer, list(trial.milestones), trial.gamma)
    best = -1.0
    for number in range(trial.epochs):
        began = time.time()
        losses = loop.epoch(train, print)
        top1 = loop.validate(validation)
        mean = sum(losses) / len(losses)
        print(f"epoch {number}: loss {mean:.4f}, val top-1 {top1:.2f} %, {time.time() - began:.1f} s", flush=True)
        if top1 > best:
            best = top1
            state = {
                "epoch": number,
                "model": student.state_dict(),
                "best": best,
                "optimizer": loop.optimizer.state_dict(),
            }
            torch.save(state, trial.out)
        schedule.step()


if __name__ == "__main__":
    main()
