from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, functional, v2  # noqa: F401

from kdbench import data
from kdbench.data.views import Views

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def images(n: int = 5, size: int = 32, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, size, size, channels), dtype=torch.uint8, generator=generator)


def some_images() -> list[object]:
    found: list[object] = [pytest.param(("digits", 1), id="digits")]
    if data.describe("cifar10").available:
        found.append(pytest.param(("cifar10", 4), id="cifar10", marks=pytest.mark.cifar))
    return [pytest.param(("random", 4), id="random"), *found]


def torchvision_view(
    image: torch.Tensor, top: int, left: int, mirrored: bool, crop: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> torch.Tensor:
    """One outcome of RandomCrop(size, padding=crop), RandomHorizontalFlip, ToTensor, Normalize, on a PIL image."""
    height, width, _ = image.shape
    picture = functional.to_pil_image(image.permute(2, 0, 1))
    picture = functional.crop(functional.pad(picture, [crop]), top, left, height, width)
    if mirrored:
        picture = functional.hflip(picture)
    return functional.normalize(functional.to_tensor(picture), list(mean), list(std))


@pytest.mark.parametrize("source", some_images())
def test_every_view_equals_torchvision(source: tuple[str, int]) -> None:
    name, crop = source
    if name == "random":
        pixels, mean, std = images(), CIFAR_MEAN, CIFAR_STD
    else:
        splits = data.load({"name": name, "validation": 10, "train": 10})
        pixels, mean, std = splits.train.images[:4], splits.mean, splits.std
    views = Views(pixels, crop, True, mean, std)
    side = 2 * crop + 1
    assert views.count == side * side * 2 and (crop != 4 or views.count == 162)
    outcomes = itertools.product((False, True), range(side), range(side))
    index = torch.arange(len(pixels))
    for view, (mirrored, top, left) in enumerate(outcomes):
        batch = views.batch(index, torch.full_like(index, view))
        expected = torch.stack([torchvision_view(image, top, left, mirrored, crop, mean, std) for image in pixels])
        assert torch.equal(batch, expected), (view, (batch - expected).abs().max())


def test_every_outcome_of_the_random_transforms_is_a_view() -> None:
    pixels = images(1, size=8)
    transform = v2.Compose([v2.RandomCrop(8, padding=2), v2.RandomHorizontalFlip()])
    views = Views(pixels, 2, True, (0.0,) * 3, (1.0,) * 3)
    index = torch.zeros(views.count, dtype=torch.int64)
    mine = {bytes((view * 255).round().byte().numpy()) for view in views.batch(index, torch.arange(views.count))}
    picture = pixels[0].permute(2, 0, 1)
    theirs = {bytes(transform(picture).numpy()) for _ in range(600)}
    assert theirs <= mine and len(mine) == 50 and len(theirs) > 45


def test_the_plain_view_is_the_image_itself() -> None:
    pixels = images()
    views = Views(pixels, 4, True, CIFAR_MEAN, CIFAR_STD)
    index = torch.tensor([3, 0, 3])
    expected = functional.normalize(pixels[index].permute(0, 3, 1, 2).float() / 255, list(CIFAR_MEAN), list(CIFAR_STD))
    assert torch.equal(views.plain(index), expected)
    assert views.identity == 40
    assert torch.equal(views.plain(index), Views(pixels, 0, False, CIFAR_MEAN, CIFAR_STD).plain(index))


def test_padding_is_black_before_normalisation() -> None:
    views = Views(torch.full((1, 4, 4, 1), 255, dtype=torch.uint8), 1, False, (0.5,), (0.25,))
    corner = views.batch(torch.tensor([0]), torch.tensor([0]))[0, 0]
    # Black is (0 - 0.5) / 0.25 = -2, white (1 - 0.5) / 0.25 = 2; the top left window has one row and column of padding.
    assert corner.tolist() == [[-2, -2, -2, -2]] + [[-2, 2, 2, 2]] * 3


def test_batches_are_channels_last_and_float32() -> None:
    views = Views(images(), 4, True, CIFAR_MEAN, CIFAR_STD)
    batch = views.batch(torch.tensor([0, 4]), torch.tensor([5, 161]))
    assert batch.shape == (2, 3, 32, 32) and batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_draws_are_uniform_and_seeded() -> None:
    views = Views(images(1, size=8), 1, True, CIFAR_MEAN, CIFAR_STD)
    first = views.draw(18_000, torch.Generator().manual_seed(3))
    assert torch.equal(first, views.draw(18_000, torch.Generator().manual_seed(3)))
    counts = np.bincount(first.numpy(), minlength=18)
    # 1000 expected of each of 18; chi-squared of 17 degrees of freedom exceeds 40.8 once in a thousand seeds.
    assert len(counts) == 18 and ((counts - 1000) ** 2 / 1000).sum() < 40.8


def test_no_images_make_no_views() -> None:
    views = Views(torch.zeros((0, 8, 8, 1), dtype=torch.uint8), 2, True, (0.0,), (1.0,))
    assert len(views) == 0 and views.plain(torch.zeros(0, dtype=torch.int64)).shape == (0, 1, 8, 8)


def test_oblong_images_keep_their_shape() -> None:
    pixels = torch.arange(2 * 3 * 5, dtype=torch.uint8).view(2, 3, 5, 1)
    views = Views(pixels, 1, True, (0.0,), (1.0,))
    mirrored = views.batch(torch.tensor([1]), torch.tensor([9 + 4]))  # the centre, mirrored
    assert torch.equal((mirrored * 255).round().byte()[0, 0], pixels[1, :, :, 0].flip(1))


def test_the_images_given_are_not_changed() -> None:
    pixels = images()
    before = pixels.clone()
    views = Views(pixels, 4, True, CIFAR_MEAN, CIFAR_STD)
    views.batch(torch.tensor([0]), torch.tensor([0])).fill_(9)
    assert torch.equal(pixels, before) and views.plain(torch.tensor([0])).max() < 9
