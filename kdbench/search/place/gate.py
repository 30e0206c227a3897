"""Where workers say that they are up: a module of its own, for the actor's process imports it, and needs no torch."""

from __future__ import annotations

from collections.abc import Hashable


class Gate:
    """Counts the workers that are up."""

    def __init__(self) -> None:
        self.up: set[Hashable] = set()

    def arrive(self, worker: Hashable) -> int:
        """Note that a worker is up; returns how many have been."""
        self.up.add(worker)
        return len(self.up)
