"""The rows of the table: means, differences, ranks, fronts, latency, fairness and failures, from records by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_example as example
from report_example import final, latency, measured, record, resnet, trial, write_study

from kdbench.errors import RecordError
from kdbench.record import TrialRecord
from kdbench.report.leaderboard import Leaderboard, Row, leaderboard
from kdbench.report.load import load

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def board(tmp_path: Path) -> Callable[..., Leaderboard]:
    def build(records: Iterable[TrialRecord], change: Change | None = None) -> Leaderboard:
        return leaderboard(load(write_study(tmp_path, records, change)))

    return build


def finals(method: str, scores: Iterable[float | None], first_seed: int = 0, **more: Any) -> list[TrialRecord]:
    out = []
    for seed, score in enumerate(scores, first_seed):
        status = {} if score is not None else {"status": "diverged"}
        out.append(final(method, seed, score, **status, **more))
    return out


def row(board: Leaderboard, method: str, student: str = "resnet20") -> Row:
    found = [r for r in board.rows if r.method == method and r.student == student]
    assert len(found) == 1, [(r.method, r.student) for r in board.rows]
    return found[0]


def equal_search(methods: Iterable[str], trials: int = 9) -> list[TrialRecord]:
    return [trial(method, i // 3, i % 3, 90.0, lr=0.02 + i / 100) for method in methods for i in range(trials)]


def only(*methods: str, seeds: int = 3) -> Change:
    def change(study: dict[str, Any]) -> None:
        study["methods"] = {name: {} for name in methods}
        study["final"]["seeds"] = seeds

    return change


def test_a_row_has_the_mean_over_seeds_and_at_three_its_range(board: Callable[..., Leaderboard]) -> None:
    kd = row(board(finals("kd", [91.0, 92.0, 94.5]), only("kd")), "kd")
    assert kd.score == pytest.approx(92.5)
    assert (kd.interval.low, kd.interval.high) == (91.0, 94.5)
    assert kd.scores == {0: 91.0, 1: 92.0, 2: 94.5}
    assert kd.settings == "ce_weight=0.1, lambda=0.9, temperature=4, lr=0.1"


def test_differences_are_paired_where_seeds_are_shared(board: Callable[..., Leaderboard]) -> None:
    records = finals("scratch", [90.0, 91.0, 92.0]) + finals("kd", [91.0, 93.0, 95.0])
    gain = row(board(records, only("scratch", "kd")), "kd").differences["scratch"]
    assert (gain.mean, gain.interval.low, gain.interval.high, gain.paired) == (2.0, 1.0, 3.0, True)


def test_differences_are_unpaired_and_flagged_where_seeds_are_not_shared(board: Callable[..., Leaderboard]) -> None:
    records = finals("scratch", [90.0, 91.0, 92.0], first_seed=10) + finals("kd", [91.0, 93.0, 95.0])
    gain = row(board(records, only("scratch", "kd")), "kd").differences["scratch"]
    assert gain.mean == 2.0
    assert not gain.paired


def test_a_baseline_of_another_size_is_no_baseline(board: Callable[..., Leaderboard]) -> None:
    records = finals("scratch", [90.0, 91.0, 92.0], depth=8) + finals("kd", [91.0, 93.0, 95.0])
    kd = row(board(records, only("scratch", "kd")), "kd")
    assert "scratch" not in kd.differences
    assert "kd" not in kd.differences, "a method is not compared with itself"


def test_of_two_baselines_of_a_size_the_one_chosen_on_validation_counts(board: Callable[..., Leaderboard]) -> None:
    good, lucky = trial("scratch", 0, 0, 91.0, lr=0.1), trial("scratch", 0, 1, 89.0, lr=0.2)
    records = [good, lucky, *finals("kd", [93.0, 93.0, 93.0])]
    records += finals("scratch", [90.0, 90.0, 90.0], lr=0.1, chosen=good.key)
    records += finals("scratch", [92.0, 92.0, 92.0], lr=0.2, chosen=lucky.key)
    kd = row(board(records, only("scratch", "kd")), "kd")
    assert kd.differences["scratch"].mean == 3.0


def test_a_diverged_seed_is_counted_and_not_part_of_the_mean(board: Callable[..., Leaderboard]) -> None:
    kd = row(board(finals("kd", [91.0, None, 92.0]), only("kd")), "kd")
    assert kd.score == 91.5
    assert (kd.runs, len(kd.scores), kd.failures["final_diverged"]) == (3, 2, 1)
    assert kd.rank == 1


def test_a_configuration_whose_seeds_all_failed_stays_in_the_table_unranked(board: Callable[..., Leaderboard]) -> None:
    records = finals("scratch", [90.0, 91.0, 92.0]) + finals("kd", [None, None, None])
    kd = row(board(records, only("scratch", "kd")), "kd")
    assert kd.rank is None
    assert kd.unranked == ("no seed finished",)
    assert kd.failures["final_diverged"] == 3


def test_a_method_that_was_not_retrained_stays_in_the_table_with_its_trials(board: Callable[..., Leaderboard]) -> None:
    records = [*finals("scratch", [90.0] * 3), trial("kd", 0, 0, 91.0), trial("kd", 0, 1, None, status="lost")]
    table = board(records, only("scratch", "kd", "fitnet"))
    assert [(r.kind, r.method, r.unranked) for r in table.rows[1:]] == [
        ("missing", "kd", ("not retrained yet (search 2 of 9 trials)",)),
        ("missing", "fitnet", ("nothing has run yet",)),
    ]
    assert table.rows[1].failures["search_lost"] == 1


def test_the_same_seed_twice_is_one_unit(board: Callable[..., Leaderboard]) -> None:
    twice = [
        record("final", {"name": "kd"}, resnet(20), {"pair": example.PAIR, "final": i, "chosen": f"{i:016x}"},
               {"test_top1_pct": 91.0, "params": 1000}, seed=7)
        for i in range(3)
    ]  # fmt: skip
    kd = row(board(twice, only("kd")), "kd")
    assert (kd.scores, kd.runs) == ({7: 91.0}, 1)
    assert kd.interval.low is None


def test_rows_are_sorted_by_mean_and_equal_means_share_a_rank(board: Callable[..., Leaderboard]) -> None:
    records = finals("scratch", [90.0] * 3) + finals("kd", [92.0] * 3) + finals("logit_mse", [92.0] * 3)
    table = board(records, only("scratch", "kd", "logit_mse"))
    assert [(r.method, r.rank) for r in table.rows] == [("kd", 1), ("logit_mse", 1), ("scratch", 3)]


def test_a_finished_final_without_its_accuracy_is_an_error_that_names_the_record(
    board: Callable[..., Leaderboard],
) -> None:
    broken = final("kd", 0, None)
    with pytest.raises(RecordError, match=rf"{broken.key}\.json: finished in phase final, but without test_top1_pct"):
        board([broken])


def test_the_teacher_has_a_row_without_a_rank_and_is_not_on_the_front(board: Callable[..., Leaderboard]) -> None:
    teacher = record("teacher", {"name": "scratch"}, resnet(56), {}, measured(99.0, np.random.default_rng(0), 8, 0.5))
    other = record("teacher", {"name": "scratch"}, resnet(110), {}, measured(98.0, np.random.default_rng(0), 8, 0.5))
    table = board([teacher, other, *finals("kd", [91.0, 92.0, 93.0], teacher=teacher.key)], only("kd"))
    assert [(r.kind, r.student, r.rank, r.fronts) for r in table.rows] == [
        ("teacher", "resnet56", None, ()), ("student", "resnet20", 1, ("params",))
    ]  # fmt: skip


def test_the_front_is_over_test_means_of_ranked_rows(board: Callable[..., Leaderboard]) -> None:
    records = finals("scratch", [90.0] * 3, depth=8) + finals("kd", [92.0] * 3) + finals("logit_mse", [91.0] * 3)
    table = board(records, only("scratch", "kd", "logit_mse"))
    assert {r.method: r.fronts for r in table.rows} == {"kd": ("params",), "logit_mse": (), "scratch": ("params",)}


def test_latency_of_unlike_conditions_is_shown_and_never_on_the_common_axis(board: Callable[..., Leaderboard]) -> None:
    records = finals("kd", [92.0] * 3) + finals("kd", [91.0] * 3, depth=14) + finals("kd", [90.0] * 3, depth=8)
    times = [latency(20, 1.0, 2.0), latency(14, 1.0, 1.5), latency(8, 1.0, 0.1, conditions={"threads": 8})]
    table = board(records + times, only("kd"))
    shown = {r.student: (r.value("latency_b1_p50_ms"), r.latency_comparable, r.fronts) for r in table.rows}
    assert shown == {
        "resnet20": (2.0, True, ("params", "latency")),
        "resnet14": (1.5, True, ("params", "latency")),
        "resnet8": (0.1, False, ("params",)),
    }


def test_a_record_of_another_processor_is_another_condition(board: Callable[..., Leaderboard]) -> None:
    other = latency(8, 1.0, 0.5, conditions={"device": "another"})
    records = finals("kd", [92.0] * 3) + finals("kd", [91.0] * 3, depth=14) + finals("kd", [90.0] * 3, depth=8)
    table = board([*records, latency(20, 1.0, 2.0), latency(14, 1.0, 1.5), other], only("kd"))
    assert not row(table, "kd", "resnet8").latency_comparable


def test_a_method_with_fewer_trials_is_marked_and_not_ranked(board: Callable[..., Leaderboard]) -> None:
    records = equal_search(["scratch", "kd"]) + equal_search(["fitnet"], trials=5)
    for method, score in (("scratch", 90.0), ("kd", 91.0), ("fitnet", 99.0)):
        records += finals(method, [score] * 3)
    table = board(records, only("scratch", "kd", "fitnet"))
    assert [(r.method, r.rank) for r in table.rows] == [("kd", 1), ("scratch", 2), ("fitnet", None)]
    assert row(table, "fitnet").unranked == (
        "search 5 of 9 trials",
        "search repeats: 2; the others: 3",
    )
    assert row(table, "fitnet").fronts == ()
    marked = {f.method: f.differs for f in table.fairness}
    assert marked == {"scratch": (), "kd": (), "fitnet": ("search_trials", "search_repeats")}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epochs": 200}, "final epochs: 200; the others: 100"),
        ({"environment": {"data_hash": "sha256:other"}}, "data hash: other; the others: 5f3a9c0d1e2b"),
        (
            {"environment": {"device": "cuda:0", "precision": "bf16"}},
            "hardware: cuda, 1 thread, bf16; the others: cpu, 1 thread, fp32",
        ),
        ({"environment": {"threads": 8}}, "hardware: cpu, 8 threads, fp32; the others: cpu, 1 thread, fp32"),
        (
            {"data": {"name": "cifar10", "crop": 4, "flip": True}},
            "data: name=cifar10; the others: name=cifar10, split_seed=0, validation=5000",
        ),
        (
            {"data": {"name": "cifar10", "validation": 5000, "split_seed": 0, "crop": 0, "flip": True}},
            "views: no crop, mirrored; the others: random crop of 4 px, mirrored",
        ),
        (
            {"depth": 110},
            "student space: model=resnet, depth=[8, 14, 20], width=[0.5, 1]; but ran depth=110; "
            "the others: model=resnet, depth=[8, 14, 20], width=[0.5, 1]",
        ),
    ],
)
def test_a_method_that_differs_in_a_cell_is_not_ranked_and_the_reason_says_how(
    board: Callable[..., Leaderboard], change: dict[str, Any], reason: str
) -> None:
    records = finals("scratch", [90.0] * 3) + finals("kd", [91.0] * 3) + finals("fitnet", [99.0] * 3, **change)
    table = board(records, only("scratch", "kd", "fitnet"))
    fitnet = next(r for r in table.rows if r.method == "fitnet")
    assert fitnet.rank is None
    assert fitnet.unranked == (reason,)
    assert row(table, "kd").rank == 1


def test_of_two_methods_with_unlike_data_neither_is_ranked(board: Callable[..., Leaderboard]) -> None:
    records = finals("scratch", [90.0] * 3)
    records += finals("kd", [91.0] * 3, environment={"data_hash": "sha256:other"})
    table = board(records, only("scratch", "kd"))
    assert [r.rank for r in table.rows] == [None, None]
    assert "there is no majority" in table.rows[0].unranked[0]


def test_a_method_without_a_teacher_is_not_unlike_those_that_have_one(board: Callable[..., Leaderboard]) -> None:
    records = finals("scratch", [90.0] * 3)
    for method in ("kd", "fitnet"):
        records += finals(method, [91.0] * 3, teacher="0123456789abcdef")
    table = board(records, only("scratch", "kd", "fitnet"))
    assert [f.cells["teacher_hash"] for f in table.fairness] == [None, "77aa0c", "77aa0c"]
    assert all(r.rank for r in table.rows)


def test_a_configuration_with_fewer_seeds_is_marked_and_not_ranked(board: Callable[..., Leaderboard]) -> None:
    records = finals("scratch", [90.0] * 3) + finals("kd", [91.0] * 3) + finals("fitnet", [99.0])
    table = board(records, only("scratch", "kd", "fitnet"))
    assert row(table, "fitnet").unranked == ("final 1 of 3 seeds",)


def test_a_training_that_failed_before_it_knew_its_device_is_not_unlike_the_others(
    board: Callable[..., Leaderboard],
) -> None:
    records = finals("scratch", [90.0] * 3) + finals("kd", [91.0, 91.0, None])
    for name in ("device", "precision", "threads"):
        next(r for r in records if r.status != "finished").environment.pop(name)  # type: ignore[attr-defined]
    table = board(records, only("scratch", "kd"))
    assert [f.cells["hardware"] for f in table.fairness] == ["cpu, 1 thread, fp32"] * 2
    assert all(r.rank for r in table.rows)


def test_a_method_that_starts_from_a_source_task_says_so_with_its_time_and_stays_ranked(
    board: Callable[..., Leaderboard],
) -> None:
    source = record("source", {"name": "scratch"}, resnet(20), {}, {"val_top1_pct": 90.0}, wall_s=600.0)
    other = record("source", {"name": "scratch"}, resnet(8), {}, {"val_top1_pct": 80.0}, wall_s=100.0)
    records = [source, other, *finals("scratch", [90.0] * 3), *finals("fine_tune", [91.0] * 3, init=source.key)]
    table = board(records, only("scratch", "fine_tune", "kd"))
    given = {f.method: (f.start, f.source_wall_s, f.differs) for f in table.fairness}
    assert given == {"scratch": ("random", 0.0, ()), "fine_tune": ("source task", 600.0, ()), "kd": (None, 0.0, ())}
    assert row(table, "fine_tune").rank == 1


def test_what_a_method_fixes_by_definition_is_neither_hidden_nor_called_searched(
    board: Callable[..., Leaderboard],
) -> None:
    def change(study: dict[str, Any]) -> None:
        only("scratch", "l2sp")(study)
        study["search"]["shared"] = {"weight_decay": [1e-4, 5e-4]}

    table = board(finals("scratch", [90.0] * 3) + finals("l2sp", [91.0] * 3), change)
    assert [f.by_definition for f in table.fairness] == ["", "weight_decay=0"]
    assert (row(table, "scratch").settings, row(table, "l2sp").settings) == ("weight_decay=0.0005", "")


def test_a_shared_setting_that_is_null_is_not_searched_but_the_same_for_all(board: Callable[..., Leaderboard]) -> None:
    def change(study: dict[str, Any]) -> None:
        only("scratch")(study)
        study["search"]["shared"] = {"lr": None, "weight_decay": None}

    table = board(finals("scratch", [90.0] * 3), change)
    assert row(table, "scratch").settings == ""
    cells = table.fairness[0].cells
    assert (cells["shared"], cells["training"]) == (
        "nothing", "batch_size=128, lr=0.1, optimizer=sgd, weight_decay=0.0005"
    )  # fmt: skip


def test_of_two_baselines_the_one_chosen_by_the_studys_objective_counts(board: Callable[..., Leaderboard]) -> None:
    def change(study: dict[str, Any]) -> None:
        only("scratch", "kd")(study)
        study["search"]["objectives"] = ["val_nll", "params"]

    sure, accurate = trial("scratch", 0, 0, 89.0, lr=0.1), trial("scratch", 0, 1, 91.0, lr=0.2)
    sure.result["val_nll"] = 0.3  # type: ignore[index]
    records = [sure, accurate, *finals("kd", [93.0] * 3)]
    records += finals("scratch", [90.0] * 3, lr=0.1, chosen=sure.key)
    records += finals("scratch", [92.0] * 3, lr=0.2, chosen=accurate.key)
    assert row(board(records, change), "kd").differences["scratch"].mean == 3.0


LABEL = "AMD EPYC 7B13, 1 thread, float32, channels_last, eager, torch 2.15.0"
GPU = {"device": "NVIDIA H100 80GB HBM3", "device_type": "cuda", "driver": "NVRM 580", "torch": "2.15.0"}


def test_the_conditions_of_a_latency_are_short_and_name_the_device_once(board: Callable[..., Leaderboard]) -> None:
    assert board([*finals("kd", [92.0] * 3), latency(20, 1.0, 2.0)], only("kd")).latencies.conditions == LABEL
    on_gpu = board([*finals("kd", [92.0] * 3), latency(8, 1.0, 2.0, conditions=GPU)], only("kd")).latencies
    assert [times.conditions for key, times in on_gpu.by_model.items() if '"depth":8' in key] == [
        "NVIDIA H100 80GB HBM3, float32, channels_last, eager, torch 2.15.0"
    ]


def test_conditions_that_would_read_alike_say_what_tells_them_apart(board: Callable[..., Leaderboard]) -> None:
    records = finals("kd", [92.0] * 3) + finals("kd", [90.0] * 3, depth=8)
    times = [latency(20, 1.0, 2.0), latency(8, 1.0, 0.5, conditions={"backend": "eager, AVX512, oneDNN"})]
    table = board([*records, *times], only("kd"))
    assert {r.student: r.latency_conditions for r in table.rows} == {
        "resnet20": f"{LABEL}, backend=eager, AVX2, oneDNN", "resnet8": f"{LABEL}, backend=eager, AVX512, oneDNN"
    }  # fmt: skip
    assert [r.latency_comparable for r in table.rows].count(True) == 1


def test_compute_and_failures_are_counted_per_method(board: Callable[..., Leaderboard]) -> None:
    records = [*equal_search(["kd"], 8), trial("kd", 2, 2, None, status="timed_out"), *finals("kd", [91.0] * 3)]
    given = board(records, only("kd")).fairness[0]
    assert (given.search_run, given.search_planned, given.search_wall_s) == (9, 9, 2700.0)
    assert (given.final_run, given.final_planned, given.final_wall_s) == (3, 3, 900.0)
    assert given.failures["search_timed_out"] == 1
    assert not given.partial


def test_pairs_are_ranked_apart(board: Callable[..., Leaderboard]) -> None:
    other = [
        record("final", {"name": "kd"}, {"name": "vgg", "depth": 8}, {"pair": "resnet56 -> vgg", "final": i},
               {"test_top1_pct": 80.0 + i, "params": 5000}, seed=i)
        for i in range(3)
    ]  # fmt: skip
    table = board([*finals("kd", [91.0] * 3), *other], only("kd"))
    assert [(r.pair, r.rank) for r in table.rows] == [("resnet56 -> resnet", 1), ("resnet56 -> vgg", 1)]
    assert set(table.hypervolumes) == {"resnet56 -> resnet", "resnet56 -> vgg"}


def test_sizes_that_are_listed_one_by_one_share_a_table_and_a_front(board: Callable[..., Leaderboard]) -> None:
    def cell(method: str, depth: int, score: float) -> list[TrialRecord]:
        slot = {"pair": f"resnet56 -> resnet depth={depth}"}
        cost = {"params": 1000 * depth}
        return [
            record(
                "final", {"name": method}, resnet(depth), {**slot, "final": i}, {"test_top1_pct": score, **cost}, seed=i
            )
            for i in range(3)
        ]

    records = cell("scratch", 8, 90.0) + cell("kd", 8, 91.0) + cell("scratch", 20, 92.0)
    table = board(records, only("scratch", "kd"))
    assert [(r.method, r.student, r.rank, r.fronts) for r in table.of("resnet56 -> resnet")] == [
        ("scratch", "resnet20", 1, ("params",)),
        ("kd", "resnet8", 2, ("params",)),
        ("scratch", "resnet8", 3, ()),
        ("kd", "depth=20", None, ()),
    ]
    assert table.rows[1].differences["scratch"].mean == 1.0
    assert len(table.fairness) == 4


def test_ranked_rows_whose_difference_to_the_best_may_be_0_are_marked(board: Callable[..., Leaderboard]) -> None:
    records = [
        *finals("kd", [91.0, 92.0, 94.5]), *finals("logit_mse", [91.2, 91.8, 94.2]),
        *finals("scratch", [90.0, 91.0, 92.0]), *finals("fitnet", [94.0]),
    ]  # fmt: skip
    table = board(records, only("kd", "logit_mse", "scratch", "fitnet"))
    assert {r.method: r.within_best for r in table.rows} == {
        "kd": True, "logit_mse": True, "scratch": False, "fitnet": False
    }  # fmt: skip


def test_two_seeds_are_too_few_to_say_who_is_as_good_as_the_best(board: Callable[..., Leaderboard]) -> None:
    records = [*finals("kd", [91.0, 92.0]), *finals("scratch", [91.0, 92.0])]
    assert not any(r.within_best for r in board(records, only("kd", "scratch", seeds=2)).rows)


def test_the_ideal_of_the_study_narrows_the_box_of_the_hypervolume(board: Callable[..., Leaderboard]) -> None:
    def change(study: dict[str, Any]) -> None:
        only("kd")(study)
        study["pareto"]["ideal"] = {"top1_pct": 96}

    records = finals("kd", [92.0] * 3)
    volume = board(records, change).hypervolumes[example.PAIR]
    assert volume.share == pytest.approx(12 / 16 * (1 - records[0].result["params"] / 1e6), abs=1e-9)
