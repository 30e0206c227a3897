"""Exhibits as files: whatever a part of the report brings is written in every form, and a refusal is a sentence."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from report_example import final, latency, write_study

from kdbench.report import files, tex
from kdbench.report.exhibit import Exhibit
from kdbench.report.figures import method_styles, style, svg
from kdbench.report.leaderboard import Leaderboard, leaderboard
from kdbench.report.load import Results, load
from kdbench.report.pareto_figure import Drawing, Words, pareto_figure
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
    assert r"\item[$\bullet$] \textbf{A made-up exhibit.} Unit: the pair; n = 3." in text
    assert r"{made-up.pdf}" in tex.paper(*study, [WHOLE])
    assert "refused" not in tex.paper(*study, [REFUSED])


@pytest.mark.parametrize("name", ["leaderboard", "pareto", "manifest", "Upper", "a/b", "../up", "", "9th"])
def test_a_name_that_is_taken_or_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"small letters, digits and hyphens.*Give it another name"):
        files._check([dataclasses.replace(WHOLE, name=name)])


def test_two_exhibits_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="exhibit 'made-up'"):
        files._check([WHOLE, WHOLE])


def test_forty_two_methods_are_told_apart() -> None:
    styles = method_styles(["scratch", *(f"m{i}" for i in range(42))])
    assert len(set(styles.values())) == 43


def pairs(count: int, folder: Path) -> tuple[Results, Leaderboard]:
    """A study of so many tables, three methods and one student each."""
    items = [latency(20, 1.0, 2.0)]
    for number in range(count):
        for place, method in enumerate(("scratch", "kd", "fitnet")):
            for seed in range(3):
                item = final(method, seed, 60.0 + number + place + seed)
                slot = {**item.spec.slot, "pair": f"teacher{number:02d} -> resnet"}
                items.append(dataclasses.replace(item, spec=dataclasses.replace(item.spec, slot=slot)))
    results = load(write_study(folder, items))
    return results, leaderboard(results)


def drawing(results: Results, board: Leaderboard) -> Drawing:
    with style():
        return pareto_figure(board, results.tables, results.methods, Words("Which?", "Means over n = 3 seeds."))


def test_many_pairs_are_small_panels_at_most_four_across_with_one_legend(tmp_path: Path) -> None:
    figure = drawing(*pairs(6, tmp_path)).figure
    boxes = [axes.get_position() for axes in figure.axes]
    assert len(boxes) == 12, "against parameters and against latency"
    assert len({round(box.x0, 6) for box in boxes}) == 4
    assert len(figure.legends) == 1
    for i, one in enumerate(boxes):
        assert 0 < one.x0 < one.x1 < 1 and 0 < one.y0 < one.y1 < 1
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])


def test_no_two_words_of_the_small_panels_collide(tmp_path: Path) -> None:
    figure = drawing(*pairs(6, tmp_path)).figure
    with style():
        figure.draw_without_rendering()
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [t for t in axes.xaxis.get_ticklabels() if t.get_text() and low <= t.get_position()[0] <= high]
        boxes = [tick.get_window_extent() for tick in ticks]
        assert len(boxes) > 1
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_one_or_two_tables_get_large_panels_side_by_side(tmp_path: Path) -> None:
    figure = drawing(*pairs(2, tmp_path)).figure
    assert len(figure.axes) == 4
    assert len({round(axes.get_position().x0, 3) for axes in figure.axes}) == 2
    assert len([axes for axes in figure.axes if axes.get_title(loc="left")]) == 2


def test_the_pdf_leaves_out_the_words_and_puts_them_back(tmp_path: Path) -> None:
    drawn_ = drawing(*pairs(1, tmp_path))
    with style():
        before = svg(drawn_.figure)
        with drawn_.bare() as part:
            assert not any(text.get_visible() for text in drawn_.texts)
            assert part.height == pytest.approx(drawn_.figure.get_figheight() - drawn_.above)
            assert svg(drawn_.figure, part) != before
        assert svg(drawn_.figure) == before


def test_rows_of_equal_cost_do_not_hide_each_other(tmp_path: Path) -> None:
    results, board = pairs(1, tmp_path)
    places = [
        (line.get_xdata()[0], line.get_ydata()[0])
        for line in drawing(results, board).figure.axes[0].lines
        if line.get_marker() not in ("", "None", "*") and len(line.get_xdata()) == 1
    ]
    assert len(places) == len(set(places)) == 3
