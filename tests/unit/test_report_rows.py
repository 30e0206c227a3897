"""Rows with labels and networks of their own in the report: told apart, and marked where the teacher is another."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_example import final, measured, record, resnet, trial, write_study

from kdbench.record import TrialRecord
from kdbench.report import summary
from kdbench.report.fairness import by_definition, fairness, views
from kdbench.report.frames import csv, fairness_frame, leaderboard_frame
from kdbench.report.leaderboard import leaderboard
from kdbench.report.load import Results, load
from kdbench.report.render import render_markdown
from kdbench.report.search import search_frame
from kdbench.report.tables import fairness_table, main_table

RNG = np.random.default_rng(0)


def network(depth: int, seed: int = 0, phase: str = "teacher", **more: Any) -> TrialRecord:
    result = measured(93.0 + seed, RNG, depth, 1.0, teacher=False)
    return record(phase, {"name": "scratch"}, resnet(depth), {}, result, seed=seed, wall_s=100.0, **more)


TEACHER, ASSISTANT, SECOND = network(56), network(32), network(56, seed=1)
PAIR = "resnet56 -> resnet"
VOTE = {"name": "ensemble", "average": "logits", "members": [resnet(56), resnet(56)]}
COMMITTEE = record("teacher", {"name": "ensemble"}, VOTE, {}, measured(95.0, RNG, 56, 1.0, False), wall_s=1.0)
COMMITTEE = dataclasses.replace(COMMITTEE, spec=dataclasses.replace(COMMITTEE.spec, members=(TEACHER.key, SECOND.key)))
BORN = network(20, phase="source", teacher=TEACHER.key)
NAMES = {
    TEACHER.key: "teacher", ASSISTANT.key: "assistant", SECOND.key: "second", COMMITTEE.key: "committee",
    BORN.key: "generation1",
}  # fmt: skip
TEACHERS = {"kd": TEACHER, "takd": ASSISTANT, "ensemble_kd": COMMITTEE, "born_again": BORN}


def labelled(item: TrialRecord, row: str, teacher: TrialRecord, init: str | None = None) -> TrialRecord:
    """A record of another row, with that teacher."""
    slot = item.spec.slot if row == item.spec.method_name else {**item.spec.slot, "row": row}
    around = {**item.environment, "teacher_hash": f"sha256:{teacher.key}"}
    spec = dataclasses.replace(item.spec, slot=slot, teacher=teacher.key, init=init)
    return dataclasses.replace(item, spec=spec, environment=around)


def rows() -> list[TrialRecord]:
    """Four rows of vanilla distillation with equal settings, and two of other methods with the study's teacher."""
    out = []
    for place, (row, teacher) in enumerate(TEACHERS.items()):
        out += [labelled(trial("kd", 0, n, 90.0 + place + n), row, teacher) for n in range(3)]
        out += [labelled(final("kd", 1000 + n, 90.0 + place), row, teacher) for n in range(3)]
    for n in range(3):
        out += [labelled(trial("fitnet", 0, n, 90.0), "fitnet", TEACHER, init=BORN.key)]
        out += [labelled(final("fitnet", 1000 + n, 91.0), "fitnet", TEACHER, init=BORN.key)]
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def change(study: dict[str, Any]) -> None:
        study["methods"] = {row: {"method": "kd"} for row in TEACHERS} | {"kd": {}, "fitnet": {}}
        study["search"]["repeats"] = 1
        study["final"]["seeds"] = 3

    records = [TEACHER, ASSISTANT, SECOND, COMMITTEE, BORN, *rows()]
    write_study(tmp_path, records, change)
    current = {"search": [item.key for item in records], "networks": NAMES}
    (tmp_path / "current.json").write_text(json.dumps(current))
    return tmp_path


@pytest.fixture
def results(folder: Path) -> Results:
    return load(folder)


def test_rows_with_equal_settings_are_told_apart_by_their_label(results: Results) -> None:
    board = leaderboard(results)
    students = {row.method: row for row in board.rows if row.kind == "student"}
    assert set(students) == {*TEACHERS, "fitnet"}
    assert {name: len(row.scores) for name, row in students.items()} == dict.fromkeys(students, 3)
    assert students["takd"].selected_val_top1_pct != students["kd"].selected_val_top1_pct


def test_a_row_with_another_teacher_is_marked_and_not_ranked(results: Results) -> None:
    rows = {row.method: row for row in fairness(results)}
    assert rows["kd"].differs == () and rows["fitnet"].differs == ()
    assert rows["takd"].differs == ("teacher",)
    assert rows["takd"].reasons == ("teacher: assistant (resnet32); the others: resnet56",)
    assert rows["ensemble_kd"].cells["teacher"] == "committee (2 resnet56)"
    assert rows["born_again"].cells["teacher"] == "generation1"
    ranks = {row.method: row.rank for row in leaderboard(results).rows if row.kind == "student"}
    assert ranks == {"kd": 2, "fitnet": 1, "takd": None, "ensemble_kd": None, "born_again": None}


def test_what_other_networks_cost_is_told_beside_the_start(results: Results) -> None:
    rows = {row.method: row for row in fairness(results)}
    assert {name: row.source_wall_s for name, row in rows.items()} == {
        "kd": 0.0, "takd": 100.0, "ensemble_kd": 101.0, "born_again": 100.0, "fitnet": 100.0,
    }  # fmt: skip
    assert (rows["kd"].start, rows["fitnet"].start) == ("random", "generation1")
    table, _, _ = fairness_table(list(rows.values()))
    headings = [column.heading for column in table.columns]
    assert "Start" in headings and "Teacher" in headings
    line = table.rows[[row.method for row in rows.values()].index("takd")]
    assert line[headings.index("Teacher")].text == "assistant (resnet32) (differs)"
    assert line[headings.index("Start")].extra == "+ 100 s"


def test_every_network_that_was_tested_has_a_row_under_its_name(results: Results) -> None:
    teachers = [(row.method, row.student) for row in leaderboard(results).rows if row.kind == "teacher"]
    assert teachers == [
        ("teacher", "resnet56"), ("committee", "2 resnet56"), ("assistant", "resnet32"), ("second", "resnet56"),
    ]  # fmt: skip


def test_labels_reach_the_tables(folder: Path, results: Results) -> None:
    board = leaderboard(results)
    frames = (leaderboard_frame(board.rows), fairness_frame(board.fairness), search_frame(results))
    texts = [render_markdown(results, board, []), *map(csv, frames)]
    assert all("takd" in text for text in texts)
    assert "assistant (resnet32)" in texts[2]
    assert "Not ranked: takd" in summary(folder)


def test_views_have_a_cell_of_their_own_and_other_views_are_not_ranked(tmp_path: Path) -> None:
    around = {"name": "cifar10", "validation": 5000, "split_seed": 0}
    items = [final(m, n, 90.0 + n) for m in ("scratch", "kd") for n in range(3)]
    items += [final("fitnet", n, 93.0, data={**around, "crop": 0, "flip": True}) for n in range(3)]
    rows = {row.method: row for row in fairness(load(write_study(tmp_path, items)))}
    assert rows["kd"].cells["views"] == "random crop of 4 px, mirrored"
    assert rows["fitnet"].differs == ("views",)
    assert rows["fitnet"].reasons == ("views: no crop, mirrored; the others: random crop of 4 px, mirrored",)
    assert rows["kd"].cells["data"] == rows["fitnet"].cells["data"] == "name=cifar10, split_seed=0, validation=5000"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"name": "cifar100"}, "random crop of 4 px, mirrored"),
        ({"name": "digits"}, "random crop of 1 px, not mirrored"),
        ({"name": "digits", "crop": 0, "flip": True}, "no crop, mirrored"),
        ({"folder": "birds"}, "crop by default, mirrored by default"),
        ({"name": "imagenet", "size": 64}, "crop by default, mirrored"),
        ({"name": "of_a_plug_in", "crop": 2}, "random crop of 2 px, mirrored by default"),
    ],
)
def test_views_that_the_settings_leave_out_are_those_of_the_data_set(data: dict[str, Any], words: str) -> None:
    assert views(data) == words


def test_further_images_of_a_method_are_told(tmp_path: Path) -> None:
    items = [final(m, n, 90.0 + n) for m in ("kd", "mlkd") for n in range(3)]
    given = fairness(load(write_study(tmp_path, items)))
    assert {row.method for row in given if row.further_images} == {"mlkd"}
    _, _, exceptions = fairness_table([row for row in given if row.configurations])
    assert exceptions == ["mlkd runs on further images by definition"]


def test_a_row_within_the_interval_of_the_best_is_underlined_and_the_best_is_bold(tmp_path: Path) -> None:
    scores = {"kd": (92.0, 92.2, 92.4), "fitnet": (91.9, 92.3, 92.3), "scratch": (88.0, 88.2, 88.1)}
    items = [final(method, seed, top1) for method, values in scores.items() for seed, top1 in enumerate(values)]
    results = load(write_study(tmp_path, items))
    table = main_table([row for row in leaderboard(results).rows if row.kind == "student"])
    cells = {row[1].text: row[4] for row in table.rows}
    assert {name: (cell.best, cell.near) for name, cell in cells.items()} == {
        "kd": (True, False), "fitnet": (False, True), "scratch": (False, False),
    }  # fmt: skip
    page = render_markdown(results, leaderboard(results), [])
    assert "**92.20**" in page and "<ins>92.17</ins>" in page and "| 88.10 [" in page


def test_a_combined_row_fixes_what_its_parts_fix() -> None:
    method = {"name": "combine", "order": ["kd", "l2sp"], "parts": {"kd": {}, "l2sp": {}}, "weights": {"kd": 1.0}}
    combined = record("search", method, resnet(20), {"pair": PAIR, "row": "both"}, {})
    assert by_definition(combined) == {"weight_decay": 0.0}
    unknown = {**method, "parts": {"kd": {}, "of_a_plug_in": {}}}
    assert by_definition(dataclasses.replace(combined, spec=dataclasses.replace(combined.spec, method=unknown))) == {}


def test_hyper_parameters_of_a_combined_row_are_named_by_their_part(tmp_path: Path) -> None:
    method = {"name": "combine", "order": ["kd", "fitnet"], "parts": {"kd": {"temperature": 4.0}, "fitnet": {}},
              "weights": {"kd": 1.0, "fitnet": 2.0}}  # fmt: skip
    slot = {"pair": PAIR, "final": 0, "row": "both"}
    items = [record("final", method, resnet(20), {**slot, "final": n}, measured(91.0, RNG, 20, 1.0), seed=n)
             for n in range(3)]  # fmt: skip
    board = leaderboard(load(write_study(tmp_path, items)))
    row = next(row for row in board.rows if row.method == "both")
    assert set(row.settings.split(", ")) >= {"kd.temperature=4", "weights.kd=1", "weights.fitnet=2"}
