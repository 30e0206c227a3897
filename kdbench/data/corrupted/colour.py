"""Changes of brightness, contrast and saturation; hue stays, so the colour model HSV comes down to scaling channels."""

from __future__ import annotations

import numpy as np

from kdbench.data.corrupted.draws import Draws, Images


def brightness(x: Images, severity: int, draws: Draws) -> Images:
    """Raise the value of HSV: all channels grow by the factor by which the largest does; black becomes grey."""
    more = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    value = x.max(axis=3, keepdims=True)
    raised = np.clip(value + more, 0, 1)
    return np.asarray(np.where(value > 0, x * (raised / np.where(value > 0, value, 1)), raised))


def contrast(x: Images, severity: int, draws: Draws) -> Images:
    """Draw every channel towards its mean over the image."""
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    means = x.mean(axis=(1, 2), keepdims=True)
    return np.asarray((x - means) * factor + means)


def saturate(x: Images, severity: int, draws: Draws) -> Images:
    """Scale and raise the saturation of HSV: the distances of the channels to the largest grow with it.

    Grey pixels have the hue of red, so a raised saturation makes them reddish.
    """
    scale, more = ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))[severity - 1]
    value = x.max(axis=3, keepdims=True)
    gap = value - x.min(axis=3, keepdims=True)
    before = gap / np.where(value > 0, value, 1)
    after = np.clip(before * scale + more, 0, 1)
    tinted = value - (value - x) * (after / np.where(before > 0, before, 1))
    red = value * np.concatenate([np.ones_like(after), 1 - after, 1 - after], axis=3)
    return np.asarray(np.where(before > 0, tinted, red))
