"""What the documents say is so: commands parse, files exist, examples run."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

import kdbench
import kdbench.methods
from kdbench.cli import app
from kdbench.method import Method, methods
from kdbench.report.files import NAMES
from kdbench.study.load import load_study
from kdbench.testing import check_method

ROOT = Path(kdbench.__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
TEXT = {name: (ROOT / name).read_text() for name in DOCUMENTS}
README = TEXT["README.md"]
EXAMPLE = "kdbench/methods/logit_correlation.py"  # what the reader of the README is told to write
STORED = {
    "records/", "study.yaml", "study.json", "current.json", "splits.json", "weights/", "mlflow.db", "mlartifacts/",
}  # fmt: skip
COMMANDS = typer.main.get_command(app)


def blocks(language: str, text: str) -> list[str]:
    """Contents of the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def shell_lines(text: str) -> list[str]:
    """Every command of the shell blocks."""
    return [line for block in blocks("sh", text) for line in block.splitlines() if line.strip()]


def words_after_kdbench(line: str) -> list[str] | None:
    """Arguments of a `kdbench` command, or None for another program; settings of the environment may stand before."""
    words = shlex.split(line)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words[1:] if words and words[0] == "kdbench" else None


def parse(words: list[str]) -> None:
    """Parse a command line without running it. Raise click's UsageError where it is wrong."""
    name, command, rest = COMMANDS.resolve_command(COMMANDS.make_context("kdbench", words), words)
    command.make_context(name, rest, resilient_parsing=False)


def kdbench_commands() -> list[str]:
    return [line for text in TEXT.values() for line in shell_lines(text) if words_after_kdbench(line) is not None]


@pytest.mark.parametrize("line", kdbench_commands())
def test_a_command_in_a_document_parses(line: str) -> None:
    parse(words_after_kdbench(line) or [])


@pytest.mark.parametrize("line", ["kdbench run", "kdbench run studies/digits.yaml --bugdet 2h", "kdbench rnu"])
def test_a_command_that_does_not_parse_is_noticed(line: str) -> None:
    with pytest.raises(Exception, match=r"Missing parameter: study_file|No such option|No such command"):
        parse(words_after_kdbench(line) or [])


def test_the_readme_shows_commands() -> None:
    assert len(kdbench_commands()) > 10


def test_the_table_of_commands_lists_every_command() -> None:
    listed = re.findall(r"^\| `kdbench (\w+)` \|", README, re.M)
    assert sorted(listed) == sorted(COMMANDS.commands)


@pytest.mark.parametrize("line", [line for text in TEXT.values() for line in shell_lines(text) if "make " in line])
def test_a_make_target_in_a_document_exists(line: str) -> None:
    target = shlex.split(line)[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def files_named(text: str) -> set[str]:
    """Paths inside this repository that a text names; what a study writes is not meant."""
    words = re.findall(r"[\w./-]+", text)
    inside = {w.rstrip(".") for w in words if re.match(r"(studies|kdbench|tests|benchmarks|\.ci)/\w", w)}
    top = {w for w in words if re.fullmatch(r"(Makefile|LICENSE|dvc\.yaml|\w+\.toml|[A-Z]+\.md|constraints\.txt)", w)}
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("https://")}
    return inside | top | links


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_that_a_document_names_exists(name: str) -> None:
    assert [path for path in sorted(files_named(TEXT[name]) - {EXAMPLE}) if not (ROOT / path).exists()] == []


def test_a_file_that_does_not_exist_is_noticed() -> None:
    assert files_named("see `studies/none.yaml`, [here](NONE.md), and results/x/leaderboard.csv.") == {
        "studies/none.yaml", "NONE.md",
    }  # fmt: skip


def test_links_within_the_readme_lead_to_headings() -> None:
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", README, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) - headings == set()


def test_what_comes_out_lists_every_file_of_a_study() -> None:
    section = README.split("## What comes out")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.M)
    assert {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)} == set(NAMES) | STORED


def test_the_study_of_the_readme_is_the_headline_study(tmp_path: Path) -> None:
    [block] = blocks("yaml", README)
    assert yaml.safe_load(block) == yaml.safe_load((ROOT / "studies" / "cifar10.yaml").read_text())
    path = tmp_path / "study.yaml"
    path.write_text(block)
    assert load_study(path) == load_study(ROOT / "studies" / "cifar10.yaml")


def test_the_table_of_sections_names_every_section_of_the_study() -> None:
    section = README.split("## The study file")[1].split("\n## ")[0]
    named = {name for cell in re.findall(r"^\| (`.*?) \|", section, re.M) for name in re.findall(r"`(\w+)`", cell)}
    assert named == set(yaml.safe_load(blocks("yaml", README)[0]))


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Method]]:
    """The method of the README, found by the registry as a file among kdbench's own, and forgotten afterwards."""
    methods.discover()
    [block] = blocks("python", README)
    (tmp_path / Path(EXAMPLE).name).write_text(block)
    monkeypatch.setattr(kdbench.methods, "__path__", [*kdbench.methods.__path__, str(tmp_path)])
    monkeypatch.setattr(methods, "_entries", dict(methods._entries))
    monkeypatch.setattr(methods, "_discovered", False)
    yield methods.get("logit_correlation")
    del sys.modules["kdbench.methods.logit_correlation"]


def test_the_method_of_the_readme_passes_every_check(example: type[Method]) -> None:
    check_method(example)


def test_the_method_of_the_readme_takes_part_without_another_edit(example: type[Method]) -> None:
    runner = CliRunner()
    listing = runner.invoke(app, ["methods"]).output
    assert "logit_correlation: Match how the teacher orders and spaces the classes" in listing
    assert "beta = 1.0, searched in" in listing
    assert "logit_correlation" in runner.invoke(app, ["schema"]).output
    [line] = [line for line in shell_lines(README) if "logit_correlation=" in line]
    words = words_after_kdbench(line) or []
    done = runner.invoke(app, ["validate", *words[1:]])
    assert "studies/digits.yaml: ok" in done.output, done.output


def test_the_readme_has_one_place_for_the_table() -> None:
    assert README.count("<!-- table:begin -->") == README.count("<!-- table:end -->") == 1
    section = README.split("## A real table")[1].split("\n## ")[0]
    assert section.index("<!-- table:begin -->") < section.index("<!-- table:end -->")


def test_the_citation_has_the_version_of_the_package() -> None:
    assert f"version = {{{kdbench.__version__}}}" in README


def test_the_changelog_has_the_sections_that_are_agreed() -> None:
    assert "## [Unreleased]" in TEXT["CHANGELOG.md"]
    sections = set(re.findall(r"^### (.*)$", TEXT["CHANGELOG.md"], re.M))
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Results affected"}


def test_the_changelog_lists_every_method_and_command() -> None:
    known = [name for name in methods.names() if methods.get(name).__module__.startswith("kdbench.methods")]
    missing = [name for name in [*known, *COMMANDS.commands] if f"`{name}`" not in TEXT["CHANGELOG.md"]]
    assert missing == []
