"""Snow and fog."""

from __future__ import annotations

import numpy as np

from kdbench.data.corrupted.blur import enlarged, smeared
from kdbench.data.corrupted.draws import Draws, Images, pixels

LUMINANCE = (0.299, 0.587, 0.114)
ROUGHNESS = 100.0  # of the coarsest step of a plasma fractal


def snow(x: Images, severity: int, draws: Draws) -> Images:
    """Whiten the image, and add flakes that fall at an angle; a second layer of them is the first turned by 180."""
    mean, spread, factor, threshold, radius, sigma, kept = (
        (0.1, 0.2, 1.0, 0.6, 8, 3, 0.95), (0.1, 0.2, 1.0, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]  # fmt: skip
    flakes = enlarged(mean + spread * draws.normal((*x.shape[1:3], 1)), factor)
    flakes[flakes < threshold] = 0
    layer = smeared(pixels(flakes) / 255, radius, sigma, draws.uniform(-135, -45))
    grey = x @ np.array(LUMINANCE)[:, None] if x.shape[3] == 3 else x
    white = kept * x + (1 - kept) * np.maximum(x, grey * 1.5 + 0.5)
    return white + layer + layer[:, ::-1, ::-1]


def fog(x: Images, severity: int, draws: Draws) -> Images:
    """Add a plasma fractal, and scale back to the brightest pixel that the image had."""
    thickness, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[severity - 1]
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    height, width = x.shape[1:3]
    side = 1 << (max(height, width) - 1).bit_length()
    haze = plasma(side, decay, draws)[:, :height, :width, None]
    return np.asarray((x + thickness * haze) * brightest / (brightest + thickness))


def plasma(side: int, decay: float, draws: Draws) -> Images:
    """Plasma fractals in [0, 1], (N, side, side), by the diamond-square algorithm; side: a power of two.

    Points halfway between known ones become the mean of their four neighbours, across the edges, and noise, whose
    spread falls by the square of `decay` from one step to the next finer one.
    """
    steps = side.bit_length() - 1
    noise = draws.uniform(-1, 1, (sum(3 * 4**step for step in range(steps)),))
    field, used, rough, stride = np.zeros((len(noise), side, side)), 0, ROUGHNESS, side

    def disturbed(total: np.ndarray) -> np.ndarray:
        nonlocal used
        count = total[0].size
        used += count
        return total / 4 + rough**2 * noise[:, used - count : used].reshape(total.shape)

    while stride >= 2:
        half = stride // 2
        corners = field[:, ::stride, ::stride]
        pairs = corners + np.roll(corners, -1, 1)
        field[:, half::stride, half::stride] = disturbed(pairs + np.roll(pairs, -1, 2))
        centres, corners = field[:, half::stride, half::stride], field[:, ::stride, ::stride]
        above = centres + np.roll(centres, 1, 1)
        field[:, ::stride, half::stride] = disturbed(above + corners + np.roll(corners, -1, 2))
        beside = centres + np.roll(centres, 1, 2)
        field[:, half::stride, ::stride] = disturbed(beside + corners + np.roll(corners, -1, 1))
        stride, rough = half, rough / decay
    field -= field.min(axis=(1, 2), keepdims=True)
    return np.asarray(field / field.max(axis=(1, 2), keepdims=True))
