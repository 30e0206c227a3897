"""What the documents say is so: commands parse, files exist, examples run."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

import kdbench
import kdbench.methods
from kdbench.cli import app
from kdbench.errors import KdbenchError
from kdbench.labels import literature_name
from kdbench.method import Method, methods
from kdbench.report.files import NAMES
from kdbench.study.load import load_study
from kdbench.study.network_sections import model_of
from kdbench.study.rows import RESERVED
from kdbench.study.schema import Network, Study, Train
from kdbench.testing import check_method

ROOT = Path(kdbench.__file__).parents[1]
DOCUMENTS = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/methods.md", "docs/schemes.md", "docs/report.md",
    "docs/trace.md", "docs/speed.md", "docs/leaderboard.md", "docs/tutorial.md", "docs/footguns.md", "docs/cluster.md",
    "docs/distributed.md", "docs/mlflow.md", "docs/when-things-go-wrong.md", "docs/index.md", "SECURITY.md",
    "tests/golden/README.md",
)  # fmt: skip
TEXT = {name: (ROOT / name).read_text() for name in DOCUMENTS}
README, METHODS, SCHEMES = TEXT["README.md"], TEXT["docs/methods.md"], TEXT["docs/schemes.md"]
EXAMPLE = "kdbench/methods/logit_correlation.py"  # what the reader of the README is told to write
STORED = {
    "records/", "study.yaml", "study.json", "current.json", "splits.json", "weights/", "mlflow.db", "mlartifacts/",
}  # fmt: skip
COMMANDS = typer.main.get_command(app)


def blocks(language: str, text: str) -> list[str]:
    """Contents of the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def shell_lines(text: str) -> list[str]:
    """Every command of the shell blocks; what a backslash continues is one line."""
    whole = (re.sub(r"\\\n\s*", "", block) for block in blocks("sh", text))
    return [line for block in whole for line in block.splitlines() if line.strip() and not line.startswith("#")]


def words_after_kdbench(line: str) -> list[str] | None:
    """Arguments of a `kdbench` command, or None for another program; settings of the environment may stand before."""
    words = shlex.split(line, comments=True)
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
def test_a_command_in_a_document_parses(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.plugins.name_files", lambda paths: None)  # files that the reader has written
    parse(words_after_kdbench(line) or [])


@pytest.mark.parametrize("line", ["kdbench run", "kdbench run studies/digits.yaml --bugdet 2h", "kdbench rnu"])
def test_a_command_that_does_not_parse_is_noticed(line: str) -> None:
    with pytest.raises(Exception, match=r"Missing parameter: study_file|No such option|No such command"):
        parse(words_after_kdbench(line) or [])


def test_the_readme_shows_commands() -> None:
    assert len(kdbench_commands()) > 10


def test_the_table_of_commands_lists_every_command() -> None:
    listed = re.findall(r"^\| `kdbench ([\w-]+)` \|", README, re.M)
    assert sorted(listed) == sorted(COMMANDS.commands)


@pytest.mark.parametrize("line", [line for text in TEXT.values() for line in shell_lines(text) if "make " in line])
def test_a_make_target_in_a_document_exists(line: str) -> None:
    target = shlex.split(line)[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def files_named(text: str, folder: str = ".") -> set[str]:
    """Paths inside this repository that a text in a folder of it names; what a study writes is not meant."""
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("https://")}
    words = re.findall(r"[\w./*-]+", re.sub(r"\]\([^)]*\)", "]", text))
    inside = {w.rstrip(".") for w in words if re.match(r"(studies|kdbench|tests|benchmarks|\.ci)/\w", w)}
    top = {w for w in words if re.fullmatch(r"(Makefile|LICENSE|dvc\.yaml|\w+\.toml|[A-Z]+\.md|constraints\.txt)", w)}
    return inside | top | {os.path.normpath(os.path.join(folder, link)) for link in links}  # noqa: PTH118


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_that_a_document_names_exists(name: str) -> None:
    named = files_named(TEXT[name], str(Path(name).parent)) - {EXAMPLE}
    assert [path for path in sorted(named) if not list(ROOT.glob(path))] == []


def test_a_file_that_does_not_exist_is_noticed() -> None:
    assert files_named("see `studies/none.yaml`, [here](NONE.md), and results/x/leaderboard.csv.") == {
        "studies/none.yaml", "NONE.md",
    }  # fmt: skip
    assert files_named("[class](../kdbench/methods/none.py)", "docs") == {"kdbench/methods/none.py"}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_within_a_document_lead_to_headings(name: str) -> None:
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", TEXT[name], re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT[name])) - headings == set()


def test_what_comes_out_lists_every_file_of_a_study() -> None:
    section = README.split("## What comes out")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.M)
    assert {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)} == set(NAMES) | STORED


def test_the_study_of_the_readme_is_the_headline_study(tmp_path: Path) -> None:
    block = blocks("yaml", README)[0]
    assert yaml.safe_load(block) == yaml.safe_load((ROOT / "studies" / "cifar10.yaml").read_text())
    path = tmp_path / "study.yaml"
    path.write_text(block)
    assert load_study(path) == load_study(ROOT / "studies" / "cifar10.yaml")


def test_the_table_of_sections_names_every_section_of_the_study() -> None:
    section = README.split("## The study file")[1].split("\n## ")[0]
    named = {name for cell in re.findall(r"^\| (`.*?) \|", section, re.M) for name in re.findall(r"`(\w+)`", cell)}
    assert named == set(Study.model_fields)


PARTS = blocks("yaml", README)[1:]  # of study files: what a study has otherwise is that of the headline study


@pytest.fixture
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a user that the README speaks of, where kdbench runs."""
    monkeypatch.chdir(tmp_path)
    for number in range(20):
        for name in ("cats", "dogs"):
            path = tmp_path / "photos" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")  # which nobody opens to check a study
    rows = "".join(f"{number}.5,{number},{('healthy', 'sick')[number % 2]}\n" for number in range(40))
    (tmp_path / "patients.csv").write_text(f"age,weight,diagnosis\n{rows}")
    (tmp_path / "teachers").mkdir()
    (tmp_path / "teachers" / "resnet56-4bfd9763.th").write_bytes(b"")
    return tmp_path


def completed(part: dict[str, Any]) -> dict[str, Any]:
    """A study with the sections of a part, and the others as in the headline study, as far as they fit."""
    whole = yaml.safe_load(blocks("yaml", README)[0]) | part
    for section in ("teacher", "student") if "pairs" in part else ():
        del whole[section]
    if "data" in part:  # the source task and its methods are of other images
        whole["methods"] = {"scratch": None, "kd": None}
        del whole["source"]
    return whole


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_a_study_in_the_readme_is_right(part: str, own_files: Path) -> None:
    study = own_files / "study.yaml"
    study.write_text(yaml.safe_dump(completed(yaml.safe_load(part)), sort_keys=False))
    assert load_study(study).study == "cifar10"


def test_the_readme_shows_parts_of_studies() -> None:
    shown = set().union(*(yaml.safe_load(part) for part in PARTS))
    assert {"networks", "methods", "pairs", "teacher", "data"} <= shown


def test_a_part_that_is_wrong_is_noticed(own_files: Path) -> None:
    study = own_files / "study.yaml"
    study.write_text(
        yaml.safe_dump(completed({"networks": {"assistant": {"model": "resnet", "method": "kd", "teacher": "nobody"}}}))
    )
    with pytest.raises(KdbenchError, match="nobody"):
        load_study(study)


def test_the_blocks_about_schemes_are_the_study_of_schemes(tmp_path: Path) -> None:
    joined: dict[str, Any] = {"networks": {}, "methods": {}}
    for block in blocks("yaml", SCHEMES):
        for section, content in yaml.safe_load(block).items():
            assert section not in joined or section in ("networks", "methods"), f"{section} is written twice"
            joined[section] = joined.get(section, {}) | content if isinstance(content, dict) else content
    assert joined == yaml.safe_load((ROOT / "studies" / "schemes.yaml").read_text())
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(joined, sort_keys=False))
    assert load_study(study) == load_study(ROOT / "studies" / "schemes.yaml")


def test_the_page_about_schemes_names_every_field_of_a_network_and_every_word_of_a_row() -> None:
    section = SCHEMES.split("## Networks and rows")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.M)
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert named - {"train"} == (set(Network.model_fields) - set(Train.model_fields)) | set(RESERVED)


def own_methods() -> list[str]:
    """The methods of kdbench itself, whatever else a test has registered."""
    return sorted(name for name in methods.names() if methods.get(name).__module__.startswith("kdbench.methods"))


def families_of_the_readme() -> dict[str, list[str]]:
    section = README.split("## The methods")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([A-Z][\w ]+) \| (`.*`) \|$", section, re.M)
    return {family: re.findall(r"`(\w+)`", cell) for family, cell in rows}


def test_the_table_of_methods_lists_every_method_once() -> None:
    assert sorted(name for names in families_of_the_readme().values() for name in names) == own_methods()


def test_the_page_about_methods_says_something_of_every_method_of_a_family() -> None:
    sections = {part.split("\n")[0]: part for part in METHODS.split("\n## ")[1:]}
    assert list(sections) == list(families_of_the_readme())
    for family, names in families_of_the_readme().items():
        described = re.findall(r"^- \[(\w+)\]\(\.\./kdbench/methods/(\w+)\.py\): \S", sections[family], re.M)
        assert sorted(described) == sorted((name, name) for name in names), family


def test_the_table_of_the_contract_names_every_part_of_it() -> None:
    section = TEXT["CONTRIBUTING.md"].split("## A method")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.M)
    named = {name for cell in cells for name in re.findall(r"`(\w+)", cell)}
    parts = {
        name for name, value in vars(Method).items() if not name.startswith("_") and not isinstance(value, property)
    }
    assert named == parts - {"name", "loss"}


def test_the_table_of_floors_names_every_module() -> None:
    section = TEXT["CONTRIBUTING.md"].split("## Where things are")[1].split("\n## ")[0]
    rows = re.findall(r"^\| [a-z].* \| (`.*`) \|$", section, re.M)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    there = {
        path.stem for path in (ROOT / "kdbench").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(named) == sorted(there - {"__init__"})


def test_the_models_of_the_readme_have_the_names_of_the_literature() -> None:
    section = README.split("## The models")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([\w-]+).* \| `(\{.*\})` \|$", section, re.M)
    assert len(rows) == section.count("\n| ") - 1, "all lines of the table but its heading"
    for name, written in rows:
        sizes = yaml.safe_load(written)
        assert str(literature_name(model_of(sizes.pop("model"), sizes))).lower() == name.lower()


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Method]]:
    """The method of the README, found by the registry as a file among kdbench's own, and forgotten afterwards."""
    methods.discover()
    [block] = blocks("python", README)
    (tmp_path / Path(EXAMPLE).name).write_text(block)
    monkeypatch.setattr(kdbench.methods, "__path__", [*kdbench.methods.__path__, str(tmp_path)])
    monkeypatch.setattr(methods, "_entries", dict(methods._entries))
    monkeypatch.setattr(methods, "_built_in", False)
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
    missing = [name for name in [*own_methods(), *COMMANDS.commands] if f"`{name}`" not in TEXT["CHANGELOG.md"]]
    assert missing == []
