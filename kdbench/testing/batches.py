"""Synthetic batches that a small network can learn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

IMAGE_SHAPE = (3, 8, 8)


@dataclass(frozen=True)
class Batch:
    """images: (B, 3, 8, 8) float32. labels: (B,) int64. index: (B,) int64, position in a training split."""

    images: Tensor
    labels: Tensor
    index: Tensor

    def first(self, count: int) -> Batch:
        """The first `count` samples, like the last batch of an epoch."""
        return Batch(self.images[:count], self.labels[:count], self.index[:count])


def make_batch(size: int = 16, classes: int = 10, seed: int = 0) -> Batch:
    """Images that are a pattern of their class plus noise of half its strength; labels go round the classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % classes
    patterns = torch.randn(classes, *IMAGE_SHAPE, generator=generator)
    images = patterns[labels] + 0.5 * torch.randn(size, *IMAGE_SHAPE, generator=generator)
    return Batch(images, labels, torch.randperm(size, generator=generator))
