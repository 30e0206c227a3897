"""Sensitivity to hyper-parameters: slices of the search trials, and importance that is right, repeatable or refused."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import optuna
import pytest
from report_example import PAIR, STUDY, cost, record, resnet, trial

from kdbench.fields import Choice, Range
from kdbench.record import TrialRecord
from kdbench.report.figures import style
from kdbench.report.leaderboard import leaderboard
from kdbench.report.load import Results
from kdbench.report.sensitivity import importances, sensitivity, slices


def searched(number: int, hyper: dict[str, Any], top1: float | None, *, method: str = "kd", pair: str = PAIR,
             lr: float = 0.1, status: str = "finished") -> TrialRecord:  # fmt: skip
    result = {} if top1 is None else {"val_top1_pct": top1, **cost(20, 1.0)}
    slot = {"pair": pair, "repeat": 0, "trial": number}
    return record("search", {"name": method, **hyper}, resnet(20), slot, result, lr=lr, status=status)


def of(*records: TrialRecord, **study: Any) -> Results:
    return Results({**STUDY, **study}, tuple(sorted(records, key=lambda r: r.key)))


def kd(number: int, temperature: float, top1: float | None, weight: float = 1.0, **more: Any) -> TrialRecord:
    return searched(number, {"temperature": temperature, "lambda": weight}, top1, **more)


def many(count: int) -> list[TrialRecord]:
    rng = np.random.default_rng(3)
    pairs = [(float(np.exp(rng.uniform(0, np.log(20)))), float(rng.uniform(0.1, 10))) for _ in range(count)]
    return [kd(i, t, round(90 - 3 * abs(np.log(t / 4)) + 0.01 * w, 4), w) for i, (t, w) in enumerate(pairs)]


def test_a_slice_holds_every_finished_trial_and_where_the_others_were() -> None:
    results = of(kd(0, 4.0, 90.0), kd(1, 8.0, 91.0), kd(2, 16.0, None, status="diverged"))
    [found] = slices(results)
    assert (found.method, found.name) == ("kd", "temperature")
    assert found.values == (4.0, 8.0)
    assert found.scores == (90.0, 91.0)
    assert found.failed == (16.0,)


def test_the_range_is_the_methods_own_unless_the_study_narrows_it() -> None:
    trials = [kd(0, 4.0, 90.0), kd(1, 8.0, 91.0)]
    assert slices(of(*trials))[0].space == Range(1.0, 20.0, log=True)
    narrow = of(*trials, methods={"kd": {"temperature": {"low": 2, "high": 10, "log": False}}})
    assert slices(narrow)[0].space == Range(2.0, 10.0, log=False)
    outside = of(*trials, methods={"kd": {"temperature": {"low": 5, "high": 7}}})
    assert slices(outside)[0].space == Range(4.0, 8.0, log=True), "wide enough for what was tried"


def test_words_sizes_and_listed_values_are_choices() -> None:
    words = of(searched(0, {"layer": "stage2"}, 90.0), searched(1, {"layer": "stage1"}, 91.0))
    assert slices(words)[0].space == Choice(("stage1", "stage2"))
    listed = of(kd(0, 4.0, 90.0), kd(1, 8.0, 91.0), methods={"kd": {"temperature": [4.0, 8.0, 12.0]}})
    assert slices(listed)[0].space == Choice((4.0, 8.0))
    sizes = slices(of(trial("kd", 0, 0, 90.0, depth=8), trial("kd", 0, 1, 91.0, depth=20)))
    assert [(s.name, s.space) for s in sizes] == [("student.depth", Choice((8, 20)))]


def test_a_setting_searched_for_every_method_is_a_slice_too() -> None:
    results = of(kd(0, 4.0, 90.0, lr=0.05), kd(1, 4.0, 91.0, lr=0.2))
    [found] = slices(results)
    assert found.name == "shared.lr"
    assert found.space == Range(0.02, 0.4, log=True)


def test_the_importance_of_a_weighted_sum_is_the_square_of_its_weights() -> None:
    # y = 2 a + b with a and b uniform: the variances are 4/12 and 1/12, so the shares are 0.8 and 0.2
    rng = np.random.default_rng(0)
    trials = [{"a": float(a), "b": float(b)} for a, b in rng.uniform(size=(120, 2))]
    spaces = {"a": Range(0.0, 1.0), "b": Range(0.0, 1.0)}
    found = importances(spaces, trials, [2 * t["a"] + t["b"] for t in trials])
    assert found["a"] == pytest.approx(0.8, abs=0.06)
    assert sum(found.values()) == pytest.approx(1.0)


def test_the_seed_decides_the_forest_and_one_seed_repeats() -> None:
    trials = [s for s in slices(of(*many(12))) if s.name == "temperature"]
    values = [{"temperature": v, "lambda": 1.0 + i} for i, v in enumerate(trials[0].values)]
    spaces = {"temperature": Range(1.0, 20.0, log=True), "lambda": Range(1.0, 20.0)}
    first = importances(spaces, values, trials[0].scores, seed=1)
    assert importances(spaces, values, trials[0].scores, seed=1) == first
    assert importances(spaces, values, trials[0].scores, seed=2) != first


def test_enough_trials_have_an_importance_and_the_table_shows_it() -> None:
    results = of(*many(14))
    [exhibit] = sensitivity(results, leaderboard(results))
    assert exhibit.frame is not None
    share = dict(zip(exhibit.frame["hyper_parameter"], exhibit.frame["importance"], strict=True))
    assert share["temperature"] > 0.8 > 0.2 > share["lambda"]
    [table] = exhibit.tables.values()
    headings = [column.heading for column in table.columns]
    assert table.rows[0][headings.index("Importance %")].text == f"{100 * share['temperature']:.1f}"


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (many(9), "9 finished trials: fANOVA needs at least 10 on one pair"),
        ([kd(i, 1.0 + i, 90.0, 1.0 + i) for i in range(10)], "all trials have the same score"),
        ([kd(i, 1.0 + i, 90.0 + i) for i in range(10)], "one hyper-parameter alone was searched"),
    ],
)
def test_what_cannot_be_attributed_is_refused_with_its_reason(records: list[TrialRecord], reason: str) -> None:
    found = slices(of(*records))
    assert found
    assert all(item.importance is None and reason in str(item.reason) for item in found)


def test_trials_that_vary_nothing_are_refused() -> None:
    results = of(kd(0, 4.0, 90.0), searched(0, {"weight": 0.5}, 91.0, method="logit_mse"))
    [exhibit] = sensitivity(results, leaderboard(results))
    assert "nothing to slice" in str(exhibit.refusal)
    assert exhibit.frame is None


def test_a_study_without_a_search_has_no_exhibit() -> None:
    teacher = record("teacher", {"name": "scratch"}, resnet(56), {}, {"test_top1_pct": 93.0, "val_top1_pct": 93.0})
    assert sensitivity(of(teacher), leaderboard(of(teacher))) == []


def test_the_figure_has_a_panel_for_each_slice_and_ticks_for_failures() -> None:
    other = "resnet56 -> wrn"
    results = of(
        kd(0, 4.0, 90.0), kd(1, 8.0, 91.0), kd(2, 16.0, None, status="failed"),
        kd(0, 4.0, 70.0, pair=other), kd(1, 8.0, 73.0, pair=other),
    )  # fmt: skip
    [exhibit] = sensitivity(results, leaderboard(results))
    assert exhibit.figure is not None
    assert list(exhibit.tables) == ["resnet56 -> resnet", other]
    with style():
        [axes] = exhibit.figure().axes
    points = [tuple(line.get_ydata()) for line in axes.lines if line.get_marker() != "|" and len(line.get_ydata())]
    assert points == [(-0.5, 0.5), (-1.5, 1.5)], "of several pairs: less the mean of the pair"
    assert [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "|"] == [[16.0], []]
    assert "(1 of them)" in exhibit.notes[0]


def test_optuna_is_imported_at_the_first_use_and_its_verbosity_stays() -> None:
    code = "import sys, kdbench.report.sensitivity; assert not {'optuna', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        importances({"a": Range(0, 1), "b": Range(0, 1)}, [{"a": 0.1, "b": 0.2}, {"a": 0.3, "b": 0.9}], [1.0, 2.0])
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(optuna.logging.INFO)
