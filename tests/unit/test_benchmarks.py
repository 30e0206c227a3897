"""The benchmarks' own arithmetic: medians, ratios, verdicts, what a sweep measures, equivalence, made-up records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.weightstats import ttost_paired

from kdbench.errors import KdbenchError
from kdbench.search.agenda import Agenda
from kdbench.status import study_of
from kdbench.store import Store

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import accuracy
import measuring
import orchestration
import sweep
import sweep_page
import sweep_plan
import synthetic

QUIET = measuring.Machine(looks=[0.01, 0.05], loads=[0.1, 0.2])
BUSY = measuring.Machine(looks=[0.01, 1.5], loads=[0.1, 2.0])


def test_a_verdict_is_given_only_where_every_look_was_quiet() -> None:
    assert QUIET.verdict("met") == "met"
    assert BUSY.verdict("met").startswith("no verdict: load 0.10 before, 2.00 after")
    assert measuring.Machine().verdict("met") == "no verdict: load not looked at"


def test_a_machine_that_does_not_tell_is_not_taken_for_quiet() -> None:
    assert measuring.Machine(looks=[float("nan")], loads=[0.0]).busy


def test_sides_are_measured_in_turns_and_the_warm_up_is_dropped() -> None:
    called: list[str] = []
    sides = {name: lambda name=name: called.append(name) or float(len(called)) for name in ("a", "b")}
    found = measuring.interleaved(sides, rounds=2)
    assert "".join(called) == "ba" + "ab" + "ba"
    assert found == {"a": [3.0, 6.0], "b": [4.0, 5.0]}


def test_a_ratio_is_of_medians_and_its_range_of_rounds() -> None:
    spread = measuring.ratios([4.0, 6.0, 9.0], [2.0, 2.0, 1.0])
    assert (spread.median, spread.low, spread.high, spread.n) == (3.0, 2.0, 9.0, 3)
    assert spread.text(1) == "3.0 (2.0 to 9.0)"


def test_a_ratio_of_unequal_rounds_and_a_crooked_table_are_refused() -> None:
    with pytest.raises(KdbenchError, match="2 and 1 rounds"):
        measuring.ratios([1.0, 2.0], [1.0])
    with pytest.raises(KdbenchError, match="no measurements"):
        measuring.Spread.of([])
    with pytest.raises(KdbenchError, match="3 cells under a header of 2"):
        measuring.table(["a", "b"], [[1, 2, 3]])


def test_paths_of_this_machine_are_left_out_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/me/benchmarks/sweep.py", "--work", "/home/me/work", "--rounds", "3"])
    assert measuring.command_line() == "python benchmarks/sweep.py --work work --rounds 3"


def test_a_sweep_measures_every_side_and_leaves_out_what_a_rival_cannot_do() -> None:
    pair = "resnet20-resnet8"
    cells = sweep_plan.plan([pair], [(1.0, 2)], [1, 4, 16], sweep_plan.RIVALS, rivals_up_to=4, rounds=1)
    sides = {
        (c.column, c.trials): [d.side for d in cells if (d.column, d.trials) == (c.column, c.trials)] for c in cells
    }
    assert sides == {
        ("kd", 1): ["kdbench", "field", "cheap", "torchdistill"],
        ("kd", 4): ["kdbench", "field", "cheap", "torchdistill"],
        ("kd", 16): ["kdbench", "kdbench-mlflow"],
        ("mixed", 4): ["kdbench", "field", "cheap"],
        ("mixed", 16): ["kdbench"],
    }
    assert len(set(cells)) == len(cells)


def test_the_second_round_runs_the_sides_in_the_opposite_order() -> None:
    cells = sweep_plan.plan(["resnet20-resnet8"], [(1.0, 2)], [1, 2], ["field"], rivals_up_to=1, rounds=2)
    alone = [(cell.side, cell.round) for cell in cells if cell.trials == 1]
    assert alone == [("kdbench", 0), ("field", 0), ("field", 1), ("kdbench", 1)]


def test_the_learning_rate_falls_where_150_180_and_210_of_240_epochs_are() -> None:
    assert sweep_plan.milestones(240) == (150, 180, 210)
    assert sweep_plan.milestones(2) == (1,)


def test_rates_at_more_trials_than_were_measured_are_marked_and_only_for_rivals() -> None:
    facts: dict[str, Any] = {"pair": "p", "images": 9, "epochs": 2, "column": "kd", "round": 0}
    found = [
        {**facts, "side": side, "trials": 4, "wall_s": 36.0, "trial_s": [18.0] * 4} for side in ("field", "kdbench")
    ]
    cell = sweep_plan.Cell("p", 9, 2, "kd", "field", 16, 0)
    rate = sweep_page.rate(found, cell, up_to=4)
    assert rate is not None
    assert (rate[0].median, rate[1]) == (400.0, True)  # 4 trials in 36 s
    assert sweep_page.rate(found, sweep_plan.Cell("p", 9, 2, "kd", "kdbench", 16, 0), up_to=4) is None


@pytest.mark.parametrize("text", ["2", "0x4", "1x1", "axb"])
def test_a_setting_that_cannot_be_trained_is_refused(text: str) -> None:
    with pytest.raises(KdbenchError, match="--settings"):
        sweep.setting(text)


def test_equivalence_is_that_of_statsmodels() -> None:
    fast, plain = np.array([70.1, 70.4, 69.8, 70.3, 70.0]), np.array([70.0, 70.3, 70.0, 70.1, 70.1])
    found = accuracy.equivalence((fast - plain).tolist())
    expected, _, _ = ttost_paired(fast, plain, -0.3, 0.3)
    assert found.p == pytest.approx(float(expected))
    assert found.passed and found.n == 5


def test_a_shift_beyond_the_margin_and_a_wide_spread_are_not_equivalent() -> None:
    assert not accuracy.equivalence([0.5, 0.45, 0.55, 0.5]).passed
    assert not accuracy.equivalence([1.5, -1.5, 1.4, -1.4]).passed
    assert "equivalence not shown" in accuracy.equivalence([1.5, -1.5, 1.4, -1.4]).text()


def test_equal_paths_are_equivalent_and_one_seed_is_no_test() -> None:
    assert accuracy.equivalence([0.0, 0.0]).passed
    with pytest.raises(KdbenchError, match="at least 2"):
        accuracy.equivalence([0.1])


def test_nothing_is_concluded_from_students_that_guess() -> None:
    assert accuracy.answer([10.0, 12.0], [0.0, 0.0], classes=10).startswith("no verdict: no student")
    assert accuracy.answer([70.0, 71.0], [0.01, 0.0], classes=10).startswith("equivalent within 0.3 points: n = 2")
    assert accuracy.answer([70.0], [0.0], classes=10) == "no test: fewer than two paired seeds"


def test_the_overhead_of_a_trial_leaves_out_what_a_run_pays_once() -> None:
    # 2 workers, 20 s for a start: 4 trials of 10 s take 20 + 2 * 10.5 s, 12 take 20 + 6 * 10.5 s
    assert orchestration.overhead((4, 41.0), (12, 83.0), workers=2, seconds=10.0) == pytest.approx(0.5)


def test_made_up_records_are_read_without_a_complaint_and_belong_to_their_study(tmp_path: Path) -> None:
    _, count = synthetic.write(tmp_path, 150, epochs=3)
    store = Store(tmp_path / "results" / "synthetic")
    records, messages = store.read_all()
    assert (len(records), messages) == (count, [])
    agenda = Agenda(study_of(store.folder), records, lambda key: True)
    assert agenda.search_over() and not agenda.finished  # a seed of the finals is left to be done
    assert len(agenda.own_search()) == sum(record.spec.phase == "search" for record in records.values())
