"""One distillation as all rivals are given it: networks, images, recipe. The same networks and recipe as kdbench's."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kdbench.models import model_from
from kdbench.nets.base import Network

LOG_EVERY = 100  # steps


@dataclass(frozen=True)
class Trial:
    """What a rival trains. Paths are of files.

    teacher, student: model configurations of kdbench. weights: the teacher's, safetensors. images: npz with
    train_images, train_labels, validation_images, validation_labels, mean, std. method: kd or fitnet, with kdbench's
    defaults. workers: processes of the training DataLoader. out: the checkpoint that is left.
    """

    teacher: dict[str, Any]
    student: dict[str, Any]
    weights: str
    images: str
    method: str
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    milestones: tuple[int, ...]
    gamma: float
    seed: int
    workers: int
    out: str

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> Trial:
        """Inverse of `write`."""
        value = json.loads(path.read_text())
        return cls(**{**value, "milestones": tuple(value["milestones"])})

    def networks(self, classes: int) -> tuple[Network, Network]:
        """Teacher, with its weights, in eval mode and frozen; and a fresh student from the trial's seed."""
        teacher = model_from(self.teacher).network((3, 32, 32), classes)
        teacher.load_state_dict(load_file(self.weights))
        seed_all(self.seed)
        student = model_from(self.student).network((3, 32, 32), classes)
        return teacher.eval().requires_grad_(False), student


class Pictures(Dataset[tuple[Any, int]]):
    """Images as torchvision's CIFAR10 hands them out: a PIL image of the array, through the transform."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Any) -> None:
        self.data, self.targets, self.transform = images, labels.tolist(), transform

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]

    def __len__(self) -> int:
        return len(self.targets)


def datasets(trial: Trial) -> tuple[Pictures, Pictures, int]:
    """Training images with random crop and flip, validation images as they are, and the number of classes."""
    with np.load(trial.images, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    plain = [transforms.ToTensor(), transforms.Normalize(arrays["mean"].tolist(), arrays["std"].tolist())]
    augmented = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), *plain]
    return (
        Pictures(arrays["train_images"], arrays["train_labels"], transforms.Compose(augmented)),
        Pictures(arrays["validation_images"], arrays["validation_labels"], transforms.Compose(plain)),
        int(arrays["train_labels"].max()) + 1,
    )


def loaders(trial: Trial) -> tuple[DataLoader[Any], DataLoader[Any], int]:
    """Loaders of training and validation images, and the number of classes."""
    train, validation, classes = datasets(trial)
    return (
        DataLoader(train, batch_size=trial.batch_size, shuffle=True, num_workers=trial.workers),
        DataLoader(validation, batch_size=trial.batch_size, num_workers=max(trial.workers // 2, 0)),
        classes,
    )


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and torch, as scripts of the field do."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
