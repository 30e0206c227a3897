"""What a reproduction's verdict means: the prediction interval, and every way in which a row can be judged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from kdbench.errors import KdbenchError
from kdbench.report.reproduction import (
    Reproduction,
    SeedResult,
    Surroundings,
    comparable,
    judged,
    prediction_interval,
    read_reproduction,
)

RECORDED = [90.0, 91.0, 92.0]


def result(then: float | None, now: float | None, *, equal: bool = False, status: str = "finished") -> SeedResult:
    return SeedResult(
        seed=1, key="0" * 16, recorded_top1_pct=then, reproduced_top1_pct=now, equal=equal,
        recorded_status="finished" if then is not None else "diverged", reproduced_status=status,
    )  # fmt: skip


def test_the_prediction_interval_is_the_one_of_the_formula() -> None:
    # mean 91, s = 1, n = 3, t(0.975; 2) = 4.302653 (any table of Student's t): 4.302653 * sqrt(1/3 + 1/m)
    one, three = prediction_interval(RECORDED, 1), prediction_interval(RECORDED, 3)
    assert one is not None and three is not None
    assert (one.low, one.high) == pytest.approx((91 - 4.968276, 91 + 4.968276), abs=1e-5)
    assert (three.low, three.high) == pytest.approx((91 - 3.513101, 91 + 3.513101), abs=1e-5)
    assert (one.kind, three.kind) == (
        "prediction of the mean of 1 new training",
        "prediction of the mean of 3 new trainings",
    )
    assert (one.n, one.m, one.level) == (3, 1, 0.95)


def test_the_prediction_interval_holds_the_mean_of_new_values_in_95_of_100_cases() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(1000):
        old, new = rng.normal(90, 2, 4), rng.normal(90, 2, 2).mean()
        interval = prediction_interval(list(old), 2)
        assert interval is not None
        held += interval.low <= new <= interval.high
    # four standard errors of a share of 0.95 in 1000 cases
    assert abs(held / 1000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 1000)


def test_the_interval_of_the_mean_would_be_too_narrow_for_a_new_training() -> None:
    ours = prediction_interval(RECORDED, 1)
    mean_of = stats.t.interval(0.95, 2, loc=91, scale=1 / math.sqrt(3))
    assert ours is not None
    assert ours.high - ours.low == pytest.approx(2 * (mean_of[1] - mean_of[0]))  # sqrt(1 + 1/3) / sqrt(1/3) = 2


def test_there_is_no_interval_after_one_training_and_a_point_after_equal_ones() -> None:
    assert prediction_interval([90.0], 1) is None
    point = prediction_interval([90.1, 90.1, 90.1], 1)
    assert point is not None
    assert (point.low, point.high) == (90.1, 90.1)
    for scores, m in (([90.0, math.nan], 1), ([90.0, 91.0], 0)):
        with pytest.raises(ValueError, match="a prediction needs finite scores and m >= 1"):
            prediction_interval(scores, m)


def test_equal_trainings_are_bit_equal_whatever_their_number() -> None:
    verdict, _, interval = judged([90.0], [result(90.0, 90.0, equal=True)])
    assert (verdict, interval) == ("bit-equal", None)
    verdict, _, _ = judged([], [result(None, None, equal=True, status="diverged")])
    assert verdict == "bit-equal"


@pytest.mark.parametrize(
    ("now", "verdict"), [(95.96, "inside"), (95.98, "outside"), (86.04, "inside"), (86.02, "outside")]
)
def test_a_new_mean_is_inside_or_outside_by_the_ends_of_the_interval(now: float, verdict: str) -> None:
    found, reason, interval = judged(RECORDED, [result(90.0, now)])  # [86.0317, 95.9683]
    assert found == verdict
    assert f"{now:.4f} %, recorded 91.0000 %" in reason
    assert interval is not None


def test_the_mean_counts_and_not_each_training() -> None:
    assert judged(RECORDED, [result(90.0, 85.0), result(91.0, 97.0)])[0] == "inside"


def test_a_training_that_ends_otherwise_is_outside() -> None:
    verdict, reason, _ = judged(RECORDED, [result(90.0, None, status="diverged"), result(91.0, 91.0)])
    assert verdict == "outside"
    assert reason == "1 of 2 trainings that had finished ended otherwise: diverged"


def test_what_allows_no_interval_is_undecided_with_the_reason() -> None:
    verdict, reason, interval = judged([90.0], [result(90.0, 90.5)])
    assert (verdict, interval) == ("undecided", None)
    assert "n = 1: an interval needs at least 2 finished trainings in the row" in reason
    verdict, reason, _ = judged([90.0, 90.0, 90.0], [result(90.0, 90.5)])
    assert verdict == "undecided"
    assert "one accuracy, which says nothing of their spread" in reason
    assert judged([90.1, 90.1, 90.1], [result(90.1, 90.1), result(90.1, 90.1)])[0] == "inside"
    assert judged([], [result(None, 80.0)])[0] == "undecided"


def test_times_are_no_part_of_a_comparison() -> None:
    assert comparable({"test_nll": 1.0, "train_wall_s": 2.0, "train_device_s": 3.0}) == {"test_nll": 1.0}


def reproduction() -> Reproduction:
    return Reproduction(
        row="0" * 8, study="digits", protocol=1, seeds=(result(90.0, 90.5),), verdict="inside", reason="near enough",
        interval=prediction_interval(RECORDED, 1), record_sha256={"0" * 16: "f" * 64},
        environment=Surroundings(recorded={"device": "a"}, reproduced={"device": "b"}, differs={"device": ("a", "b")}),
    )  # fmt: skip


def test_a_reproduction_reads_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "reproduction.json").write_text(json.dumps(reproduction().to_json()))
    assert read_reproduction(tmp_path / "reproduction.json") == reproduction()
    assert reproduction().to_json()["schema"] == 1


def test_a_file_that_is_no_reproduction_is_refused_by_field(tmp_path: Path) -> None:
    path = tmp_path / "reproduction.json"
    path.write_text(json.dumps({**reproduction().to_json(), "verdict": "perfect", "colour": "red"}))
    with pytest.raises(KdbenchError, match="not a reproduction of schema 1") as error:
        read_reproduction(path)
    assert "verdict: Input should be 'bit-equal'" in str(error.value)
    assert "colour: Extra inputs are not permitted" in str(error.value)
    with pytest.raises(KdbenchError, match="No such file"):
        read_reproduction(tmp_path / "nowhere.json")
