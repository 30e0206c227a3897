"""The exhibits on accuracy against cost, from records by hand: fronts, indicators, budgets, search and attainment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_example as example
from report_example import final, full_records, latency, trial, write_study

from kdbench.errors import KdbenchError
from kdbench.record import TrialRecord
from kdbench.report.exhibit import Exhibit
from kdbench.report.figures import style
from kdbench.report.fronts import Front, reported_fronts, section
from kdbench.report.leaderboard import leaderboard
from kdbench.report.load import load
from kdbench.report.replicates import replicates
from kdbench.report.tables import Table
from kdbench.report.trade_offs import trade_offs
from kdbench.study.sections import Pareto

Change = Callable[[dict[str, Any]], None]
BOX = {"reference": {"top1_pct": 80, "params": 1e6}}


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def build(records: Iterable[TrialRecord], pareto: Mapping[str, Any] | None = None, **study: Any) -> Path:
        def change(written: dict[str, Any]) -> None:
            used = {r.spec.row for r in records if r.spec.phase in ("search", "final")}
            written["methods"] = {name: {} for name in example.GAIN if name in used}
            written["final"]["seeds"] = 3
            written["pareto"] = dict(BOX if pareto is None else pareto)
            for name, value in study.items():
                written[name] |= value

        records = list(records)
        return write_study(tmp_path, records, change)

    return build


def finals(method: str, scores: Iterable[float], first_seed: int = 0, **more: Any) -> list[TrialRecord]:
    return [final(method, seed, score, **more) for seed, score in enumerate(scores, first_seed)]


def fronts(where: Path) -> list[Front]:
    results = load(where)
    return reported_fronts(results, leaderboard(results))


def exhibits(where: Path) -> dict[str, Exhibit]:
    results = load(where)
    return {exhibit.name: exhibit for exhibit in trade_offs(results, leaderboard(results))}


def texts(table: Table) -> list[list[str]]:
    return [[f"{cell.text} {cell.extra}".strip() for cell in row] for row in table.rows]


# Replicates


def test_the_seed_of_the_replicates_controls_them() -> None:
    sample = [{seed: [float(seed)] for seed in range(5)}]
    first, again, other = (replicates(sample, seed=seed) for seed in (0, 0, 1))
    assert (first.counts == again.counts).all() and (first.means == again.means).all()
    assert first.counts.sum() == other.counts.sum() == 2000
    assert first.counts.tolist() != other.counts.tolist()


def test_three_seeds_have_ten_resamples_of_known_probability() -> None:
    # 27 draws of three: each value three times is one of them, all different 3! of them
    drawn = replicates([{0: [0.0], 1: [1.0], 2: [10.0]}], 20_000)
    shares = dict(zip(drawn.means[:, 0, 0].round(6).tolist(), (drawn.counts / 20_000).tolist(), strict=True))
    assert len(shares) == 10
    assert shares[0.0] == pytest.approx(1 / 27, abs=0.005)  # three standard errors are 0.004
    assert shares[round(11 / 3, 6)] == pytest.approx(6 / 27, abs=0.01)


def test_rows_of_equal_seeds_are_resampled_together_and_others_apart() -> None:
    lower, upper = {s: [90.0 + s] for s in range(3)}, {s: [90.1 + s] for s in range(3)}
    together = replicates([lower, upper])
    assert together.share(together.means[:, 1, 0] > together.means[:, 0, 0]) == pytest.approx(1.0)
    apart = replicates([lower, {s + 10: value for s, value in upper.items()}])
    assert 0.5 < apart.share(apart.means[:, 1, 0] > apart.means[:, 0, 0]) < 0.8


def test_an_interval_is_of_the_rows_it_is_asked_for() -> None:
    drawn = replicates([{s: [5.0] for s in range(3)}, {s: [float(s)] for s in range(3)}])
    constant, varied = (drawn.interval(lambda points: float(points.sum()), [row]) for row in (0, 1))
    assert (constant.low, constant.high) == (5.0, 5.0)
    assert (varied.low, varied.high) == (0.0, 2.0)  # 1 of 27 is more than 2.5 %


# The reported front


def test_a_row_that_always_wins_is_on_the_front_in_all_replicates_and_beats_the_other(
    folder: Callable[..., Path],
) -> None:
    front = fronts(folder([*finals("kd", [92.0, 93.0, 94.0]), *finals("scratch", [91.0, 92.0, 93.0])]))[0]
    assert front.names == ("top1_pct", "params")
    assert [row.method for row in front.rows] == ["kd", "scratch"]
    assert front.flags.tolist() == [True, False]
    assert front.shares == pytest.approx([1.0, 0.0])
    assert front.dominance == pytest.approx(np.array([[0, 1], [0, 0]]))
    assert (front.rival(0), front.rival(1)) == (None, (0, pytest.approx(1.0)))


def test_a_smaller_student_is_on_the_front_whatever_its_seeds(folder: Callable[..., Path]) -> None:
    front = fronts(folder([*finals("kd", [92.0, 93.0, 94.0]), *finals("kd", [85.0, 95.0, 80.0], depth=8)]))[0]
    sure = dict(zip((row.student for row in front.rows), front.shares.tolist(), strict=True))
    assert sure["resnet8"] == pytest.approx(1.0)
    # the larger one is on it unless three draws of 95 beat its mean: 1/27 of the replicates at most
    assert 0.9 < sure["resnet20"] <= 1.0


def test_equal_rows_share_the_front_and_never_beat_each_other(folder: Callable[..., Path]) -> None:
    records = [*finals("kd", [92.1, 93.3, 94.7]), *finals("scratch", [94.7, 92.1, 93.3], first_seed=0)]
    front = fronts(folder([*records[:3], *finals("scratch", [92.1, 93.3, 94.7])]))[0]
    assert front.flags.tolist() == [True, True]
    assert front.shares == pytest.approx([1.0, 1.0])
    # the same values in another order of seeds: the same mean, though rounding would differ
    assert fronts(folder(records))[0].flags.tolist() == [True, True]


def test_rows_of_too_few_seeds_get_no_share_and_the_notes_say_so(folder: Callable[..., Path]) -> None:
    where = folder([*finals("kd", [92.0, 93.0]), *finals("scratch", [91.0, 92.0])], final={"seeds": 2})
    front = fronts(where)[0]
    assert front.flags.tolist() == [True, False]
    assert np.isnan(front.shares).all() and front.replicates is None and front.rival(1) is None
    found = exhibits(where)["fronts"]
    assert found.figure is None
    assert found.frame["share_on_front"].isna().all()
    assert any("fewer than 3 seeds get no share" in note for note in found.notes)


def test_latency_of_unlike_conditions_is_on_no_front_of_latency(folder: Callable[..., Path]) -> None:
    records = [*finals("kd", [92.0] * 3), *finals("kd", [91.0] * 3, depth=14), *finals("kd", [90.0] * 3, depth=8)]
    times = [latency(20, 1.0, 2.0), latency(14, 1.0, 1.5), latency(8, 1.0, 0.1, conditions={"threads": 8})]
    front = fronts(folder([*records, *times]))[1]
    assert front.names == ("top1_pct", "latency_b1_p50_ms")
    assert [row.student for row in front.rows] == ["resnet20", "resnet14"]
    assert front.left_out == 1
    assert front.points.tolist() == [[92.0, 2.0], [91.0, 1.5]]


def test_an_unranked_row_is_on_no_front(folder: Callable[..., Path]) -> None:
    records = [*finals("kd", [92.0] * 3), *finals("scratch", [90.0] * 3), *finals("fitnet", [99.0])]
    assert [row.method for row in fronts(folder(records))[0].rows] == ["kd", "scratch"]


def test_the_training_cost_of_older_records_is_their_wall_time_and_varies_with_the_seed(
    folder: Callable[..., Path],
) -> None:
    records = finals("kd", [92.0] * 3)
    for seconds, record in zip((100.0, 200.0, 600.0), records, strict=True):
        record.result["train_wall_s"] = seconds  # type: ignore[index]
    where = folder(records, {"fronts": [["top1_pct", "train_device_s"]]})
    front = fronts(where)[0]
    assert front.points.tolist() == [[92.0, 300.0]]
    assert front.replicates is not None and len(front.replicates.means) == 10
    records[0].result["train_device_s"] = 400.0  # type: ignore[index]
    assert fronts(folder(records, {"fronts": [["top1_pct", "train_device_s"]]}))[0].points.tolist() == [[92.0, 400.0]]


def test_a_front_of_three_objectives_is_allowed(folder: Callable[..., Path]) -> None:
    where = folder(full_records(), {"fronts": [["top1_pct", "params", "latency_b1_p50_ms"]]}, final={"seeds": 5})
    found = exhibits(where)["fronts"]
    assert found.figure is None and list(found.frame["front"].unique()) == ["top1_pct params latency_b1_p50_ms"]
    assert found.frame["objective_3"].notna().all()


def test_the_table_names_the_row_that_beats_a_row_and_how_probably(folder: Callable[..., Path]) -> None:
    found = exhibits(folder([*finals("kd", [92.0, 93.0, 94.0]), *finals("scratch", [91.0, 92.0, 93.0])]))["fronts"]
    assert texts(found.tables[example.PAIR]) == [
        ["1", "kd", "resnet20", "yes [1.00]", "–"],
        ["2", "scratch", "resnet20", "no [0.00]", "kd resnet20 (1.00)"],
    ]
    line = found.frame.iloc[1]
    assert (line["dominated_by"], line["dominated_probability"]) == (found.frame.iloc[0]["row"], pytest.approx(1.0))
    assert any("parameters: constant, without noise" in note for note in found.notes)


def test_the_front_is_drawn_with_a_panel_for_each_pair_of_objectives(folder: Callable[..., Path]) -> None:
    found = exhibits(folder(full_records(), final={"seeds": 5}))
    with style():
        assert [axes.get_xlabel() for axes in found["fronts"].figure().axes] == [  # type: ignore[misc]
            "parameters", "latency, batch 1, median (ms)"
        ]  # fmt: skip
        assert len(found["attainment"].figure().axes) == 6  # type: ignore[misc]


# Indicators


def test_the_indicators_of_a_small_table_by_hand(folder: Callable[..., Path]) -> None:
    # kd (0.4, 0.243 14) and scratch (0.45, 0.243 14): one is 0.05 worse in accuracy, of the 20 points of the box
    records = [*finals("kd", [92.0] * 3), *finals("scratch", [91.0] * 3)]
    frame = exhibits(folder(records))["indicators"].frame.set_index("method")
    cost = records[0].result["params"] / 1e6
    assert frame.loc["kd", "hypervolume"] == pytest.approx(0.6 * (1 - cost), abs=1e-9)
    assert frame.loc["scratch", "hypervolume"] == pytest.approx(0.55 * (1 - cost), abs=1e-9)
    assert frame.loc["all methods", "hypervolume"] == frame.loc["kd", "hypervolume"]
    assert frame["epsilon"].to_dict() == pytest.approx({"all methods": 0.0, "kd": 0.0, "scratch": 0.05}, abs=1e-9)
    assert frame["igd_plus"].to_dict() == pytest.approx({"all methods": 0.0, "kd": 0.0, "scratch": 0.05}, abs=1e-9)
    assert (frame["hypervolume_low"] == frame["hypervolume"]).all()


def test_a_reference_set_of_the_study_replaces_that_of_the_data(folder: Callable[..., Path]) -> None:
    records = finals("kd", [92.0] * 3)
    cost = records[0].result["params"]
    points = [{"top1_pct": 94, "params": cost}, {"top1_pct": 1, "flops": 3}]
    found = exhibits(folder(records, {**BOX, "reference_set": points}))["indicators"]
    assert found.frame["epsilon"].to_list() == pytest.approx([0.1, 0.1], abs=1e-9)
    assert any("pareto.reference_set of 2 points" in note for note in found.notes)


def test_the_ideal_of_the_study_changes_the_normalisation(folder: Callable[..., Path]) -> None:
    records = finals("kd", [92.0] * 3)
    frame = exhibits(folder(records, {**BOX, "ideal": {"top1_pct": 96}}))["indicators"].frame
    assert frame["hypervolume"][0] == pytest.approx(12 / 16 * (1 - records[0].result["params"] / 1e6), abs=1e-9)


def test_without_a_reference_the_indicators_are_refused_with_what_is_missing(folder: Callable[..., Path]) -> None:
    found = exhibits(folder(finals("kd", [92.0] * 3), {}))["indicators"]
    assert found.refusal is not None and found.frame is None
    assert "Top-1, Params: the study's pareto.reference lacks top1_pct, params" in found.refusal


def test_a_front_without_a_reference_is_named_beside_those_that_have_one(folder: Callable[..., Path]) -> None:
    found = exhibits(folder([*finals("kd", [92.0] * 3), latency(20, 1.0, 2.0)]))["indicators"]
    assert found.refusal is None and set(found.frame["front"]) == {"top1_pct params"}
    assert any("Top-1, Batch 1: the study's pareto.reference lacks latency_b1_p50_ms" in note for note in found.notes)


# Budgets and the knee


def test_the_best_row_within_a_budget_is_named_with_those_that_may_be_as_good(folder: Callable[..., Path]) -> None:
    records = [
        *finals("kd", [92.0, 93.0, 94.0], depth=8), *finals("logit_mse", [92.5, 92.5, 93.6], depth=8),
        *finals("scratch", [90.0, 91.0, 92.0], depth=8), *finals("kd", [95.0, 96.0, 97.0]),
    ]  # fmt: skip
    small = 1.01 * records[0].result["params"]
    found = exhibits(folder(records, {**BOX, "budgets": [{"params": small}, {"params": 1e6}, {"params": 10}]}))[
        "budgets"
    ]
    rows = texts(found.tables[example.PAIR])
    assert [row[1:3] for row in rows] == [["kd", "resnet8"], ["kd", "resnet20"], ["no ranked row", "–"]]
    assert rows[0][3] == "93.00 [92.00, 94.00]"
    assert rows[0][-1] == "logit_mse resnet8"
    assert rows[1][-1] == "none"
    assert found.frame["rows_within"].to_list() == [3, 4, 0]


def test_a_limit_of_latency_holds_for_rows_of_the_common_conditions_alone(folder: Callable[..., Path]) -> None:
    records = [*finals("kd", [92.0] * 3), *finals("kd", [91.0] * 3, depth=14), *finals("kd", [90.0] * 3, depth=8)]
    times = [latency(20, 1.0, 2.0), latency(14, 1.0, 1.5), latency(8, 1.0, 0.1, conditions={"threads": 8})]
    budgets = [{"latency_b1_p50_ms": 1.5}, {"latency_b1_p50_ms": 1.0}]
    rows = texts(exhibits(folder([*records, *times], {**BOX, "budgets": budgets}))["budgets"].tables[example.PAIR])
    assert [row[:3] for row in rows] == [
        ["up to 1.5 ms latency, batch 1, median", "kd", "resnet14"],
        ["up to 1 ms latency, batch 1, median", "no ranked row", "–"],
    ]


def test_too_few_seeds_leave_unknown_what_is_distinguishable(folder: Callable[..., Path]) -> None:
    records = [*finals("kd", [92.0, 93.0]), *finals("scratch", [91.0, 92.0])]
    where = folder(records, {**BOX, "budgets": [{"params": 1e6}]}, final={"seeds": 2})
    assert texts(exhibits(where)["budgets"].tables[example.PAIR])[0][-1] == "unknown of 1 row: too few seeds"


def test_the_knee_of_a_reported_front_is_named(folder: Callable[..., Path]) -> None:
    records = [*finals("kd", [80.0] * 3, depth=8), *finals("kd", [91.0] * 3, depth=14), *finals("kd", [92.0] * 3)]
    found = exhibits(folder(records))["budgets"]
    assert [row[:3] for row in texts(found.tables[example.PAIR])] == [["knee of Top-1, Params", "kd", "resnet14"]]


def test_without_budgets_and_knee_the_exhibit_is_refused(folder: Callable[..., Path]) -> None:
    refusal = exhibits(folder(finals("kd", [92.0] * 3)))["budgets"].refusal
    assert refusal is not None and "The study gives no pareto.budgets" in refusal


# The search, on validation


def test_the_search_front_is_of_validation_trials_and_apart_from_the_reported_one(folder: Callable[..., Path]) -> None:
    records = [
        *finals("kd", [99.0] * 3), trial("kd", 0, 0, 90.0), trial("kd", 0, 1, 91.0, lr=0.2),
        trial("scratch", 0, 0, 80.0, depth=8), trial("scratch", 0, 1, None, status="diverged", lr=0.2),
    ]  # fmt: skip
    found = exhibits(folder(records))["search-fronts"]
    assert found.frame[["method", "repeat", "trial", "val_top1_pct"]].to_numpy().tolist() == [
        ["scratch", 0, 0, 80.0], ["kd", 0, 1, 91.0]
    ]  # fmt: skip


def test_attainment_counts_a_repeat_in_which_nothing_finished(folder: Callable[..., Path]) -> None:
    records = [
        trial("kd", 0, 0, 90.0), trial("kd", 1, 0, 92.0), trial("kd", 2, 0, None, status="diverged"),
        trial("scratch", 0, 0, 80.0), trial("scratch", 1, 0, 82.0), trial("scratch", 2, 0, 84.0),
    ]  # fmt: skip
    found = exhibits(folder(records))["attainment"]
    reached = {(r.method, r.surface): r.val_top1_pct for r in found.frame.itertuples()}
    assert reached == {
        ("kd", "best"): 92.0, ("kd", "median"): 90.0,
        ("scratch", "best"): 84.0, ("scratch", "median"): 82.0, ("scratch", "worst"): 80.0,
    }  # fmt: skip
    cost = records[0].result["params"] / 1e6
    volumes = [f"{(score - 80) / 20 * (1 - cost):.4f}" for score in (84.0, 82.0, 80.0, 92.0, 90.0)]
    assert texts(found.tables[example.PAIR]) == [["scratch", "3", *volumes[:3]], ["kd", "3", *volumes[3:], "–"]]


@pytest.mark.parametrize(
    ("search", "reason"),
    [
        ({"repeats": 1}, "The study's search has 1 repeat; at least 2 are needed. Set search.repeats."),
        (
            {"objectives": ["val_top1_pct"]},
            "The search has one objective, val_top1_pct, so it has no front. Set search.objectives to two or three.",
        ),
    ],
)
def test_attainment_is_refused_with_the_reason(
    folder: Callable[..., Path], search: dict[str, Any], reason: str
) -> None:
    where = folder([trial("kd", 0, 0, 90.0), trial("kd", 0, 1, 91.0, lr=0.2)], search=search)
    assert exhibits(where)["attainment"].refusal == reason


# The study


def test_before_anything_is_retrained_what_is_of_the_test_split_is_refused(folder: Callable[..., Path]) -> None:
    found = exhibits(folder([trial("kd", 0, 0, 90.0)]))
    refused = {name for name, exhibit in found.items() if exhibit.refusal}
    assert refused == {"fronts", "indicators", "budgets", "attainment"}


def test_a_study_of_before_the_new_fields_has_their_defaults(folder: Callable[..., Path]) -> None:
    where = folder(finals("kd", [92.0] * 3))
    study = json.loads((where / "study.json").read_text())
    study.pop("pareto")
    (where / "study.json").write_text(json.dumps(study))
    assert section(load(where)) == Pareto()
    assert [front.names for front in fronts(where)] == [("top1_pct", "params")]


def test_a_section_written_out_reads_back_and_leaves_out_what_was_not_written() -> None:
    written = {**BOX, "fronts": [["nll", "flops", "train_device_s"]], "budgets": [{"params": 3e5}]}
    asked = Pareto.model_validate(written)
    assert asked.to_json() == written
    assert Pareto.model_validate(BOX).to_json() == BOX


@pytest.mark.parametrize(
    ("pareto", "message"),
    [
        ({"fronts": [["top1_pct", "speed"]]}, "'speed' has no better direction"),
        ({"fronts": [["val_top1_pct", "top1_pct"]]}, "never mixed"),
        ({"reference": {"params": "many"}}, r"study.json: pareto.reference.params: .* Run the study again"),
        ({"frontiers": []}, r"study.json: pareto.frontiers"),
    ],
)
def test_a_study_that_was_edited_by_hand_is_refused_with_the_place(
    folder: Callable[..., Path], pareto: dict[str, Any], message: str
) -> None:
    with pytest.raises(KdbenchError, match=message):
        exhibits(folder(finals("kd", [92.0] * 3), pareto))
