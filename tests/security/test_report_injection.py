"""A report of results that somebody else wrote: hostile names are shown in every format and obeyed in none."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from secret_run import Ran

from kdbench.record import TrialSpec
from kdbench.report import summary, write_report

pytestmark = pytest.mark.slow  # a real study and its whole report

NAMES = {
    "script": "<script>alert(1)</script>",
    "image": '"><img src=x onerror=alert(1)>',
    "attribute": "x' onmouseover='alert(1)' \" onfocus=\"alert(1)",
    "end of script": "</script><script>alert(1)//",
    "comment": "--><svg/onload=alert(1)><!--",
    "template": "{{ 7*7 }}{% raw %}<< 7*7 >>",
    "latex": r"\input{/etc/passwd}\write18{touch ran}%",
    "formula": '=HYPERLINK("http://example.org","click")',
    "formula after space": " \t@SUM(1+1)*cmd|' /C calc'!A0",
    "minus": "-2+3+cmd|' /C calc'!A0",
    "pipes": "|x| a | b |",
    "link": "[click](javascript:alert(1))",
    "lines": "a\n\n# heading\n| b |",
}


class Page(HTMLParser):
    """What a browser would find in a page: tags with their attributes, and what scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.scripts.append(data)


PAIR = 'a <script>alert(1)</script> -> "|b|" onload=alert(1)'


def forged(ran: Ran, folder: Path) -> Path:
    """The results of the run, with the row `kd` once under each hostile name, in a hostile pair, and fitting keys."""
    study = folder / "small"
    (study / "records").mkdir(parents=True)
    for path in sorted((ran.folder / "records").glob("*.json")):
        text = path.read_text()
        value = json.loads(text)
        if value["spec"]["method"].get("name") != "kd":
            (study / "records" / path.name).write_text(text)
            continue
        for name in NAMES.values():
            value = json.loads(text)
            value.pop("checksum", None)  # as older records have none
            if value["spec"]["phase"] != "latency":  # which belongs to a network, not to a row
                value["spec"]["slot"] |= {"row": name, "pair": PAIR}
                value["status"], value["error"] = (
                    ("failed", name) if name == NAMES["lines"] else (value["status"], None)
                )
            value["key"] = TrialSpec.from_json(value["spec"]).key
            (study / "records" / f"{value['key']}.json").write_text(json.dumps(value))
    facts = json.loads((ran.folder / "study.json").read_text())
    (study / "study.json").write_text(json.dumps({**facts, "question": " ".join(NAMES.values())}))
    return study


@pytest.fixture(scope="module")
def report(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of the report, and its short form for a terminal."""
    folder = forged(ran, tmp_path_factory.mktemp("forged"))
    write_report(folder)
    return folder, summary(folder)


def test_html_shows_the_name_and_runs_nothing(report: tuple[Path, str]) -> None:
    folder, _ = report
    pages = [*folder.glob("*.html"), *folder.glob("*.svg")]
    assert pages
    for path in pages:
        page = Page(path.read_text())
        for tag, attributes in page.tags:
            assert not [a for a in attributes if a.startswith("on")], f"{path.name}: <{tag} {attributes}>"
            assert not any((value or "").strip().lower().startswith("javascript:") for value in attributes.values())
            assert attributes.get("src") != "x"
        assert not any(script.strip().startswith("alert(1)") for script in page.scripts), path.name
        assert "<script>alert" not in path.read_text() and "<svg/onload" not in path.read_text()


def test_latex_prints_the_name_and_runs_no_command_of_it(report: tuple[Path, str]) -> None:
    folder, _ = report
    files = list(folder.rglob("*.tex"))
    assert files
    for path in files:
        assert not re.search(
            r"\\(input|include|write18|immediate|openin|catcode)\b\s*\{?/?(etc|touch)", path.read_text()
        )


def test_csv_has_no_cell_that_a_spreadsheet_would_run(report: tuple[Path, str]) -> None:
    folder, _ = report
    files = list(folder.rglob("*.csv"))
    assert files
    for path in files:
        with path.open(newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        bad = [
            c
            for c in cells
            if c.lstrip()[:1] in ("=", "+", "-", "@", "\t") and not re.fullmatch(r"[-+][\d.e+-]+|[-–]", c)
        ]
        assert bad == [], path.name


def test_markdown_tables_keep_their_columns_and_links_are_text(report: tuple[Path, str]) -> None:
    folder, _ = report
    files = list(folder.glob("*.md"))
    assert files
    for path in files:
        text = path.read_text()
        assert not re.search(r"(?<!\\)\]\(javascript:", text) and "\n# heading" not in text and "<script>" not in text
        columns = None
        for line in text.splitlines():
            if not line.startswith("|"):
                columns = None
                continue
            now = len(re.findall(r"(?<!\\)\|", line))
            assert columns in (None, now), f"{path.name}: {line}"
            columns = now


def test_the_hostile_names_are_there_at_all(report: tuple[Path, str]) -> None:
    folder, said = report
    with (folder / "leaderboard.csv").open(newline="") as file:
        cells = {" ".join(cell.split()) for row in csv.reader(file) for cell in row}
    for name in NAMES.values():
        assert any(" ".join(name.split())[:8] in cell for cell in cells), name
    assert "<script>alert(1)</script>" in said, "plain text needs no escaping"
