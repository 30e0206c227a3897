"""The report as LaTeX: its structure without a compiler, and every text from outside as text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from report_example import HYPER, final, full_records, latency, trial, write_study

from kdbench.report import tex
from kdbench.report.compact import compact_table, failures_short
from kdbench.report.exhibit import Exhibit
from kdbench.report.latex import PACKAGES, TEXT_WIDTH, latex, layouts, sideways, tabular, width
from kdbench.report.leaderboard import leaderboard
from kdbench.report.load import load
from kdbench.report.tables import Cell, Column, Table

EVIL = ("a_b%$#&{}~^\\", "<script>")
# Every command that may appear, by where it comes from; whatever else stands in the text has not been escaped.
COMMANDS = {
    "latex": r"begin end caption label centering footnotesize scriptsize noindent par bigskip smallskip textbf item"
    r" underline fontseries selectfont multicolumn shortstack linewidth setlength tabcolsep abovecaptionskip"
    r" belowcaptionskip raggedright arraybackslash hspace clearpage rlap input includegraphics documentclass usepackage"
    r" medskip Large textheight textbackslash textasciitilde textasciicircum textless textgreater textbar"
    r" textasciigrave",
    "mathematics": r"uparrow downarrow Delta rightarrow times pm leq geq approx infty alpha beta varepsilon lambda"
    r" sigma chi cdot surd dagger ddagger bullet",
    "booktabs": "toprule midrule bottomrule",
    "siunitx": "tablenum",
}
ENVIRONMENTS = ("table*", "sidewaystable*", "tabular", "adjustbox", "minipage", "itemize", "document", "center",
                "figure*")  # fmt: skip
KNOWN = {name for names in COMMANDS.values() for name in names.split()}


def stripped(text: str) -> str:
    """Without comments and without characters that a backslash makes harmless."""
    text = re.sub(r"(?m)^%.*$", "", text)
    return re.sub(r"\\[{}&%#$_]", "", text)


def problems(text: str) -> list[str]:
    """What is wrong with the structure of a text: braces, environments, columns, commands, bare special letters."""
    bare, found = stripped(text), []
    stack: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{([^}]*)\}", bare):
        if name not in ENVIRONMENTS:
            found.append(f"environment {name}")
        if kind == "begin":
            stack.append(name)
        elif not stack or stack.pop() != name:
            found.append(f"\\end{{{name}}} without its \\begin")
    found += [f"\\begin{{{name}}} without its \\end" for name in stack]
    depth = 0
    for letter in bare:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth < 0:
            found.append("a brace closes what was never opened")
            break
    if depth > 0:
        found.append("a brace is not closed")
    found += [f"\\{name}" for name in sorted(set(re.findall(r"\\([a-zA-Z]+)", bare)) - KNOWN)]
    plain = bare.replace("$^2$", "").replace(r">{\raggedright", "")
    found += [f"bare {letter}" for letter in "#%_^<>|" if letter in plain]
    if bare.count("$") % 2:
        found.append("a formula is not closed")
    return found + [problem for table in tabulars(bare) for problem in unequal(table)]


def tabulars(bare: str) -> list[str]:
    return re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", bare, re.S)


def unequal(table: str) -> list[str]:
    """Rows that do not have as many cells as the first; a cell that spans two counts as two."""
    body = table[table.index(r"\toprule") : table.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    counts = [row.count("&") + row.count(r"\multicolumn{2}") for row in rows]
    return [f"{count} instead of {counts[0]} cells: {row}" for row, count in zip(rows, counts, strict=True)
            if count != counts[0]]  # fmt: skip


def rendered(folder: Path, exhibits: list[Exhibit] | None = None) -> tuple[str, str]:
    results = load(folder)
    board = leaderboard(results)
    return tex.tables(results, board, exhibits or []), tex.paper(results, board, exhibits or [])


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return rendered(write_study(tmp_path_factory.mktemp("full"), full_records()))


def test_the_tables_and_the_document_have_a_sound_structure(full: tuple[str, str]) -> None:
    tables, document = full
    assert problems(tables) == []
    assert problems(document) == []
    assert len(tabulars(stripped(tables))) == 6


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda t: t.replace(r"\end{table*}", "", 1), "without its"),
        (lambda t: t.replace(" & ", " ", 1), "cells"),
        (lambda t: t.replace(r"\_", "_", 1), "bare _"),
        (lambda t: t.replace(r"\caption{", r"\caption{{", 1), "a brace is not closed"),
        (lambda t: t.replace(r"\midrule", r"\midrule \input{/etc/passwd} \write18", 1), r"\write"),
        (lambda t: t.replace(r"\%", "%", 1), "bare %"),
    ],
)
def test_a_broken_structure_is_noticed(full: tuple[str, str], spoil: Any, problem: str) -> None:
    assert any(problem in found for found in problems(spoil(full[0])))


def test_names_with_every_special_letter_are_text(tmp_path: Path) -> None:
    for name in EVIL:
        HYPER[name] = {"note": "50% & more_$x$"}
    try:
        items = [final(m, seed, 90.0 + seed) for m in ("scratch", "kd", *EVIL) for seed in range(3)]
        items += [trial(name, 0, 0, 91.0) for name in EVIL]
    finally:
        for name in EVIL:
            del HYPER[name]

    def change(study: dict[str, Any]) -> None:
        study["methods"] = {name: {} for name in ("scratch", "kd", *EVIL)}
        study.update(study="50% of_a & b", question=r"\input{x} ~ #1?", provenance=r"}\end{document}")

    table = Table(
        (Column("x_y %"), Column(EVIL[0], numeric=False)), ((Cell("1", "[0_1]"), Cell("&" * 40)),), ("student",)
    )
    evil = Exhibit("evil", "Title_with & 100 %", {EVIL[0]: table}, notes=("note_ #1",), refusal=None)
    for text in rendered(write_study(tmp_path, items, change), [evil]):
        assert problems(text) == []
        assert r"\input{x}" not in text
    tables = rendered(tmp_path)[0]
    assert r"a\_b\%\$\#\&\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in tables
    assert r"\textless{}script\textgreater{}" in tables


def test_latex_marks_are_escaped() -> None:
    assert latex(r"a_b & 5% #1 {x} ~ ^ \end $") == (
        r"a\_b \& 5\% \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}end \$"
    )
    assert latex("resnet56 -> vgg ×0.5 é 漢 ą") == r"resnet56 $\rightarrow$ vgg $\times$0.5 é ? a"
    assert latex("two\n lines \t here") == "two lines here"


def test_numbers_are_aligned_by_siunitx_and_text_among_them_is_in_braces() -> None:
    rows = (("1.25", "−0.50"), ("100.5", "+1.25"), ("–", "–"))
    table = Table((Column("A"), Column("B")), tuple((Cell(a), Cell(b)) for a, b in rows), ("student",) * 3)
    assert [layout.form for layout in layouts(table)] == ["3.2", "+1.2"]
    lines = tabular(table)
    assert lines[0] == r"\begin{tabular}{@{}S[table-format=3.2]S[table-format=+1.2,retain-explicit-plus]@{}}"
    assert lines[2:8] == [
        r"{A} & {B} \\", r"\midrule", r"1.25 & -0.50 \\", r"100.5 & +1.25 \\", r"{--} & {--} \\", r"\bottomrule",
    ]  # fmt: skip


def test_bold_and_underlined_numbers_stay_in_line_and_marks_take_no_room() -> None:
    cells = [Cell("91.50", "[90.00, 92.00]", best=True), Cell("91.20", near=True), Cell("9.10†")]
    table = Table((Column("Top-1"),), tuple((cell,) for cell in cells), ("student",) * 3)
    number = r"\tablenum[table-format=2.2,mode=text,detect-weight]"
    assert tabular(table)[4:7] == [
        rf"{{\fontseries{{b}}\selectfont{number}{{91.50}}}} & {{\scriptsize {{[}}90.00,\,92.00{{]}}}} \\",
        rf"{{\underline{{{number}{{91.20}}}}}} &  \\",
        rf"{{{number}{{9.10}}\rlap{{$\dagger$}}}} &  \\",
    ]


def test_counts_with_prefixes_are_right_aligned_text() -> None:
    table = Table((Column("Size"),), ((Cell("0.32 MB"),), (Cell("85.9 kB"),)), ("student",) * 2)
    assert tabular(table)[0] == r"\begin{tabular}{@{}r@{}}"


def test_long_text_is_broken_only_where_the_table_is_too_wide() -> None:
    row = (Cell("a, " * 30), Cell("1.00"))
    narrow = Table((Column("Why", numeric=False), Column("x")), (row,), ("student",))
    assert r"p{" in tabular(narrow)[0] and width(layouts(narrow)) <= TEXT_WIDTH
    wide = Table(tuple(Column("Why", numeric=False) for _ in range(9)), ((row[0],) * 9,), ("student",))
    assert sideways(wide)
    assert tabular(wide)[0] == r"\begin{adjustbox}{max width=\linewidth}"


def test_a_table_longer_than_a_page_goes_on_in_another_float(tmp_path: Path) -> None:
    cells = tuple((Cell(f"m{i}"), Cell("1.00")) for i in range(100))
    table = Table((Column("Method", numeric=False), Column("x")), cells, ("student",) * 100)
    text = rendered(write_study(tmp_path, [final("kd", 0, 90.0)]), [Exhibit("long", "Long", {"": table})])[0]
    assert text.count(r"\label{tab:long") == 3
    assert text.count("Long, continued.") == 2
    assert all(f"m{i} & 1.00" in text for i in range(100))


def test_no_more_than_eight_floats_wait_for_a_page(tmp_path: Path) -> None:
    table = Table((Column("x"),), ((Cell("1"),),), ("student",))
    many = Exhibit("many", "Many", {f"pair {i}": table for i in range(40)})
    text = rendered(write_study(tmp_path, [final("kd", 0, 90.0)]), [many])[0]
    assert max(part.count(r"\end{table*}") for part in text.split(r"\clearpage")) == 8


def test_the_main_table_fits_the_page_and_has_one_unit_in_a_column(tmp_path: Path) -> None:
    items = [final(m, s, 60.0 + 3 * i + s, depth=d) for i, m in enumerate(("scratch", "attention_transfer", "kd"))
             for s in range(3) for d in (8, 20)]  # fmt: skip
    items += [latency(8, 1.0, 0.9), latency(20, 1.0, 2.5, conditions={"threads": 8})]
    folder = write_study(tmp_path, items, lambda study: study["final"].update(seeds=3))
    rows = [row for row in leaderboard(load(folder)).rows if row.kind == "student"]
    table = compact_table(rows)
    headings = [column.heading for column in table.columns]
    assert headings == ["#", "Method", "Student", "Top-1 (%)", "Δ scratch", "Δ kd", "Params (k)", "ms", "Front"]
    assert width(layouts(table)) <= TEXT_WIDTH
    cells = {(row[1].text, row[2].text): [cell.text for cell in row] for row in table.rows}
    assert cells["kd", "resnet8"][6:8] == ["78.7", "0.90"]
    assert cells["kd", "resnet20"][6:8] == ["243.1", "2.50†"]


def test_what_differs_between_rows_has_a_column_in_the_main_table(full: tuple[str, str]) -> None:
    head = full[0].splitlines()[next(i for i, line in enumerate(full[0].splitlines()) if line == r"\toprule") + 1]
    assert all(word in head for word in ("{n}", "Student", "Failed")), head


def test_parameters_of_large_networks_are_in_millions() -> None:
    from kdbench.report.leaderboard import Row

    rows = [Row("student", "p", "kd", values={"params": count}) for count in (272_474.0, 2_255_156.0)]
    table = compact_table(rows)
    place = [column.heading for column in table.columns].index("Params (M)")
    assert [row[place].text for row in table.rows] == ["0.27", "2.26"]


def test_failures_are_counted_by_what_became_of_them() -> None:
    counts = {"search_diverged": 2, "final_failed": 1, "final_lost": 1, "search_failed": 1, "final_timed_out": 3}
    assert failures_short(counts) == "2f 2d 3t 1l"
    assert failures_short({}) == "0"


def test_every_caption_counts_the_failures_of_its_table(full: tuple[str, str]) -> None:
    captions = re.findall(r"\\caption\{(.*)\}$", full[0], re.M)
    assert len(captions) == 6
    counted = "Trainings: search 54 (1 diverged), final 175 (1 failed)."
    assert [counted in caption or "continued" in caption for caption in captions] == [True] * 6


def test_notes_stand_once_and_captions_say_n_unit_and_test(full: tuple[str, str]) -> None:
    text = full[0]
    assert text.count("The unit of replication is the training seed") == 1
    main = next(line for line in text.splitlines() if r"\caption{cifar10" in line)
    for words in ("mean over training seeds (n = 4 to 5)", r"bootstrap 95 \% interval", "paired by seed"):
        assert words in main


def test_the_document_loads_what_the_tables_need(full: tuple[str, str]) -> None:
    assert all(rf"\usepackage{{{package}}}" in full[1] for package in PACKAGES)
    assert all(rf"%   \usepackage{{{package}}}" in full[0] for package in PACKAGES)
    assert r"\input{leaderboard.tex}" in full[1]
    assert r"{pareto.pdf}" in full[1]
