"""Teacher and student pairs on noise of the shape of CIFAR-10, for benchmarks of the training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.combine import method_from
from kdbench.data.views import Views
from kdbench.models import model_from
from kdbench.nets.base import Network
from kdbench.train.engine import Engine
from kdbench.train.loop import Training
from kdbench.train.recipe import Recipe
from kdbench.train.task import Task
from kdbench.train.teachers import CachedTeacher, LiveTeacher
from kdbench.train.view_cache import KEY_PARTS, ViewCache

IMAGES, CLASSES, CROP = 2048, 10, 4
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

Config = dict[str, Any]
PAIRS: dict[str, tuple[Config, Config]] = {
    "resnet20-8": ({"name": "resnet", "depth": 20}, {"name": "resnet", "depth": 8}),
    "resnet56-20": ({"name": "resnet", "depth": 56}, {"name": "resnet", "depth": 20}),
    "wrn-40-2-16-2": ({"name": "wrn", "depth": 40, "width": 2.0}, {"name": "wrn", "depth": 16, "width": 2.0}),
    "resnet32x4-8x4": ({"name": "resnet", "depth": 32, "width": 4.0}, {"name": "resnet", "depth": 8, "width": 4.0}),
}


def network(config: Config) -> Network:
    """A network for these images, with fresh weights."""
    return model_from(config).network((3, 32, 32), CLASSES)


@torch.no_grad()
def calibrated(net: Network, views: Views) -> Network:
    """The network, frozen, with batch-norm statistics of some images: without them deep features overflow."""
    net = net.to(views.device)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over what is seen
    net.train()(views.plain(torch.arange(64, device=views.device)))
    return net.eval().requires_grad_(False)


@dataclass(frozen=True)
class Side:
    """One way to make a step. cached: the teacher is looked up, else it runs. guarded: as in a study."""

    engine: Engine = field(default_factory=Engine)
    cached: bool = True
    guarded: bool = True

    def engined(self, **changes: str) -> Side:
        """The same but for its engine."""
        return replace(self, engine=replace(self.engine, **changes))


class Scene:
    """One pair on a device: the teacher and the images that all sides share. folder: for the view cache."""

    def __init__(self, pair: str, batch: int, folder: Path, device: torch.device, images: int = IMAGES) -> None:
        self.batch, self.folder, self.device, self.count = batch, folder, device, images
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(256, (images, 32, 32, 3), dtype=torch.uint8, generator=generator)
        self.labels = torch.randint(CLASSES, (images,), generator=generator).to(device)
        self.views = Views(self.images, CROP, True, MEAN, STD, device)
        torch.manual_seed(0)
        self.teacher_config, self.student_config = PAIRS[pair]
        self.teacher = calibrated(network(self.teacher_config), self.views)
        self.index = torch.arange(images, device=device)
        self.view = torch.randint(self.views.count, (images,), generator=generator).to(device)

    def live(self, engine: Engine) -> LiveTeacher:
        """The teacher as a network that runs."""
        return LiveTeacher(self.teacher, self.device, engine.precision, engine.batch_norm == "folded")

    def cache(self) -> CachedTeacher:
        """The teacher as a table that is full of what `index` and `view` ask for."""
        compute = CachedTeacher.compute_with(self.live(Engine()), self.views)
        key = dict.fromkeys(KEY_PARTS, "noise")
        pooled = self.teacher.head.in_features
        cache = ViewCache.open(
            self.folder, key, self.count, self.views.count, CLASSES, int(pooled), compute, self.device  # type: ignore[arg-type]
        )  # fmt: skip
        cached = CachedTeacher(cache, compute)
        cached.prepare(self.index, self.view)
        return cached

    def training(self, side: Side, views: Any = None) -> Training:
        """A student under vanilla distillation, ready for its first step."""
        teacher = self.cache() if side.cached else self.live(side.engine)
        train = self.views if views is None else views
        task = Task(train, self.labels, self.views, self.labels, teacher, None, {"teacher": self.teacher})
        recipe = Recipe(epochs=240, batch_size=self.batch, lr=0.01)
        torch.manual_seed(1)
        run = Training(method_from({"name": "kd"}), network(self.student_config), task, recipe, 0, side.engine)
        if not side.guarded:
            run.method = run.method._method  # type: ignore[attr-defined]
        run.train_mode()
        run.set_lr(0.0)
        return run

    def stepper(self, side: Side, views: Any = None) -> Callable[[], dict[str, Tensor]]:
        """A function that makes a side's next step and returns its terms. views: in place of the resident ones."""
        run, made = self.training(side, views), 0

        def step() -> dict[str, Tensor]:
            nonlocal made
            low = made * self.batch % (self.count - self.batch)
            part = slice(low, low + self.batch)
            made += 1
            return run.step(self.index[part], self.view[part], torch.Generator(), 0.5)

        return step
