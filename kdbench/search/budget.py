"""Stop starting new trainings in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

from kdbench.record import TrialRecord


class Budget:
    """A wall-clock limit for a run, counted from its creation. None: no limit.

    Expected durations are means over the finished search and final trainings of the study, of earlier runs too
    (`past`). Before there is one, nothing is known and a first round is allowed.
    """

    def __init__(
        self,
        seconds: float | None,
        workers: int = 1,
        clock: Callable[[], float] = time.monotonic,
        past: Iterable[TrialRecord] = (),
    ) -> None:
        self.seconds = seconds
        self.workers = workers
        self._clock = clock
        self._began = clock()
        self._walls: list[float] = []
        for record in past:
            self.note(record)

    def note(self, record: TrialRecord) -> None:
        """Learn from how long a training took."""
        if record.spec.phase in ("search", "final") and record.status == "finished":
            self._walls.append(record.wall_s)

    @property
    def left_s(self) -> float:
        """Seconds that are left; infinite without a limit."""
        return math.inf if self.seconds is None else self.seconds - (self._clock() - self._began)

    def expected_s(self, trainings: int) -> float:
        """How long that many trainings would take on all workers; 0 while nothing is known."""
        if not self._walls:
            return 0.0
        return sum(self._walls) / len(self._walls) * math.ceil(trainings / self.workers)

    def allows(self, trainings: int) -> bool:
        """Whether there is time for that many more trainings."""
        return self.left_s > self.expected_s(trainings) and self.left_s > 0
