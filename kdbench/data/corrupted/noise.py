"""Noise that is drawn for each pixel and channel."""

from __future__ import annotations

import numpy as np

from kdbench.data.corrupted.draws import Draws, Images


def gaussian(x: Images, severity: int, draws: Draws) -> Images:
    """Add normal noise of equal spread everywhere."""
    spread = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return x + spread * draws.normal(x.shape[1:])


def shot(x: Images, severity: int, draws: Draws) -> Images:
    """Count photons: Poisson noise, with so many photons at full brightness."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    rates = iter(x * photons)
    return draws.stacked(lambda generator: generator.poisson(next(rates))) / photons


def impulse(x: Images, severity: int, draws: Draws) -> Images:
    """Salt and pepper: a share of all values becomes 0 or 1, either as likely."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    which = draws.uniform(0, 1, (2, *x.shape[1:]))
    return np.where(which[:, 0] <= share, (which[:, 1] <= 0.5).astype(np.float64), x)


def speckle(x: Images, severity: int, draws: Draws) -> Images:
    """Add normal noise in proportion to the brightness."""
    spread = (0.06, 0.1, 0.12, 0.16, 0.2)[severity - 1]
    return x + x * spread * draws.normal(x.shape[1:])
