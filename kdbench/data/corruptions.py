"""Common corruptions of images at five severities, as in CIFAR-10-C, made here from the test images. No torch.

Source: Hendrycks, Dietterich 2019, arXiv:1903.12261; parameters and steps of ImageNet-C/create_c/make_cifar_c.py
in https://github.com/hendrycks/robustness at commit ca36008, written anew.
Differs: (a) draws are named by corruption, severity and image, so that an image is always corrupted alike; the
published files hold other draws of the same distributions. (b) `motion_blur` and `snow` follow the formula of
ImageMagick's MotionBlurImage without calling it, `spatter` and `elastic_transform` follow OpenCV's with scipy. Their
pixels differ by rounding, those of `spatter` also by exact distances in place of OpenCV's approximate ones. (c) `frost`
is left out: it pastes photographs that are not part of kdbench. (d) Numbers within 1e-6 below a whole pixel value
become that value.
Parameters are those for 32 x 32 pixels. Images of other sizes are taken too, but a severity then means something else:
blurs and noise weigh the same in pixels, and the shifts of `elastic_transform` grow with the image.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from kdbench.errors import DataError, did_you_mean, listed

if TYPE_CHECKING:
    import numpy as np

Corruption = Literal[
    "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise",
    "defocus_blur", "gaussian_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "fog", "spatter", "brightness", "contrast", "saturate",
    "elastic_transform", "pixelate", "jpeg_compression",
]  # fmt: skip
CORRUPTIONS: tuple[str, ...] = get_args(Corruption)
SEVERITIES = (1, 2, 3, 4, 5)
IN_COLOUR = ("spatter", "saturate")  # they tint, so grey images would no longer be grey
WITH_PILLOW = ("pixelate", "jpeg_compression")
RELEASE = 1  # raised when the same corruption gives other pixels, so that none are taken from a cache
AT_ONCE = 256  # images, in float64


def possible(channels: int) -> tuple[str, ...]:
    """The corruptions that images of so many channels can have."""
    return CORRUPTIONS if channels == 3 else tuple(name for name in CORRUPTIONS if name not in IN_COLOUR)


def require(names: Sequence[str]) -> None:
    """Raise DataError if one of the corruptions needs a package that is not installed."""
    needing = [name for name in names if name in WITH_PILLOW]
    if needing and importlib.util.find_spec("PIL") is None:
        raise DataError(f"{listed(needing)}: Pillow is not installed. Run: pip install 'kdbench[vision]'")


def corrupt(images: np.ndarray, name: str, severity: int, positions: Sequence[int] | np.ndarray) -> np.ndarray:
    """Corrupted copies of images, uint8 (N, H, W, C) with C = 1 or 3.

    severity: 1 (mild) to 5; at 0 the images are as they were. positions: (N,) of the images in their split, which name
    their random draws: an image is corrupted alike whatever others are beside it.
    Raise DataError for anything else.
    """
    _check(images, name, severity, positions)
    import numpy as np

    from kdbench.data.corrupted import MAKERS
    from kdbench.data.corrupted.draws import Draws, pixels

    out = images.copy()
    if severity == 0:
        return out
    require([name])
    for low in range(0, len(images), AT_ONCE):
        part = slice(low, low + AT_ONCE)
        draws = Draws(name, severity, [int(position) for position in positions[part]])
        out[part] = pixels(MAKERS[name](images[part].astype(np.float64) / 255, severity, draws))
    return out


def _check(images: np.ndarray, name: str, severity: int, positions: Sequence[int] | np.ndarray) -> None:
    if name not in CORRUPTIONS:
        hint = did_you_mean(name, CORRUPTIONS)
        raise DataError(f"unknown corruption '{name}'.{hint} Known: {listed(CORRUPTIONS)}.")
    if severity not in (0, *SEVERITIES):
        raise DataError(f"severity {severity} of {name}. Allowed: 0 (unchanged) to {SEVERITIES[-1]}.")
    if images.ndim != 4 or images.dtype != "uint8" or images.shape[3] not in (1, 3):
        got = f"{images.dtype} {images.shape}"
        raise DataError(f"corruptions need images, uint8 (N, H, W, C) with 1 or 3 channels, but got {got}.")
    if name not in possible(images.shape[3]):
        raise DataError(f"{name} needs images in colour, but these have one channel. Leave it out.")
    if min(images.shape[1:3]) < 8:
        raise DataError(f"corruptions need images of at least 8 x 8 pixels, but got {images.shape[1:3]}.")
    if len(positions) != len(images):
        raise DataError(f"there are {len(images)} images but {len(positions)} positions. Give one for each.")
