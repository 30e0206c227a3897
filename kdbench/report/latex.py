"""Text and tables as LaTeX: booktabs rules, numbers aligned at the decimal point by siunitx, everything escaped."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from kdbench.report.tables import Cell, Column, Table

PACKAGES = ("array", "booktabs", "siunitx", "adjustbox", "rotating", "textcomp")  # that the tables need
NUMBER = re.compile(r"([+-]?)(\d+)(?:\.(\d+))?([†‡*]?)")
OF_LATIN_1 = re.compile("[À-ÏÑ-ÖØ-ÝßÀà-ïñ-öø-ýÿ]")  # what every font encoding of LaTeX has
TEXT_WIDTH = 468.0  # points: 6.5 inches, what a wide table has in a paper
LETTER, SMALL_LETTER, GAP = 4.15, 3.55, 5.0  # widths at \footnotesize and \scriptsize, and between columns, points
THIN = r"\,"  # between the ends of an interval
LONG = 26  # letters: longer text can be broken into lines
PARAGRAPH = (16, 60)  # letters: the narrowest and the widest column of broken text
BREAKS = (1.0, 1.5, 2.0, 3.0)  # into so many lines is the longest text of a column broken, until the table fits
WIDER = 1.25  # than the text: a table is set sideways

_MARKS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "Δ": r"$\Delta$",
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "−": "$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "∞": r"$\infty$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "ε": r"$\varepsilon$",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
    "χ": r"$\chi$",
    "²": r"$^2$",
    "·": r"$\cdot$",
    "–": "--",
    "—": "---",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "✓": r"$\surd$",
    "[": "{[}",
    "]": "{]}",
    "\u00a0": "~",
}


def latex(text: object) -> str:
    """Text that LaTeX prints as it is; what pdflatex has no glyph for becomes its plain letter or `?`."""
    line = re.sub(r"[^\S\u00a0]+", " ", str(text)).strip().replace("->", "→")
    out = []
    for letter in line:
        if letter in _MARKS:
            out.append(_MARKS[letter])
        elif (letter.isascii() and letter.isprintable()) or (OF_LATIN_1.fullmatch(letter)):
            out.append(letter)
        else:
            out.append(unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() or "?")
    return "".join(out)


@dataclass(frozen=True)
class Layout:
    """How a column is set. form: siunitx's table-format (`+2.2`) of a column of numbers, else empty.

    lines: letters in a line of a column of broken text, 0 where it is not broken. extra: whether small print (an
    interval) has a column of its own behind it. letters: of the longest cell. width: of the column, in points.
    """

    form: str
    lines: int
    extra: bool
    letters: int
    width: float


def layouts(table: Table) -> list[Layout]:
    """How to set each column, from what is in it: long text in as few lines as the width of the page allows."""
    cells = [[row[j] for row in table.rows] for j in range(len(table.columns))]
    found: list[Layout] = []
    for lines in BREAKS:
        found = [_layout(column, of, lines) for column, of in zip(table.columns, cells, strict=True)]
        if width(found) <= TEXT_WIDTH:
            break
    return found


def width(found: Sequence[Layout]) -> float:
    """About how wide a table is, in points."""
    return sum(layout.width for layout in found)


def sideways(table: Table) -> bool:
    """Whether a table is so wide that shrinking it would make it hard to read."""
    return width(layouts(table)) > WIDER * TEXT_WIDTH


def _layout(column: Column, cells: Sequence[Cell], broken: float) -> Layout:
    numbers = [found for cell in cells if (found := NUMBER.fullmatch(_ascii(cell.text)))]
    extra = max((len(cell.extra) for cell in cells), default=0)
    wide = max([len(cell.text) for cell in cells] + [0])
    small = GAP / 2 + SMALL_LETTER * extra if extra else 0.0
    head = max(map(len, _broken(column.heading, wide + extra)))
    if column.numeric and numbers and 2 * len(numbers) >= sum(cell.text != "–" for cell in cells):
        sign = "+" if any(found[1] for found in numbers) else ""
        whole, places = (max(len(found[i] or "") for found in numbers) for i in (2, 3))
        letters = len(sign) + whole + (places + 0.6 if places else 0)
        space = max(letters * LETTER + small, head * LETTER)
        form = f"{sign}{whole}.{places}" if places else f"{sign}{whole}"
        return Layout(form, 0, bool(extra), wide + extra, space + GAP)
    word = max((len(word) for cell in cells for word in cell.text.split()), default=0)  # cannot be broken
    lines = max(PARAGRAPH[0], word, min(math.ceil(wide / broken), PARAGRAPH[1]))
    lines = lines if wide > LONG and not column.numeric else 0
    space = max((lines or wide) * LETTER + small, head * LETTER)
    return Layout("", lines, bool(extra), wide + extra, space + GAP)


def tabular(table: Table) -> list[str]:
    """The table as lines from `\\begin{tabular}` to `\\end{tabular}`; if it is too wide, in a box that shrinks it."""
    found = layouts(table)
    lines = [rf"\begin{{tabular}}{{@{{}}{_specs(table.columns, found)}@{{}}}}", r"\toprule"]
    lines += [_heading(table.columns, found), r"\midrule"]
    for i, row in enumerate(table.rows):
        if i and table.kinds[i] != table.kinds[i - 1]:
            lines.append(r"\midrule")
        lines.append(" & ".join(_cell(cell, layout) for cell, layout in zip(row, found, strict=True)) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if width(found) <= TEXT_WIDTH:
        return lines
    return [r"\begin{adjustbox}{max width=\linewidth}", *lines, r"\end{adjustbox}"]


def height(table: Table) -> list[int]:
    """Lines of text that each row takes."""
    found = layouts(table)
    return [
        max([1, *(math.ceil(len(c.text) / (0.85 * f.lines)) for c, f in zip(row, found, strict=True) if f.lines)])
        for row in table.rows
    ]


def _specs(columns: Sequence[Column], found: Sequence[Layout]) -> str:
    """The columns as an argument of tabular; text that follows what is set to the right keeps a distance from it."""
    out = ""
    for i, (column, layout) in enumerate(zip(columns, found, strict=True)):
        near = i > 0 and columns[i - 1].numeric and not column.numeric and not layout.form
        out += (r"@{\hspace{10pt}}" if near else "") + _spec(column, layout)
    return out


def _spec(column: Column, layout: Layout) -> str:
    small = r"@{\hspace{3pt}}l" if layout.extra else ""
    if layout.form:
        options = f"table-format={layout.form}" + (",retain-explicit-plus" if layout.form.startswith("+") else "")
        return f"S[{options}]{small}"
    if layout.lines:
        return rf">{{\raggedright\arraybackslash}}p{{{layout.lines * LETTER:.0f}pt}}{small}"
    return ("r" if column.numeric else "l") + small


def _broken(heading: str, wide: int) -> list[str]:
    """A heading as lines that are hardly wider than the cells below it; marks stay with the word before them."""
    kept = re.sub(r" (%|ms|↑|↓|\[.*?\])(?= |$)", "\u00a0\\1", heading.strip())
    words = kept.replace("Δ ", "Δ\u00a0").split(" ")
    longest = max(wide, *map(len, words))
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= longest:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _heading(columns: Sequence[Column], found: Sequence[Layout]) -> str:
    cells = []
    for column, layout in zip(columns, found, strict=True):
        lines = _broken(column.heading, layout.letters)
        side = "c" if layout.form or layout.extra else "r" if column.numeric else "l"
        text = r" \\ ".join(map(latex, lines))
        text = rf"\shortstack[{side}]{{{text}}}" if len(lines) > 1 else text
        if layout.extra:
            cells.append(rf"\multicolumn{{2}}{{{'c' if column.numeric else 'l'}}}{{{text}}}")
        else:
            cells.append(f"{{{text}}}" if layout.form else text)
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell, layout: Layout) -> str:
    return _number(cell, layout.form) + (f" & {_small(cell.extra)}" if layout.extra else "")


def _number(cell: Cell, form: str) -> str:
    """A number as siunitx reads it, or text; in a column of numbers what is more than a number stands in braces."""
    found = NUMBER.fullmatch(_ascii(cell.text)) if form else None
    if found is None:
        text = _emphasised(latex(cell.text), cell)
        return f"{{{text}}}" if form else text
    number = f"{found[1]}{found[2]}{'.' + found[3] if found[3] else ''}"
    if not (cell.best or cell.near or found[4]):
        return number
    # set as wide as the numbers above and below it, so that it stays in line with them, bold or underlined
    plus = ",retain-explicit-plus" if form.startswith("+") else ""
    boxed = rf"\tablenum[table-format={form}{plus},mode=text,detect-weight]{{{number}}}"
    boxed = rf"\fontseries{{b}}\selectfont{boxed}" if cell.best else rf"\underline{{{boxed}}}" if cell.near else boxed
    return f"{{{boxed}" + (rf"\rlap{{{latex(found[4])}}}" if found[4] else "") + "}"


def _emphasised(text: str, cell: Cell) -> str:
    return rf"\textbf{{{text}}}" if cell.best else rf"\underline{{{text}}}" if cell.near else text


def _small(text: str) -> str:
    return rf"{{\scriptsize {latex(text).replace(', ', ',' + THIN)}}}" if text else ""


def _ascii(text: str) -> str:
    return text.replace("−", "-")
