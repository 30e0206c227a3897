"""Drops of water or mud on the lens. The steps are OpenCV's, on all images at once, with scipy."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from kdbench.data.corrupted.blur import smoothed
from kdbench.data.corrupted.draws import Draws, Images, pixels

WATER, MUD = (175 / 255, 238 / 255, 238 / 255), (63 / 255, 42 / 255, 20 / 255)
RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])  # light from one corner
FARTHEST = 20  # pixels, beyond which a drop is flat
WEAK, STRONG = 50, 150  # of an edge's gradient: kept where it hangs on a strong one; kept in any case

SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
WITHIN_IMAGE = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))]).astype(bool)


def spatter(x: Images, severity: int, draws: Draws) -> Images:
    """Drops of water up to severity 3, of mud from 4 on, where smooth noise is high."""
    mean, spread, sigma, threshold, strength, mud = (
        (0.62, 0.1, 0.7, 0.7, 0.5, False), (0.65, 0.1, 0.8, 0.7, 0.5, False), (0.65, 0.3, 1.0, 0.69, 0.5, False),
        (0.65, 0.1, 0.7, 0.69, 0.6, True), (0.65, 0.1, 0.5, 0.68, 0.6, True),
    )[severity - 1]  # fmt: skip
    liquid = smoothed(mean + spread * draws.normal(x.shape[1:3]), sigma)
    liquid[liquid < threshold] = 0
    if mud:
        cover = smoothed((liquid > threshold).astype(np.float64), strength)[..., None]
        cover[cover < 0.8] = 0
        return np.asarray(x * (1 - cover) + cover * np.array(MUD))
    drops = pixels(liquid)
    shine = (drops * relief_of(drops))[..., None]
    most = shine.max(axis=(1, 2, 3), keepdims=True)
    return np.asarray(x + strength * shine / np.where(most > 0, most, 1) * np.array(WATER))


def relief_of(drops: np.ndarray) -> Images:
    """How brightly each place of the drops shines, (N, H, W): by its distance to an edge, lit from one corner."""
    flat = ~edges(drops)
    apart = np.concatenate([flat, np.zeros_like(flat[:1])])  # something to be far from, for images without an edge
    away = ndimage.distance_transform_edt(apart, sampling=(1e6, 1, 1))[:-1]  # so far apart, each image is for itself
    mean = rounded(ndimage.uniform_filter(np.minimum(away, FARTHEST), (1, 3, 3), mode="mirror"), down=True)
    lit = ndimage.correlate(equalised(mean).astype(np.int64), RELIEF[None], mode="mirror")
    mean = ndimage.uniform_filter(np.clip(lit, 0, 255).astype(np.float64), (1, 3, 3), mode="mirror")
    return rounded(mean, down=False).astype(np.float64)


def rounded(values: Images, *, down: bool) -> np.ndarray:
    """Numbers as uint8: rounded down, or to the nearest."""
    return np.asarray(np.floor(values + (1e-6 if down else 0.5)).astype(np.uint8))


def edges(drops: np.ndarray) -> np.ndarray:
    """Canny's edges of uint8 images (N, H, W), bool: ridges of the gradient, the weak ones if a strong one is near."""
    values = drops.astype(np.int64)
    across = ndimage.correlate(values, SOBEL[None], mode="nearest")
    down = ndimage.correlate(values, SOBEL.T[None], mode="nearest")
    strength = np.abs(across) + np.abs(down)
    ridge = (strength > WEAK) & _is_ridge(strength, across, down)
    parts, _ = ndimage.label(ridge, structure=WITHIN_IMAGE)
    return np.asarray(ridge & np.isin(parts, np.unique(parts[ridge & (strength > STRONG)])))


def _is_ridge(strength: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Whether a place is stronger than the one before it along its gradient, and not weaker than the one after it.

    The direction is rounded to one of four, as OpenCV does: flat below 22.5 degrees, steep above 67.5.
    """
    height, width = strength.shape[1:]
    padded = np.pad(strength, ((0, 0), (1, 1), (1, 1)))

    def beside(rows: int, columns: int) -> np.ndarray:
        return padded[:, 1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

    tangent = np.abs(down) / np.maximum(np.abs(across), 1e-9)
    flat, steep = tangent < np.tan(np.pi / 8), tangent > np.tan(3 * np.pi / 8)
    rising = (across < 0) != (down < 0)
    along_row = (strength > beside(0, -1)) & (strength >= beside(0, 1))
    along_column = (strength > beside(-1, 0)) & (strength >= beside(1, 0))
    falling_line = (strength > beside(-1, -1)) & (strength > beside(1, 1))
    rising_line = (strength > beside(-1, 1)) & (strength > beside(1, -1))
    diagonal = np.where(rising, rising_line, falling_line)
    return np.asarray(np.where(flat, along_row, np.where(steep, along_column, diagonal)))


def equalised(images: np.ndarray) -> np.ndarray:
    """Images uint8 (N, H, W) with an even histogram each, as OpenCV's equalizeHist."""
    n, size = len(images), images[0].size
    flat = images.reshape(n, size).astype(np.int64)
    counts = np.bincount((flat + 256 * np.arange(n)[:, None]).ravel(), minlength=256 * n).reshape(n, 256)
    lowest = flat.min(axis=1)
    below = counts.cumsum(axis=1) - counts[np.arange(n), lowest][:, None]
    above = size - counts[np.arange(n), lowest]
    levels = np.floor(np.clip(below, 0, None) * 255 / np.maximum(above, 1)[:, None] + 0.5)
    levels[above == 0] = np.arange(256)  # one level alone stays as it is
    return np.take_along_axis(levels, flat, axis=1).astype(np.uint8).reshape(images.shape)
