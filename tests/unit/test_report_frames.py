"""The tables for programs: CSV and Parquet with the same numbers, and every column explained."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_example import full_records, write_study

from kdbench.report.files import NAMES
from kdbench.report.frames import csv as csv_text
from kdbench.report.frames import fairness_frame, leaderboard_frame, pareto_frame, parquet, rounded
from kdbench.report.leaderboard import Leaderboard, leaderboard
from kdbench.report.load import Results, load
from kdbench.report.search import search_frame

DOCUMENT = Path(__file__).parents[2] / "docs" / "report.md"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return load(write_study(tmp_path_factory.mktemp("full"), full_records()))


@pytest.fixture(scope="module")
def board(full: Results) -> Leaderboard:
    return leaderboard(full)


def test_a_parquet_file_has_the_numbers_of_its_csv(full: Results, board: Leaderboard) -> None:
    frames = {"leaderboard": leaderboard_frame(board.rows), "fairness": fairness_frame(board.fairness),
              "search": search_frame(full), "pareto": pareto_frame(board)}  # fmt: skip
    for stem, frame in frames.items():
        table = pd.read_parquet(io.BytesIO(parquet(frame)))
        rows = list(csv.DictReader(io.StringIO(csv_text(frame))))
        assert len(table) == len(rows) and list(table.columns) == list(rows[0])
        for name in table.columns:
            for value, text in zip(table[name], (row[name] for row in rows), strict=True):
                if pd.isna(value):
                    assert text == ""
                elif isinstance(value, (bool, np.bool_, str)):
                    assert text.removeprefix("'") == str(value)
                else:
                    assert float(text) == value, (stem, name)


def test_a_parquet_file_has_typed_columns(board: Leaderboard) -> None:
    table = pd.read_parquet(io.BytesIO(parquet(leaderboard_frame(board.rows))))
    kinds = {name: table[name].dtype.kind for name in ("seeds_finished", "test_top1_pct", "on_front_params")}
    assert kinds == {"seeds_finished": "i", "test_top1_pct": "f", "on_front_params": "b"}
    assert isinstance(table["row"][0], str)


@pytest.mark.parametrize(
    ("value", "kept"),
    [(91.123456789, 91.123457), (0.1 + 0.2, 0.3), (1.23456789e-5, 1.23457e-5), (1e-17, 0.0), (-0.0, 0.0), (1e9, 1e9)],
)
def test_numbers_are_rounded_to_what_does_not_depend_on_the_machine(value: float, kept: float) -> None:
    assert rounded(value) == kept


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1+1"])
def test_text_that_a_spreadsheet_would_run_is_quoted_and_negative_numbers_are_not(text: str) -> None:
    frame = pd.DataFrame({"method": [text], "gain": [-0.25], "n": [3], "none": [float("nan")]})
    row = next(csv.DictReader(io.StringIO(csv_text(frame), newline="")))
    assert row == {"method": "'" + re.sub("[\r\n]", " ", text), "gain": "-0.25", "n": "3", "none": ""}


def columns_told(section: str) -> set[str]:
    """Names of columns that a section of docs/report.md explains."""
    text = DOCUMENT.read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    return set(re.findall(r"`([a-z0-9_]+)`", "".join(re.findall(r"(?m)^\| (`.*?) \|", text))))


def test_the_document_explains_every_column_of_the_leaderboard_and_of_fairness(
    board: Leaderboard,
) -> None:
    ends = ("_low", "_high", "_paired")
    found = {re.sub(r"_p(5|95)_ms$", "_p50_ms", name) for name in leaderboard_frame(board.rows).columns}
    plain = {next((name.removesuffix(end) for end in ends if name.endswith(end)), name) for name in found}
    assert plain == columns_told("The columns of leaderboard.csv")
    assert set(fairness_frame(board.fairness).columns) == columns_told("The columns of fairness.csv")


def test_the_document_of_the_report_names_every_file() -> None:
    text = DOCUMENT.read_text().split("## The main table")[0]
    told = set(re.findall(r"`([a-z]+\.[a-z]+)`", text))
    assert told >= {name for name in NAMES if not name.endswith(".parquet")}


def test_columns_without_a_value_are_numbers_and_mixed_ones_are_text(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    mixed = {
        "none": [None, float("nan")],
        "mixed": [1, "a"],
        "truth": [True, None],
        "whole": [1, None],
        "part": [1, 2.5],
    }
    path.write_bytes(parquet(pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in mixed.items()})))
    table = pd.read_parquet(path)
    assert table["none"].isna().all()
    assert list(table["mixed"]) == ["1", "a"]
    assert table["truth"][0] is True or bool(table["truth"][0])
    assert table["whole"][0] == 1 and pd.isna(table["whole"][1])
    assert list(table["part"]) == [1.0, 2.5]
