"""The look of every figure of a report, and its files: the same figure gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

# Okabe and Ito's palette without its yellow (too pale on white) and with grey for black (which a dark page swallows)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BASELINE = "#7A7A7A"
MARKERS = ("s", "^", "D", "v", "p", "<", ">")
INK, QUIET, GRID, PAGE = "#1f2328", "#59636e", "#e3e7eb", "#ffffff"
DPI = 200  # of PNG files
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.labelsize": 11, "axes.titlesize": 12, "text.color": INK,
    "axes.edgecolor": QUIET, "axes.labelcolor": INK, "xtick.color": QUIET, "ytick.color": QUIET, "axes.linewidth": 0.8,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    "figure.facecolor": PAGE, "axes.facecolor": PAGE, "savefig.facecolor": PAGE, "legend.frameon": False,
    "svg.fonttype": "path", "svg.hashsalt": "kdbench", "path.simplify": False, "text.parse_math": False,
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
}  # fmt: skip

Style = Mapping[str, tuple[str, str]]


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's own defaults and ours, whatever the user's settings are; they are put back afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def method_styles(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method, in the study's order; the student alone is grey. Distinct up to 42 others."""
    others = [method for method in methods if method != "scratch"]
    styles = {m: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, m in enumerate(others)}
    return {"scratch": (BASELINE, "o"), **styles}


def svg(figure: Figure, part: Bbox | None = None) -> str:
    """The figure, or part of it in inches, as an SVG file, its letters as paths; no date. Call it within `style`."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches=part)
    return out.getvalue()


def png(figure: Figure) -> bytes:
    """The figure as a PNG file of 200 dots per inch. Call it within `style`."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    return out.getvalue()


def pdf(figure: Figure, part: Bbox | None = None) -> bytes:
    """The figure, or part of it in inches, as a PDF file with its fonts in it; no date. Call it within `style`."""
    out = io.BytesIO()
    undated = {"CreationDate": None, "Creator": None, "Producer": None}
    figure.savefig(out, format="pdf", metadata=undated, bbox_inches=part)
    return out.getvalue()


def inline_svg(image: str) -> str:
    """The SVG as an element of an HTML page whose colours follow the page's."""
    element = image[image.index("<svg") :].rstrip().replace("<svg ", '<svg role="img" aria-hidden="true" ', 1)
    for colour, variable in ((INK, "--ink"), (QUIET, "--quiet"), (GRID, "--line"), (PAGE, "--page")):
        element = element.replace(colour, f"var({variable})")
    return element
