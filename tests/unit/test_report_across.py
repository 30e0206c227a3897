"""The statistics of a report: of rows over seeds and of methods over pairs, on made-up studies of several pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_example import full_records, record, resnet, write_study
from scipy import stats as scipy_stats

from kdbench.record import TrialRecord
from kdbench.report import figures, frames, ranks, stats
from kdbench.report.across import statistics_exhibits
from kdbench.report.aggregate import aggregates
from kdbench.report.exhibit import Exhibit
from kdbench.report.leaderboard import leaderboard
from kdbench.report.load import load
from kdbench.report.rank_figure import rank_figure

Scores = Mapping[str, Mapping[str, Sequence[float | None]]]  # pair -> method -> accuracy by seed; None for a failure


def records_of(scores: Scores, seeds: Sequence[int] = range(100)) -> list[TrialRecord]:
    """One search trial of each method and pair, and its retrainings."""
    out = []
    for pair, methods in scores.items():
        for method, values in methods.items():
            chosen = record("search", {"name": method}, resnet(20), {"pair": pair, "repeat": 0, "trial": 0},
                            {"val_top1_pct": 90.0, "params": 1000})  # fmt: skip
            out.append(chosen)
            for seed, value in zip(seeds, values, strict=False):
                slot = {"pair": pair, "final": seed, "chosen": chosen.key}
                done: dict[str, Any] = {"status": "diverged"} if value is None else {}
                result = {} if value is None else {"test_top1_pct": value, "params": 1000}
                out.append(record("final", {"name": method}, resnet(20), slot, result, seed=1000 + seed, **done))
    return out


def shown(folder: Path, scores: Scores | list[TrialRecord]) -> dict[str, Exhibit]:
    """The exhibits by name of a study with these records."""
    records = records_of(scores) if isinstance(scores, Mapping) else scores

    def change(study: dict[str, Any]) -> None:
        study["search"] |= {"trials": 1, "repeats": 1}
        study["methods"] = {m: {} for m in dict.fromkeys(r.spec.method_name for r in records)}
        study["final"]["seeds"] = 3

    results = load(write_study(folder, records, change if isinstance(scores, Mapping) else None))
    return {exhibit.name: exhibit for exhibit in statistics_exhibits(results, leaderboard(results))}


def cells(exhibit: Exhibit, table: str = "") -> dict[str, dict[str, str]]:
    """Method -> heading -> text of one table."""
    found = exhibit.tables[table]
    headings = [column.heading for column in found.columns]
    texts = [[f"{cell.text} {cell.extra}".strip() for cell in row] for row in found.rows]
    return {row[headings.index("Method")]: dict(zip(headings, row, strict=True)) for row in texts}


def made_up(pairs: int, methods: Sequence[str], seeds: int = 3, step: float = 1.0) -> dict[str, dict[str, list[float]]]:
    """Pairs of rising difficulty in which every method is `step` better than the one before it, with some noise."""
    rng = np.random.default_rng(0)
    return {
        f"resnet56 -> student{i:02d}": {
            method: [round(90.0 - i + step * j + rng.normal(0, 0.2), 2) for _ in range(seeds)]
            for j, method in enumerate(methods)
        }
        for i in range(pairs)
    }


METHODS = ("scratch", "kd", "fitnet", "logit_mse")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many there are is tested with the statistics themselves."""
    monkeypatch.setattr(stats, "RESAMPLES", 1999)


def test_a_row_has_mean_median_iqm_and_deviation_of_its_seeds(tmp_path: Path) -> None:
    values = {"scratch": [80.0, 81.0, 82.0, 83.0, 94.0], "kd": [82.0, 82.0, 85.0, 85.0, 94.0]}
    found = shown(tmp_path, {"a -> b": values})["statistics"]
    line = found.frame.set_index("method").loc["scratch"]
    # mean 420 / 5; the IQM cuts one at each end: (81 + 82 + 83) / 3; squares 16, 9, 4, 1, 100 over 4
    assert (line["n"], line["test_top1_pct_mean"], line["test_top1_pct_median"]) == (5, 84.0, 82.0)
    assert line["test_top1_pct_iqm"] == 82.0
    assert line["test_top1_pct_standard_deviation"] == pytest.approx(32.5**0.5)
    assert 80 <= line["test_top1_pct_iqm_low"] < 82 < line["test_top1_pct_iqm_high"] <= 94
    gain = found.frame.set_index("method").loc["kd"]
    assert (gain["gain_over_scratch_pct"], gain["gain_over_scratch_pct_paired"]) == (1.6, True)
    # of 25 pairs of seeds kd wins 2 + 2 + 4 + 4 + 4 and ties 82 = 82 twice and 94 = 94 once: 17.5 / 25
    assert gain["better_than_scratch_probability"] == pytest.approx(17.5 / 25)
    assert cells(found, "a -> b")["scratch"]["SD %"] == "5.70"


def test_failures_are_counted_and_no_part_of_a_number(tmp_path: Path) -> None:
    found = shown(tmp_path, {"a -> b": {"kd": [90.0, None, 92.0], "scratch": [90.0, 90.0, 90.0]}})["statistics"]
    line = found.frame.set_index("method").loc["kd"]
    assert (line["n"], line["test_top1_pct_mean"], line["final_diverged"]) == (2, 91.0, 1)
    assert line["no_interval_because"] == "n = 2: an interval needs at least 3 seeds"
    text = cells(found, "a -> b")["kd"]
    assert text["Failures"] == "final 1 diverged"
    assert (text["Mean % [95 %]"], text["P(> scratch)"]) == ("91.00", "–")  # two seeds have no interval


def test_every_row_of_the_leaderboard_has_its_statistics_under_its_name(tmp_path: Path) -> None:
    results = load(write_study(tmp_path, full_records()))
    board = leaderboard(results)
    frame = statistics_exhibits(results, board)[0].frame
    assert list(frame["row"]) == [row.id for row in board.rows]
    assert list(frame["test_top1_pct_mean"].dropna()) == [row.score for row in board.rows if row.scores]


def test_one_pair_has_no_aggregate_and_its_seeds_are_no_blocks(tmp_path: Path) -> None:
    found = shown(tmp_path, made_up(1, METHODS, seeds=10))
    assert list(found) == ["statistics", "ranks"]
    assert found["ranks"].refusal == (
        "Friedman's test needs at least 5 pairs or data sets, and seeds do not count as such; there is 1."
    )
    assert found["ranks"].frame is None and found["ranks"].figure is None and not found["ranks"].tables


def test_a_study_without_any_retraining_has_no_statistics(tmp_path: Path) -> None:
    searched = [item for item in records_of(made_up(2, METHODS)) if item.spec.phase == "search"]
    assert shown(tmp_path, searched) == {}


def test_a_method_over_two_pairs_has_the_mean_of_their_means_and_gains_within_them(tmp_path: Path) -> None:
    scores = {
        "a -> b": {"scratch": [70.0, 71.0, 72.0], "kd": [72.0, 73.0, 74.0]},
        "a -> c": {"scratch": [90.0, 90.0, 90.0], "kd": [90.0, 90.0, 93.0]},
    }
    found = shown(tmp_path, scores)["aggregate"]
    line = found.frame.set_index("method").loc["kd"]
    assert (line["rank"], line["pairs"], line["seeds"]) == (1, 2, 6)
    assert line["test_top1_pct_mean"] == 82.0  # (73 + 91) / 2
    assert line["test_top1_pct_iqm"] == pytest.approx((73 + 74 + 90 + 90) / 4)
    assert line["gain_over_scratch_pct"] == 1.5  # (2 + 1) / 2
    # on b kd wins 8 of 9 and ties one, on c it wins 3 and ties 6: (8.5 / 9 + 6 / 9) / 2
    assert line["better_than_scratch_probability"] == pytest.approx((8.5 + 6) / 18)
    assert line["better_than_scratch_probability_low"] < 14.5 / 18 < line["better_than_scratch_probability_high"]
    # on b every gain is 2; on c its mean is that of three draws of (0, 0, 3), between 0 and 3 at 2.5 and 97.5 %
    assert (line["gain_over_scratch_pct_low"], line["gain_over_scratch_pct_high"]) == (1.0, 2.5)
    assert cells(found)["kd"]["Pairs"] == "2/2"
    assert any("replication is the training seed within a pair" in note for note in found.notes)


def test_a_method_that_misses_a_pair_is_shown_marked_and_not_ranked(tmp_path: Path) -> None:
    scores = made_up(2, METHODS)
    scores["resnet56 -> student01"]["logit_mse"] = [None, None, None]  # type: ignore[list-item]
    found = shown(tmp_path, scores)["aggregate"]
    assert found.tables[""].kinds == ("student", "student", "student", "unranked")
    line = found.frame.set_index("method").loc["logit_mse"]
    assert pd.isna(line["rank"]) and line["pairs"] == 1
    assert line["not_ranked_because"] == "resnet56 -> student01: no seed finished"
    assert line["final_diverged"] == 3
    assert cells(found)["logit_mse"]["Pairs"] == "1/2"
    assert "Not ranked over pairs: logit_mse: no ranked row on resnet56 -> student01 (no seed finished)." in found.notes


def test_a_pair_that_nothing_was_retrained_on_is_left_out_and_named(tmp_path: Path) -> None:
    records = records_of(made_up(3, METHODS))
    waiting = "resnet56 -> student02"
    kept = [r for r in records if r.spec.slot["pair"] != waiting or r.spec.phase == "search"]
    results = load(write_study(tmp_path, kept, lambda study: study["search"].update(trials=1, repeats=1)))
    exhibits = {e.name: e for e in statistics_exhibits(results, leaderboard(results))}
    assert f"Pairs without any ranked row are left out: {waiting}." in exhibits["aggregate"].notes
    assert set(exhibits["aggregate"].frame["pairs_of_study"]) == {2}


def test_of_several_sizes_the_one_that_validation_prefers_stands_for_the_method(tmp_path: Path) -> None:
    records = []
    for pair in ("a -> b", "a -> c"):
        for depth, val, test in (
            (8, 91.0, 80.0),
            (20, 90.0, 95.0),
        ):  # the better on test was not the better on validation
            chosen = record("search", {"name": "kd"}, resnet(depth), {"pair": pair, "repeat": 0, "trial": depth},
                            {"val_top1_pct": val, "params": 1000})  # fmt: skip
            records.append(chosen)
            for seed in range(3):
                slot = {"pair": pair, "final": seed, "chosen": chosen.key}
                result = {"test_top1_pct": test, "params": 1000}
                records.append(record("final", {"name": "kd"}, resnet(depth), slot, result, seed=seed))

    def change(study: dict[str, Any]) -> None:
        study["search"] |= {"trials": 2, "repeats": 1}
        study["methods"], study["final"]["seeds"] = {"kd": {}}, 3

    results = load(write_study(tmp_path, records, change))
    entries = aggregates(results, leaderboard(results))
    assert [(entry.method, entry.mean, entry.rank) for entry in entries] == [("kd", 80.0, 1)]


def test_seeds_that_are_not_shared_make_the_difference_unpaired(tmp_path: Path) -> None:
    scores = made_up(2, ("scratch", "kd"))
    scratch = {pair: {"scratch": methods["scratch"]} for pair, methods in scores.items()}
    kd = {pair: {"kd": methods["kd"]} for pair, methods in scores.items()}
    apart = records_of(scratch) + records_of(kd, seeds=range(50, 60))

    def change(study: dict[str, Any]) -> None:
        study["search"] |= {"trials": 1, "repeats": 1}
        study["methods"], study["final"]["seeds"] = {"scratch": {}, "kd": {}}, 3

    results = load(write_study(tmp_path, apart, change))
    aggregate = next(e for e in statistics_exhibits(results, leaderboard(results)) if e.name == "aggregate")
    assert not aggregate.frame.set_index("method").loc["kd", "gain_over_scratch_pct_paired"]
    assert "‡" in cells(aggregate)["kd"]["Δ scratch"]


def test_six_pairs_of_four_methods_are_ranked_and_tested(tmp_path: Path) -> None:
    scores = made_up(6, METHODS)
    found = shown(tmp_path, scores)["ranks"]
    frame = found.frame
    assert list(frame["method"]) == ["logit_mse", "fitnet", "kd", "scratch"]
    assert list(frame["mean_rank"]) == [1.0, 2.0, 3.0, 4.0]
    table = [[np.mean(methods[method]) for methods in scores.values()] for method in METHODS]
    theirs = scipy_stats.friedmanchisquare(*table)
    assert frame["friedman_chi_square"].unique() == pytest.approx([theirs.statistic])
    assert frame["friedman_chi_square_p"].unique() == pytest.approx([theirs.pvalue])
    # 2^-5 = 1/32 for each of three comparisons to kd; Holm makes 3/32 of them
    line = frame.set_index("method").loc["scratch"]
    assert line["wilcoxon_kd_p"] is None  # 3/32 > 5 %: out of reach, so not computed
    assert any(note.startswith("No p against kd: with 6 pairs or data sets") for note in found.notes)
    assert any("the unit of replication is the pair, never the seed" in note.lower() for note in found.notes)


def test_with_eight_pairs_comparisons_to_a_baseline_are_within_reach(tmp_path: Path) -> None:
    found = shown(tmp_path, made_up(8, METHODS))
    line = found["ranks"].frame.set_index("method").loc["logit_mse"]
    assert (line["better_than_scratch_pairs"], line["wilcoxon_scratch_p"]) == (8, 2**-7)
    assert line["wilcoxon_scratch_p_holm"] == 3 * 2**-7
    assert cells(found["ranks"])["logit_mse"]["p scratch (Holm)"] == "0.023"
    # six comparisons of every two methods: 6 / 128 = 4.7 % is within reach too
    pairwise = found["rank-comparisons"]
    assert pairwise.refusal is None and len(pairwise.frame) == 6
    assert pairwise.frame["p_holm"].to_list() == [6 * 2**-7] * 6
    first = pairwise.tables[""].rows[0]
    assert [cell.text for cell in first[:3]] == ["logit_mse", "fitnet", "8/8"]  # the better one first


def test_comparisons_that_cannot_become_significant_are_refused_with_the_sum(tmp_path: Path) -> None:
    found = shown(tmp_path, made_up(6, METHODS))["rank-comparisons"]
    assert found.refusal == (
        "Not computed: with 6 pairs or data sets the smallest p of Wilcoxon's signed-rank test is 2^(1 - 6) = 0.031, "
        "and Holm's correction for 6 comparisons makes that 0.19: nothing can be significant at 5 %."
    )
    assert found.frame is None and not found.tables


def test_methods_that_do_not_differ_are_joined_and_the_notes_say_so(tmp_path: Path) -> None:
    scores = made_up(6, METHODS, step=0.0)
    found = shown(tmp_path, scores)["ranks"]
    assert found.frame["friedman_f_p"].iloc[0] > 0.05
    assert any("no difference between methods is shown" in note for note in found.notes)


def test_a_method_without_a_pair_is_left_out_of_the_ranks(tmp_path: Path) -> None:
    scores = made_up(6, METHODS)
    del scores["resnet56 -> student00"]["fitnet"]
    found = shown(tmp_path, scores)["ranks"]
    assert list(found.frame["method"]) == ["logit_mse", "kd", "scratch"]
    scores["resnet56 -> student00"].pop("kd")
    refused = shown(tmp_path / "two", scores)["ranks"]
    assert refused.refusal == (
        "Friedman's test compares at least 3 methods; 2 can be compared here. 2 methods without a ranked row on every "
        "pair left out."
    )


def test_methods_that_score_alike_everywhere_are_not_ranked(tmp_path: Path) -> None:
    alike = {f"a -> {i}": {method: [10.0, 10.0, 10.0] for method in METHODS} for i in range(6)}
    refusal = shown(tmp_path, alike)["ranks"].refusal
    assert refusal == "All methods score alike on every pair or data set, so there is nothing to rank."


def test_the_same_records_give_the_same_frames_and_the_same_picture(tmp_path: Path) -> None:
    scores = made_up(6, METHODS)
    first, again = shown(tmp_path / "first", scores), shown(tmp_path / "again", scores)
    for name, exhibit in first.items():
        assert exhibit.notes == again[name].notes and exhibit.tables == again[name].tables
        if exhibit.frame is not None:
            assert frames.csv(exhibit.frame) == frames.csv(again[name].frame)
    with figures.style():
        pictures = [figures.svg(found["ranks"].figure()) for found in (first, again)]
    assert pictures[0] == pictures[1]


def test_forty_methods_on_twelve_pairs_fit_the_diagram(tmp_path: Path) -> None:
    methods = [f"method{i:02d}" for i in range(38)] + ["scratch", "kd"]
    scores = np.random.default_rng(0).normal(size=(12, 40)) + np.arange(40) / 4
    means = ranks.mean_ranks(scores)
    distance = ranks.critical_difference(40, 12)
    with figures.style():
        figure = rank_figure(
            methods, means.tolist(), distance, ranks.cliques(means, distance), figures.method_styles(methods), "caption"
        )
        figure.draw_without_rendering()
        names = [text for text in figure.axes[0].texts if text.get_text() in methods]
        boxes = [text.get_window_extent() for text in names]
    assert len(boxes) == 40
    page = figure.bbox
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_every_exhibit_says_what_n_counts_and_is_frozen(tmp_path: Path) -> None:
    for exhibit in shown(tmp_path, made_up(8, METHODS)).values():
        assert any("unit of replication" in note for note in exhibit.notes), exhibit.name
        with pytest.raises(dataclasses.FrozenInstanceError):
            exhibit.name = "other"  # type: ignore[misc]
