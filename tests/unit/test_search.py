"""Proposals, selection and the budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from test_record import RECORD, SPEC

from kdbench.fields import Choice, Range
from kdbench.record import TrialRecord
from kdbench.search.budget import Budget
from kdbench.search.propose import Past, propose
from kdbench.search.select import select

SPACE = {"temperature": Range(1, 20, log=True), "student.depth": Choice((8, 14, 20))}
DEFAULT = {"temperature": 4.0, "student.depth": 8}


def ask(past: Sequence[Past], space: dict[str, Any] = SPACE, **options: Any) -> dict[str, Any]:
    settings = {"number": len(past), "directions": ["max", "min"], "sampler": "tpe", "startup": 2, "seed": 3, **options}
    default = {name: DEFAULT.get(name, 1.0) for name in space}
    return propose(space, default, past, **settings)


def finished(count: int, **options: Any) -> list[Past]:
    past: list[Past] = []
    for number in range(count):
        values = (50.0 + number, 100.0 * number)
        past.append(Past(ask(past, **options), "complete", values))
    return past


def test_trial_0_is_the_published_default() -> None:
    assert ask([]) == DEFAULT


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_a_random_draw_is_the_same_whether_it_is_told_of_the_past_or_not(sampler: str) -> None:
    past = finished(4, sampler=sampler, startup=6)
    assert ask(past, sampler=sampler, startup=6) == ask([], number=4, sampler=sampler, startup=6)


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_the_same_past_gives_the_same_proposal(sampler: str) -> None:
    past = finished(6)
    assert ask(past, sampler=sampler) == ask(past, sampler=sampler)


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_proposals_lie_in_the_space_and_differ(sampler: str) -> None:
    past = finished(7, sampler=sampler)
    temperatures = [trial.params["temperature"] for trial in past]
    assert all(1 <= value <= 20 for value in temperatures)
    assert len(set(temperatures)) >= 4  # a Gaussian process may well propose the ends of a range twice
    assert {trial.params["student.depth"] for trial in past} <= {8, 14, 20}


@pytest.mark.parametrize("startup", [2, 9])
def test_adding_a_hyper_parameter_does_not_shift_the_draws_of_the_others(startup: int) -> None:
    wider = {"lambda": Range(0.1, 10, log=True), **SPACE}
    narrow = finished(5, startup=startup)
    wide = [
        Past({**trial.params, "lambda": 0.5 + number}, "complete", trial.values) for number, trial in enumerate(narrow)
    ]
    both = ask(narrow, startup=startup), ask(wide, space=wider, startup=startup)
    assert both[0] == {name: both[1][name] for name in SPACE}


def test_another_seed_draws_other_values() -> None:
    assert ask(finished(1)) != ask(finished(1), seed=4)


def test_tpe_learns_from_what_it_is_told() -> None:
    space = {"x": Range(0.0, 1.0)}
    past: list[Past] = []
    for _ in range(25):
        params = ask(past, space=space, directions=["max"], startup=5)
        past.append(Past(params, "complete", (-abs(params["x"] - 0.8),)))
    late = [abs(trial.params["x"] - 0.8) for trial in past[15:]]
    assert sum(late) / len(late) < 0.34 / 2  # a random search expects (0.8^2 + 0.2^2) / 2 = 0.34


def test_failed_and_running_trials_are_no_obstacle() -> None:
    past = finished(3)
    past += [Past(ask(past), "fail")]
    past += [Past(ask(past), "running")]
    assert 1 <= ask(past)["temperature"] <= 20


def trial(number: int, accuracy: float, params: float, *, status: Any = "finished", **slot: Any) -> TrialRecord:
    spec = dataclasses.replace(
        SPEC, slot={**SPEC.slot, "trial": number, **slot}, model={"name": "cnn", "params": params}
    )
    return dataclasses.replace(RECORD, spec=spec, status=status, result={"val_top1_pct": accuracy, "params": params})


def chosen(records: Sequence[TrialRecord], rule: str) -> list[int]:
    return [spec.slot["trial"] for spec in select(records, rule, ["val_top1_pct", "params"])]


def test_best_takes_the_best_validation_result_and_breaks_ties_by_size_then_by_order() -> None:
    records = [trial(0, 90, 10), trial(1, 92, 30), trial(2, 92, 20), trial(3, 92, 20), trial(4, 99, 1, status="failed")]
    assert chosen(records, "best") == [2]
    assert chosen(records[::-1], "best") == [2]


def test_best_per_size_takes_one_of_each_student() -> None:
    assert sorted(chosen([trial(0, 90, 10), trial(1, 91, 10), trial(2, 95, 20)], "best_per_size")) == [1, 2]


def test_pareto_takes_what_nothing_beats() -> None:
    records = [trial(0, 90, 10), trial(1, 89, 12), trial(2, 95, 20), trial(3, 95, 20), trial(4, 80, 5)]
    assert sorted(chosen(records, "pareto")) == [0, 2, 4]


def test_every_pair_is_selected_for_itself() -> None:
    assert len(chosen([trial(0, 90, 10), trial(1, 91, 10, pair="other")], "best")) == 2


def test_selection_on_the_test_split_is_refused() -> None:
    with pytest.raises(ValueError, match="must not see the test split"):
        select([trial(0, 90, 10)], "best", ["test_top1_pct"])


def test_a_budget_allows_what_fits_into_the_time_that_is_left() -> None:
    now = [0.0]
    budget = Budget(100, workers=2, clock=lambda: now[0])
    assert budget.allows(1000)  # nothing is known yet
    budget.note(dataclasses.replace(RECORD, wall_s=10.0))
    assert budget.allows(18) and not budget.allows(20)
    now[0] = 95.0
    assert not budget.allows(1)


def test_without_a_budget_all_is_allowed() -> None:
    budget = Budget(None)
    budget.note(RECORD)
    assert budget.allows(10**9)
