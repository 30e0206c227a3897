"""Blurs: out of focus, through frosted glass, in motion, and towards the camera."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from kdbench.data.corrupted.draws import Draws, Images, pixels


def smoothed(x: Images, sigma: float) -> Images:
    """Gaussian filter of each channel as scikit-image's: cut off at four sigma, edges continued. x: (N, H, W, ...)."""
    along = (0, sigma, sigma) + (0,) * (x.ndim - 3)
    return ndimage.gaussian_filter(x, along, mode="nearest", truncate=4.0)  # type: ignore[no-any-return]


def gaussian(x: Images, severity: int, draws: Draws) -> Images:
    """Gaussian filter."""
    return smoothed(x, (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1])


def defocus(x: Images, severity: int, draws: Draws) -> Images:
    """Average over a disc that is itself slightly blurred; at the edges images are mirrored."""
    radius, sigma = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[severity - 1]
    kernel = disc(radius, sigma)
    return ndimage.correlate(x, kernel[None, :, :, None], mode="mirror")  # type: ignore[no-any-return]


def disc(radius: float, sigma: float) -> np.ndarray:
    """A disc with sum 1 after a Gaussian filter of 3 x 3 pixels, (5, 5): up to radius 1.5 nothing lies further out."""
    across = np.arange(-2, 3)
    inside = (across[:, None] ** 2 + across**2 <= radius**2).astype(np.float64)
    weights = np.exp(-(np.arange(-1, 2) ** 2) / (2 * sigma**2))
    line = weights / weights.sum()
    return np.asarray(ndimage.correlate(inside / inside.sum(), np.outer(line, line), mode="constant"))


def glass(x: Images, severity: int, draws: Draws) -> Images:
    """Blur, put in the place of each pixel one of its neighbours above or to the left, and blur again.

    The original means to exchange the two pixels; but there the second assignment reads the pixel that the first has
    just overwritten, so the neighbour stays as it is. The published images were made that way, and so are these.
    """
    sigma, rounds = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity - 1]
    shuffled = pixels(smoothed(x, sigma))
    height, width = x.shape[1:3]
    steps = draws.integers(-1, 1, (rounds, height - 2, width - 2, 2))
    every = np.arange(len(x))
    for turn in range(rounds):
        for i, row in enumerate(range(height - 1, 1, -1)):
            for j, column in enumerate(range(width - 1, 1, -1)):
                right, down = steps[:, turn, i, j, 0], steps[:, turn, i, j, 1]
                shuffled[:, row, column] = shuffled[every, row + down, column + right]
    return smoothed(shuffled / 255, sigma)


def motion(x: Images, severity: int, draws: Draws) -> Images:
    """Smear to one side, at an angle of up to 45 degrees to the horizontal."""
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[severity - 1]
    return smeared(x, radius, sigma, draws.uniform(-45, 45))


def smeared(x: Images, radius: int, sigma: float, degrees: np.ndarray) -> Images:
    """ImageMagick's MotionBlurImage: the weighted mean of the pixels on a line, by half a Gaussian, edges continued.

    degrees: (N,). The line has 2 radius + 1 pixels, and the result the 255 steps of a file.
    """
    length = np.arange(2 * radius + 1)
    weights = np.exp(-(length**2) / (2 * sigma**2))
    weights /= weights.sum()
    angle = np.deg2rad(degrees)[:, None]
    across = np.ceil(length * np.cos(angle) - 0.5).astype(np.int64)  # (N, length)
    down = np.ceil(length * np.sin(angle) - 0.5).astype(np.int64)
    reach, (height, width) = int(length[-1]), x.shape[1:3]
    wide = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    out = np.zeros_like(x)
    for image, source, rows, columns in zip(out, wide, reach + down, reach + across, strict=True):
        for weight, row, column in zip(weights, rows, columns, strict=True):
            image += weight * source[row : row + height, column : column + width]
    return np.floor(out * 255 + 0.5) / 255


def zoom(x: Images, severity: int, draws: Draws) -> Images:
    """The mean of the image and of itself enlarged, in steps of a hundredth."""
    most = (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1]
    factors = np.arange(1, most, 0.01)
    total = x + sum(enlarged(x, factor) for factor in factors)
    return total / (len(factors) + 1)


def enlarged(x: Images, factor: float) -> Images:
    """The middle of each image, enlarged to its size. x: (N, H, W, C)."""
    down, across = (enlarging(side, factor) for side in x.shape[1:3])
    return np.einsum("ih,nhwc,jw->nijc", down, x, across, optimize=True)  # type: ignore[no-any-return]


def enlarging(side: int, factor: float) -> np.ndarray:
    """What scipy's zoom does to a line of pixels as a matrix (side, side): linear, so it is the zoom of each unit."""
    kept = int(np.ceil(side / factor))
    first = (side - kept) // 2
    matrix = ndimage.zoom(np.eye(kept), (factor, 1), order=1)
    cut = (len(matrix) - side) // 2
    whole = np.zeros((side, side))
    whole[:, first : first + kept] = matrix[cut : cut + side]
    return whole
