"""Elastic distortion, and what storing an image does to it."""

from __future__ import annotations

import io

import numpy as np
from scipy import ndimage

from kdbench.data.corrupted.draws import Draws, Images, pixels


def elastic(x: Images, severity: int, draws: Draws) -> Images:
    """Move three points of the image, and with them all others; then move every pixel a little by a smooth field."""
    strength, sigma, affine = (
        (0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03),
    )[severity - 1]  # fmt: skip
    height, width = x.shape[1:3]
    side = min(height, width)
    middle, reach = np.array([width // 2, height // 2]), side // 3
    before = middle + reach * np.array([[1, 1], [1, -1], [-1, -1]])  # (3, 2), each x and y
    after = before + draws.uniform(-affine * side, affine * side, (3, 2))
    moved = sampled(x, *_sources(before, after, height, width), "mirror")
    if strength == 0:
        return moved
    shifts = draws.uniform(-1, 1, (2, height, width))
    along = (0, 0, sigma * side, sigma * side)
    shifts = ndimage.gaussian_filter(shifts, along, mode="reflect", truncate=3.0) * (strength * side)
    rows, columns = np.mgrid[:height, :width]
    return sampled(moved, rows + shifts[:, 1], columns + shifts[:, 0], "reflect")


def _sources(before: np.ndarray, after: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of each image come from, rows and columns (N, H, W), if `before` (3, 2) goes to `after`."""
    ones = np.ones((len(after), 3, 1))
    back = np.linalg.solve(np.concatenate([after, ones], axis=2), np.broadcast_to(before, after.shape))  # (N, 3, 2)
    rows, columns = np.mgrid[:height, :width]
    sources = np.stack([columns, rows, np.ones_like(rows)], axis=2) @ back[:, None]
    return sources[..., 1], sources[..., 0]


def sampled(x: Images, rows: np.ndarray, columns: np.ndarray, mode: str) -> Images:
    """Images at other places, (N, H, W) each, interpolated linearly; mode: how scipy continues them at the edges."""
    out = np.empty_like(x)
    for number, image in enumerate(x):
        for channel in range(x.shape[3]):
            places = np.stack([rows[number], columns[number]])
            ndimage.map_coordinates(image[..., channel], places, out[number, ..., channel], order=1, mode=mode)
    return out


def pixelate(x: Images, severity: int, draws: Draws) -> Images:
    """Shrink and enlarge again."""
    from PIL import Image

    share, (height, width) = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1], x.shape[1:3]
    small = (int(width * share), int(height * share))
    box = Image.Resampling.BOX
    made = [_picture(image).resize(small, box).resize((width, height), box) for image in pixels(x)]
    return np.stack([np.asarray(image) for image in made]).reshape(x.shape) / 255


def jpeg(x: Images, severity: int, draws: Draws) -> Images:
    """Store as JPEG and read again."""
    from PIL import Image

    quality, made = (80, 65, 58, 50, 40)[severity - 1], []
    for image in pixels(x):
        file = io.BytesIO()
        _picture(image).save(file, "JPEG", quality=quality)
        made.append(np.asarray(Image.open(file)))
    return np.stack(made).reshape(x.shape) / 255


def _picture(image: np.ndarray):  # type: ignore[no-untyped-def]  # Pillow is not needed to check the types
    """A picture of Pillow's, grey for one channel."""
    from PIL import Image

    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
