"""The HTML page: whole in one file, allowed by hash alone, escaped everywhere, and the same bytes every time."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from page_example import ERROR, EVIL, OTHER, QUESTION, page_of, page_results
from report_example import STUDY, final, record, resnet, trial

from kdbench.report import stats
from kdbench.report.leaderboard import Leaderboard, leaderboard
from kdbench.report.load import Results
from kdbench.report.page import own_names
from kdbench.report.page_data import NUMBERS, Shared, embedded, is_axis, page_data
from kdbench.report.page_table import leaderboard_grid, sort_value

VOID = ("meta", "link", "br", "img", "hr", "input")


class Page(HTMLParser):
    """Elements of a page with their attributes, and the text of its scripts and cells; unclosed elements are errors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.cells: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("td", "script"):
            (self.cells if tag == "td" else self.scripts).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts[-1] += data
        elif "td" in self._open:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def made() -> tuple[str, Leaderboard, Results]:
    results = page_results()
    return (*page_of(results), results)


@pytest.fixture(scope="module")
def parsed(made: tuple[str, Leaderboard, Results]) -> Page:
    return Page(made[0])


def of(*records: Any, **study: Any) -> Results:
    return Results({**STUDY, **study}, tuple(sorted(records, key=lambda r: r.key)))


def test_the_page_refers_to_nothing_outside_itself(parsed: Page) -> None:
    tags = {tag for tag, _ in parsed.elements}
    assert not {"link", "iframe", "img", "object", "embed", "base", "b>"} & tags
    for tag, attributes in parsed.elements:
        for name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith("#"), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes), "no handler in markup: the policy forbids it"


def test_every_script_is_allowed_by_its_hash_and_no_connection_is(parsed: Page) -> None:
    policy = next(str(a["content"]) for t, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'none'"
    kinds = [attributes.get("type") for tag, attributes in parsed.elements if tag == "script"]
    assert kinds == ["application/json", None, None]
    hashes = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in parsed.scripts[1:]}
    assert set(re.findall(r"'sha256-([^']+)'", rules["script-src"])) == hashes
    assert "unsafe" not in rules["script-src"]


def test_names_from_outside_are_text_in_tables_and_in_the_data(parsed: Page, made: tuple[str, Any, Any]) -> None:
    assert EVIL in parsed.cells
    assert "alert(1)" not in "".join(re.findall(r"<script>(.*?)</script>", made[0], re.DOTALL))
    data = json.loads(parsed.scripts[0])
    assert EVIL in {method["name"] for method in data["methods"]}
    assert "<" not in parsed.scripts[0]
    assert ERROR in {r["error"] for r in data["records"].values()}, "the reason of a failure is in the details"
    assert f"<title>{STUDY['study']}: kdbench leaderboard</title>" in made[0]
    assert QUESTION not in made[0]
    assert "Which &#34;method&#34; wins?&lt;/script&gt;" in made[0]
    assert "Friedman&#39;s test needs more than &lt;2&gt;." in made[0]


def test_text_in_a_json_block_cannot_end_it() -> None:
    text = {"a": 'x</script><!-- & "\u2028\u2029'}
    out = embedded(text)
    assert json.loads(out) == text
    assert not set("<>&\u2028\u2029") & set(out)


def test_seeds_of_64_bits_keep_their_digits() -> None:
    seed = 2**63 - 25
    results = of(final("kd", seed, 90.0), final("kd", 1, 91.0))
    records = page_data(results, leaderboard(results))["records"].values()
    assert str(seed) in {r["seed"] for r in records}


def test_intervals_of_the_page_are_those_of_the_table(made: tuple[str, Leaderboard, Results]) -> None:
    data, board = page_data(made[2], made[1]), made[1]
    rows = {row["id"]: row for row in data["rows"]}
    checked = 0
    for row in board.rows:
        shown = rows[row.id]["intervals"].get("test_top1_pct")
        if row.kind == "student" and row.interval.low is not None and row.interval.low != row.interval.high:
            assert shown == pytest.approx([row.interval.low, row.interval.high], abs=1e-6)
            checked += 1
    assert checked > 20
    row = next(row for row in board.rows if row.kind == "student" and len(row.scores) == 5)
    losses = [made[2].by_key[key].result["test_nll"] for key in rows[row.id]["records"]]
    interval = stats.bootstrap_interval(losses)
    assert rows[row.id]["intervals"]["test_nll"] == pytest.approx([interval.low, interval.high], abs=1e-6)
    assert "params" not in rows[row.id]["intervals"], "what does not vary has no interval"


def test_axes_are_test_results_and_costs_and_never_validation(made: tuple[str, Leaderboard, Results]) -> None:
    axes = page_data(made[2], made[1])["axes"]
    assert {"test_top1_pct", "test_nll", "test_ece_pct", "params", "size_bytes", "flops", "latency_b1_p50_ms"} <= set(
        axes
    )
    assert not [name for name in axes if name.startswith("val_")]
    assert not is_axis("val_top1_pct")
    assert not is_axis("best_epoch")
    assert is_axis("test_top1_pct")


def test_rows_measured_otherwise_are_marked_as_not_comparable(made: tuple[str, Leaderboard, Results]) -> None:
    rows = page_data(made[2], made[1])["rows"]
    odd = [row for row in rows if row["conditions"] and not row["comparable"]]
    assert odd
    assert all(row["student"] == "resnet8 x0.5" and "2 threads" in row["conditions"] for row in odd)


def test_a_row_brings_everything_that_its_details_show(made: tuple[str, Leaderboard, Results]) -> None:
    data = page_data(made[2], made[1])
    row = next(r for r in data["rows"] if r["method"] == "attention_transfer" and r["student"] == "resnet20")
    assert [data["records"][key]["status"] for key in row["records"]].count("failed") == 1
    assert len(row["records"]) == 5
    assert data["records"][row["chosen"][0]]["phase"] == "search"
    assert [data["records"][key]["phase"] for key in row["networks"]] == ["teacher"]
    assert [data["records"][key]["phase"] for key in row["latency"]] == ["latency"]
    environment = data["shared"][data["records"][row["records"][0]]["environment"]]
    assert environment["git"]["commit"].startswith("0123456789ab")
    assert data["shared"][row["config"]["model"]] == {"name": "resnet", "depth": 20, "width": 1.0}
    fitnet = next(r for r in data["rows"] if r["method"] == "fitnet")
    assert [data["records"][key]["status"] for key in fitnet["lost"]] == ["diverged"]


def test_long_curves_are_thinned_and_keep_their_last_epoch() -> None:
    curve = [float(i) for i in range(NUMBERS // 2 + 1)]
    records = [dataclasses.replace(final("kd", seed, 90.0), curves={"val_top1_pct": curve}) for seed in range(2)]
    results = of(*records)
    data = page_data(results, leaderboard(results))
    assert data["stride"] == 2
    epochs, values = data["records"][records[0].key]["curves"]["val_top1_pct"]
    assert epochs[:3] == [1, 3, 5]
    assert epochs[-1] == len(curve)
    assert values[:2] == [0, 2]
    short = of(dataclasses.replace(records[0], curves={"val_top1_pct": [1.23456789, None, float("nan")]}))
    kept = page_data(short, leaderboard(short))["records"][records[0].key]["curves"]
    assert kept == {"val_top1_pct": [1.2346, None, None]}


def test_equal_values_are_kept_once() -> None:
    shared = Shared()
    assert [shared.of({"a": 1}), shared.of({"b": 2}), shared.of({"a": 1})] == [0, 1, 0]
    assert shared.values == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("66.10", 66.1), ("0.272 M", 272000.0), ("78.0 k", 78000.0), ("0.32 MB", 320000.0), ("5.2 min", 312.0),
        ("48 s", 48.0), ("3.4 h", 12240.0), ("−0.30‡", -0.3), ("+1.25", 1.25), ("1.10†", 1.1), ("4/5", 4.0),
        ("–", None), ("", None), ("kd", None),
    ],
)  # fmt: skip
def test_cells_are_sorted_by_the_number_they_show(text: str, value: float | None) -> None:
    assert sort_value(text) == (None if value is None else pytest.approx(value))


def test_the_leaderboards_of_all_pairs_are_one_table(made: tuple[str, Leaderboard, Results]) -> None:
    _, board, results = made
    grid = leaderboard_grid(results.tables, [board.of(table) for table in results.tables])
    headings = [column.heading for column in grid.columns]
    assert headings[0] == "Pair"
    assert len(headings) == len(set(headings))
    assert "Hyper-parameters" in headings[-grid.further :]
    assert [line.row for line in grid.lines] == [row for table in results.tables for row in board.of(table)]
    assert all(len(line.cells) == len(headings) for line in grid.lines)
    other = next(line for line in grid.lines if line.table == OTHER)
    assert other.cells[0].text == "wrn40 → wrn"


def test_ids_of_drawings_do_not_meet() -> None:
    svg = '<svg><path id="a"/><use xlink:href="#a" style="clip-path: url(#a)"/></svg>'
    assert own_names(svg, "x") == '<svg><path id="x-a"/><use xlink:href="#x-a" style="clip-path: url(#x-a)"/></svg>'


def test_ids_of_the_page_are_unique(parsed: Page) -> None:
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    own = [name for name in ids if name and not name.startswith("sensitivity-") and not name.startswith("curves-")]
    assert len(own) == len(set(own))


def test_without_a_final_the_page_shows_the_search_and_no_chart() -> None:
    text, _ = page_of(of(trial("kd", 0, 0, 90.0), trial("kd", 0, 1, 91.0)))
    assert "No configuration has been retrained and tested yet" in text
    assert 'id="explorer"' not in text
    assert len(text) < 400_000, "plotly.js stays out where there is nothing to draw"
    Page(text)


def test_a_teacher_alone_has_a_page() -> None:
    teacher = record("teacher", {"name": "scratch"}, resnet(56), {}, {"test_top1_pct": 93.6})
    text, _ = page_of(of(teacher))
    assert "93.60" in text


def test_another_process_elsewhere_writes_the_same_page(made: tuple[str, Any, Any], tmp_path: Path) -> None:
    code = (
        "import hashlib; from page_example import page_of, page_results;"
        "print(hashlib.sha256(page_of(page_results())[0].encode()).hexdigest())"
    )
    surroundings = {
        **os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo",
        "LANG": "C", "LC_ALL": "C", "HOME": str(tmp_path),
    }  # fmt: skip
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, env=surroundings, cwd=tmp_path, capture_output=True, text=True
    )
    assert out.stdout.strip() == hashlib.sha256(made[0].encode()).hexdigest()
