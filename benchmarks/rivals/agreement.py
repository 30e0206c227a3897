"""Whether the field's loop and kdbench train the same: `python benchmarks/rivals/agreement.py`.

Both start from the same weights and are given the same views of the same images in the same order, in float32: the
field's loop through PIL crops and mirrorings in a DataLoader with a live teacher, kdbench through its gather, once with
a live teacher and once with the outputs that the view cache would hand out. Prints the losses of every step.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import functional as pictures

from kdbench.combine import method_from
from kdbench.data.views import Views
from kdbench.models import model_from
from kdbench.nets.base import Network
from kdbench.train.loop import Training
from kdbench.train.recipe import Recipe
from kdbench.train.task import Task
from kdbench.train.teachers import CachedTeacher, LiveTeacher, Teacher
from kdbench.train.view_cache import ViewCache, weights_hash

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from rivals.field import Loop
from rivals.trial import Trial

CROP, CLASSES = 4, 10
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
RECIPE = Recipe(epochs=4, batch_size=16, lr=0.05, schedule="step", milestones=(2, 3), precision="fp32")


class Shown(Dataset[tuple[Tensor, int]]):
    """One epoch in a given order, each image cropped and mirrored as its view says, by PIL."""

    def __init__(
        self, images: Tensor, labels: Tensor, order: Tensor, views: Tensor, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.images, self.labels, self.order, self.views = images.numpy(), labels, order, views
        self.finish = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        index, side = int(self.order[number]), 2 * CROP + 1
        mirrored, place = divmod(int(self.views[number]), side * side)
        padded = pictures.pad(Image.fromarray(self.images[index]), CROP)
        cropped = pictures.crop(padded, *divmod(place, side), self.images.shape[1], self.images.shape[2])
        picture = pictures.hflip(cropped) if mirrored else cropped
        return self.finish(picture), int(self.labels[index])

    def __len__(self) -> int:
        return len(self.order)


@dataclass
class Setting:
    """Images, labels, networks, method, recipe and seed that all sides are given."""

    images: Tensor
    labels: Tensor
    teacher: Network
    student: Network
    method: str
    recipe: Recipe = RECIPE
    seed: int = 0
    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD

    @classmethod
    def random(
        cls, n: int, method: str = "kd", depths: Sequence[int] = (8, 8), width: float = 1.0, side: int = 32
    ) -> Setting:
        """Noise images of `side` pixels, and two ResNets with fresh weights, the teacher first.

        width: from 1 up. Below 16 channels the backward pass of their strided 1x1 convolutions may write outside of its
        memory in channels_last on a CPU (uxlfoundation/oneDNN issue 6035; torch 2.15 has it).
        """
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (n, side, side, 3), dtype=torch.uint8, generator=generator)
        labels = torch.randint(CLASSES, (n,), generator=generator)
        torch.manual_seed(0)
        families = [model_from({"name": "resnet", "depth": depth, "width": width}) for depth in depths]
        nets = [family.network((3, side, side), CLASSES) for family in families]
        return cls(images, labels, nets[0].eval().requires_grad_(False), nets[1], method)

    def training(self, cache: Path | None, precision: str = "fp32") -> Training:
        """kdbench's training, with a live teacher or with a view cache in a folder; it validates on a few images."""
        views = Views(self.images, CROP, True, self.mean, self.std)
        plain = Views(self.images[:8], 0, False, self.mean, self.std)
        live = LiveTeacher(copy.deepcopy(self.teacher), torch.device("cpu"), "fp32")
        teacher: Teacher = live if cache is None else self.cached(live, views, cache)
        task = Task(views, self.labels, plain, self.labels[:8], teacher=teacher, frozen={"teacher": live.net})
        method, student = method_from({"name": self.method}), copy.deepcopy(self.student)
        return Training(method, student, task, self.recipe, self.seed, precision)

    def cached(self, live: LiveTeacher, views: Views, folder: Path) -> CachedTeacher:
        """The teacher behind a view cache."""
        key = {"teacher": weights_hash(live.net.state_dict()), "data": weights_hash({"images": self.images}),
               "split": "train", "normalisation": [list(self.mean), list(self.std)],
               "views": {"crop": CROP, "flip": True}, "folding": "none", "precision": "fp32"}  # fmt: skip
        compute = CachedTeacher.compute_with(live, views)
        return CachedTeacher(ViewCache.open(folder, key, len(views), views.count, CLASSES, None, compute), compute)

    def loop(self, cheap: bool) -> Loop:
        """The field's loop before its first step, with the weights that kdbench's training starts from."""
        recipe, side = self.recipe, self.images.shape[1]
        trial = Trial({}, {}, "", "", self.method, recipe.epochs, recipe.batch_size, recipe.lr, recipe.momentum,
                      recipe.weight_decay, recipe.milestones, recipe.gamma, self.seed, 0, "")  # fmt: skip
        loop = Loop.of(trial, copy.deepcopy(self.teacher), copy.deepcopy(self.student), cheap, side)
        if loop.regressor is not None:
            loop.regressor.load_state_dict(self.training(None).aux["regressor"].state_dict())
        return loop


def kdbench_losses(setting: Setting, epochs: int, cache: Path | None = None) -> list[float]:
    """Loss of each step of kdbench's training."""
    training, losses = setting.training(cache), []
    step = training.step

    def noted(*arguments: Any) -> dict[str, Tensor]:
        terms = step(*arguments)
        losses.append(float(terms["loss"]))
        return terms

    training.step = noted  # type: ignore[method-assign]
    for _ in range(epochs):
        training.epoch()
    return losses


def field_epochs(setting: Setting, loop: Loop, epochs: int) -> Iterator[list[float]]:
    """Train by the field's loop on the views and in the order that kdbench draws; the losses of each epoch's steps."""
    drawn, recipe = setting.training(None), setting.recipe  # draws the same for the same seed; it is not trained
    schedule = torch.optim.lr_scheduler.MultiStepLR(loop.optimizer, list(recipe.milestones), recipe.gamma)
    n = len(setting.labels)
    for number in range(epochs):
        drawn.epochs_done = number
        order = torch.randperm(n, generator=drawn.generator("order"))
        views = drawn.task.train.draw(n, drawn.generator("views"))
        shown = Shown(setting.images, setting.labels, order, views, setting.mean, setting.std)
        yield loop.epoch(DataLoader(shown, batch_size=recipe.batch_size))
        schedule.step()


def field_losses(setting: Setting, epochs: int, cheap: bool = False) -> list[float]:
    """Loss of each step of the field's loop."""
    return [loss for losses in field_epochs(setting, setting.loop(cheap), epochs) for loss in losses]


def largest(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest relative difference of two curves of equal length."""
    return max(abs(a - b) / max(abs(b), 1e-12) for a, b in zip(one, other, strict=True))


def main() -> None:
    """Print the curves and their largest differences."""
    torch.set_num_threads(1)
    for method in ("kd", "fitnet"):
        setting = Setting.random(64, method, depths=(14, 8), side=16)
        field, live = field_losses(setting, 2), kdbench_losses(setting, 2)
        print(f"{method}: field's loop {', '.join(f'{loss:.5f}' for loss in field)}")
        print(f"  kdbench, live teacher: largest relative difference of {len(field)} steps {largest(live, field):.1e}")
        if method == "kd":
            with tempfile.TemporaryDirectory() as folder:
                ours = kdbench_losses(setting, 2, Path(folder))
            print(
                f"  kdbench, view cache:   largest relative difference of {len(field)} steps {largest(ours, field):.1e}"
            )


if __name__ == "__main__":
    main()
