"""Random numbers that belong to one image each, and the step from numbers to pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kdbench.seeds import seed_for

Images = NDArray[np.float64]


class Draws:
    """A generator for each image, seeded by corruption, severity and the image's position in its split."""

    def __init__(self, name: str, severity: int, positions: Sequence[int]) -> None:
        self.name, self.severity, self.positions = name, severity, positions

    @cached_property
    def generators(self) -> list[np.random.Generator]:
        """One for each image, in order; what is drawn from one does not depend on the others."""
        seeds = (seed_for(0, "corruption", self.name, self.severity, position) for position in self.positions)
        return [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]

    def stacked(self, draw: Callable[[np.random.Generator], np.ndarray]) -> Images:
        """What `draw` takes from each generator, (N, ...)."""
        return np.stack([draw(generator) for generator in self.generators])

    def normal(self, shape: tuple[int, ...]) -> Images:
        """Standard normal numbers, (N, *shape)."""
        return self.stacked(lambda generator: generator.standard_normal(shape))

    def uniform(self, low: float, high: float, shape: tuple[int, ...] = ()) -> Images:
        """Uniform numbers from low to high, (N, *shape)."""
        return self.stacked(lambda generator: np.asarray(generator.uniform(low, high, shape)))

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Whole numbers from low to high - 1, (N, *shape)."""
        return np.stack([generator.integers(low, high, shape) for generator in self.generators])


Maker = Callable[[Images, int, Draws], Images]


def pixels(values: Images) -> NDArray[np.uint8]:
    """Pixels 0 to 255 of values in [0, 1], which are cut off outside of it.

    Rounded down, as the original does; but what is short of a whole value by rounding alone becomes that value, which
    would otherwise depend on the machine.
    """
    return np.floor(np.clip(values, 0, 1) * 255 + 1e-6).astype(np.uint8)
