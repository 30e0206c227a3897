"""Exhibits as files: whatever a part of the report brings is written in every form, and a refusal is a sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from report_example import final, write_study

from kdbench.report import files, tex
from kdbench.report.exhibit import Exhibit
from kdbench.report.figures import method_styles
from kdbench.report.frames import parquet
from kdbench.report.leaderboard import Leaderboard, leaderboard
from kdbench.report.load import Results, load
from kdbench.report.render import render_markdown
from kdbench.report.tables import Cell, Column, Table

TABLE = Table(
    (Column("Method", numeric=False), Column("Rank")),
    ((Cell("a_b%$#&{}~^\\"), Cell("1.50", "[1.00, 2.00]", best=True)), (Cell("kd"), Cell("1.75", near=True))),
    ("student", "student"),
)


def drawn() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [1, 0])
    return figure


WHOLE = Exhibit("made-up", "A made-up exhibit", {"": TABLE}, pd.DataFrame({"method": ["kd"], "rank": [1.5]}), drawn,
                ("Unit: the pair; n = 3.",))  # fmt: skip
REFUSED = Exhibit("refused", "Not here", refusal="Friedman's test needs at least 3 methods; there are 2.")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Leaderboard]:
    items = [final(method, seed, 90.0 + seed) for method in ("scratch", "kd") for seed in range(3)]
    results = load(write_study(tmp_path_factory.mktemp("study"), items))
    return results, leaderboard(results)


def test_a_whole_exhibit_becomes_five_files() -> None:
    made = files.exhibit_files(WHOLE)
    assert set(made) == {f"made-up.{form}" for form in ("csv", "parquet", "pdf", "svg", "png")}
    assert made["made-up.csv"] == "method,rank\nkd,1.5\n"
    starts = {"parquet": b"PAR1", "pdf": b"%PDF-", "png": b"\x89PNG"}
    assert all(bytes(made[f"made-up.{form}"]).startswith(mark) for form, mark in starts.items())  # type: ignore[arg-type]
    assert made == files.exhibit_files(WHOLE), "the same bytes again"


def test_a_refused_exhibit_has_no_files_and_says_why_in_both_texts(study: tuple[Results, Leaderboard]) -> None:
    assert files.exhibit_files(REFUSED) == {}
    assert "Not computed: Friedman's test needs at least 3 methods; there are 2." in render_markdown(*study, [REFUSED])
    assert "Not computed: Friedman's test needs at least 3 methods; there are 2." in tex.tables(*study, [REFUSED])


def test_an_exhibit_is_a_section_of_the_page_with_its_table_figure_and_notes(
    study: tuple[Results, Leaderboard],
) -> None:
    text = render_markdown(*study, [WHOLE])
    section = text[text.index("## A made-up exhibit") :]
    assert "| Method | Rank |" in section
    assert "| kd | <ins>1.75</ins> |" in section
    assert "**1.50** [1.00, 2.00]" in section
    assert "![A made-up exhibit](made-up.svg)" in section
    assert "- Unit: the pair; n = 3." in section


def test_an_exhibit_is_a_float_and_a_figure_of_the_paper(study: tuple[Results, Leaderboard]) -> None:
    text = tex.tables(*study, [WHOLE])
    assert r"A made-up exhibit. Trainings: final 6; none failed.}" in text
    assert r"\label{tab:made-up}" in text
    assert r"\item \textbf{A made-up exhibit.} Unit: the pair; n = 3." in text
    assert r"{made-up.pdf}" in tex.paper(*study, [WHOLE])
    assert "refused" not in tex.paper(*study, [REFUSED])


@pytest.mark.parametrize("name", ["leaderboard", "pareto", "manifest", "Upper", "a/b", "../up", "", "9th"])
def test_a_name_that_is_taken_or_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"small letters, digits and hyphens.*Give it another name"):
        files._check([dataclasses.replace(WHOLE, name=name)])


def test_two_exhibits_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="exhibit 'made-up'"):
        files._check([WHOLE, WHOLE])


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


def test_forty_two_methods_are_told_apart() -> None:
    styles = method_styles(["scratch", *(f"m{i}" for i in range(42))])
    assert len(set(styles.values())) == 43
