"""The further measurements of the retrained students that a study asks for, as they follow from its records."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

from kdbench.record import TrialRecord, TrialSpec
from kdbench.study.plan import evaluation_settings, evaluation_spec
from kdbench.study.schema import Study


class Evaluations:
    """One evaluation for each final training that has finished; none where the study asks for none."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.settings = evaluation_settings(study)
        self._specs: dict[str, TrialSpec] = {}

    def of(self, finals: Iterable[TrialSpec], records: Mapping[str, TrialRecord]) -> list[TrialSpec]:
        """The evaluations of those of the finals that have finished, in their order."""
        if self.settings is None:
            return []
        finished = [s for s in finals if s.key in records and records[s.key].status == "finished"]
        for final in finished:
            if final.key not in self._specs:
                self._specs[final.key] = evaluation_spec(self.study, final, self.settings)
        return [self._specs[final.key] for final in finished]

    def left(self, finals: list[TrialSpec], records: Mapping[str, TrialRecord]) -> int:
        """How many are to be done, if every final that has no record yet finishes."""
        if self.settings is None:
            return 0
        coming = sum(final.key not in records for final in finals)
        return coming + sum(spec.key not in records for spec in self.of(finals, records))


def seed_by_seed(evaluations: Iterable[TrialSpec]) -> Iterator[list[TrialSpec]]:
    """Evaluations of finals that are in the order of their seeds, those of each seed together."""
    for _, group in itertools.groupby(evaluations, key=lambda spec: int(spec.slot["final"])):
        yield list(group)
