"""The importance of hyper-parameters of thousands of trials is computed of some of them, and says so."""

from __future__ import annotations

import numpy as np
import pytest

from kdbench.fields import Range
from kdbench.report import sensitivity
from kdbench.report.sensitivity_figure import Slice

SPACES = {"a": Range(0.0, 1.0), "b": Range(0.0, 1.0)}


@pytest.mark.parametrize(("count", "used"), [(sensitivity.MOST, sensitivity.MOST), (400, sensitivity.MOST), (20, 20)])
def test_at_most_so_many_trials_are_used(monkeypatch: pytest.MonkeyPatch, count: int, used: int) -> None:
    seen: list[tuple[int, set[float]]] = []

    def importances(spaces: object, trials: list[dict[str, float]], scores: list[float]) -> dict[str, float]:
        assert [trial["a"] for trial in trials] == scores  # each trial keeps its own score
        seen.append((len(trials), set(scores)))
        return {"a": 1.0, "b": 0.0}

    monkeypatch.setattr(sensitivity, "importances", importances)
    values = np.random.default_rng(1).random(count).tolist()
    trials = [{"a": value, "b": 0.5} for value in values]
    for _ in range(2):
        assert sensitivity._importances(SPACES, trials, values) == ({"a": 1.0, "b": 0.0}, None)
    assert seen[0] == seen[1] and seen[0][0] == used and len(seen[0][1]) == used  # the same ones, none of them twice


@pytest.mark.parametrize(("count", "said"), [(sensitivity.MOST, False), (sensitivity.MOST + 1, True)])
def test_the_note_says_that_trials_were_drawn_by_lot_only_where_they_were(count: int, said: bool) -> None:
    item = Slice("p", "kd", "a", SPACES["a"], (0.5,) * count, (50.0,) * count, (), 0.5, None)
    assert ("drawn by lot" in "".join(sensitivity._notes([item], "val_top1_pct"))) is said
