"""Programs in the documents run and print what the page says; the tutorial is done as a reader does it.

KDBENCH_UPDATE_DOCUMENTS=1 writes what they print into the page, where results were made anew: read the difference.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_documents import README, ROOT, blocks, completed, own_files, shell_lines, words_after_kdbench
from typer.testing import CliRunner

import kdbench
from kdbench.cli import app
from kdbench.study.load import load_study
from kdbench.study.schema import Study

__all__ = ["own_files"]  # a fixture

FOOTGUNS, TUTORIAL = "docs/footguns.md", "docs/tutorial.md"
PAGES = ("docs/cluster.md", "docs/distributed.md", "docs/mlflow.md", "docs/when-things-go-wrong.md")
PROGRAM = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.M | re.S)
NOT_RUN = "Not run by kdbench's tests"
SMALL = (
    "train.epochs=1", "teacher.epochs=1", "search.trials=1", "final.seeds=1", "resources.executor=local",
    "track.mlflow=off",
)  # fmt: skip
QUICK = [word for setting in SMALL for word in ("--set", setting)]


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def printed(code: str, folder: Path, file: Path) -> str:
    """What a program prints, run in this process and in a folder. file: where it is written to be run."""
    file.write_text(code, "utf-8")
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.chdir(folder):
        runpy.run_path(str(file), run_name="__main__")
    return out.getvalue()


PROGRAMS = [(code, said) for code, said in PROGRAM.findall(text_of(FOOTGUNS))]


def test_every_program_about_footguns_is_followed_by_what_it_prints() -> None:
    assert len(PROGRAMS) == len(blocks("python", text_of(FOOTGUNS))) >= 6


@pytest.mark.parametrize(("code", "said"), PROGRAMS)
def test_a_program_about_footguns_prints_what_the_page_says(code: str, said: str, tmp_path: Path) -> None:
    found = printed(code, ROOT, tmp_path / "program.py")
    if os.environ.get("KDBENCH_UPDATE_DOCUMENTS") and found != said:
        text = text_of(FOOTGUNS)
        old, new = (f"{code}```\n\n```text\n{part}```" for part in (said, found))
        (ROOT / FOOTGUNS).write_text(text.replace(old, new), "utf-8")
        said = found
    assert found == said


def sections(text: str) -> dict[str, str]:
    return {part.split("\n")[0]: part for part in text.split("\n## ")[1:]}


@pytest.mark.parametrize("title", sections(text_of(FOOTGUNS)))
def test_every_footgun_has_a_number_and_what_kdbench_does(title: str) -> None:
    part = sections(text_of(FOOTGUNS))[title]
    assert re.search(r"\d", part) and "*kdbench*: " in part


# --- the tutorial -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder with the study file that the reader is told to write."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "first.yaml").write_text(blocks("yaml", text_of(TUTORIAL))[0])
    with contextlib.chdir(folder):
        yield folder


def done(line: str) -> str:
    """Run one command of the tutorial, with the study made small; return what it printed."""
    words = words_after_kdbench(line)
    assert words is not None, f"{line}: the tutorial needs kdbench alone"
    result = CliRunner().invoke(app, [*words, *(QUICK if words[0] == "run" else [])])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


@pytest.mark.slow  # 23 trainings of one epoch, and a report
def test_the_tutorial_can_be_done_and_ends_in_a_figure(desk: Path) -> None:
    text = text_of(TUTORIAL)
    lines = [line for block in blocks("sh", text) if not is_marked(text, block) for line in block.splitlines()]
    for line in lines:
        if words_after_kdbench(line) is not None:
            done(line)
    figure = desk / "results" / "first" / "pareto.png"
    assert figure.read_bytes().startswith(b"\x89PNG") and figure.stat().st_size > 10_000
    rows = (desk / "results" / "first" / "leaderboard.csv").read_text().splitlines()
    assert len(rows) == 1 + 1 + 9, "heading, teacher, three methods in three sizes"
    [program] = blocks("python", text)
    assert "params" in printed(program, desk, desk / "front.py"), "the reader sees the rows of the front"


# --- pages about machines ---------------------------------------------------------------------------------------------


def is_marked(text: str, block: str) -> bool:
    """Whether the sentence above a block says that no test runs it."""
    before = text[: text.index(block)].rsplit("```", 1)[0].rstrip()
    return NOT_RUN in before.rsplit("\n\n", 1)[-1]


def commands_of(page: str) -> list[str]:
    text = text_of(page)
    return blocks("sh", text) + blocks("bash", text)


@pytest.mark.parametrize("page", [*PAGES, TUTORIAL])
def test_a_block_of_commands_is_run_or_says_that_it_is_not(page: str) -> None:
    text = text_of(page)
    for block in commands_of(page):
        runs = page == TUTORIAL and all(words_after_kdbench(line) for line in block.splitlines() if line.strip())
        assert runs or is_marked(text, block), f"{page}: neither run nor marked as not run:\n{block}"


def test_a_block_that_is_neither_run_nor_marked_is_noticed() -> None:
    page = (
        f"Text.\n\n{NOT_RUN}: it needs a server.\n\n```sh\nmlflow server\n```\n\nMore text.\n\n```sh\nray start\n```\n"
    )
    assert [is_marked(page, block) for block in blocks("sh", page)] == [True, False]


@pytest.mark.parametrize("block", [block for page in PAGES for block in commands_of(page)])
def test_commands_of_the_pages_about_machines_are_sound_bash(block: str) -> None:
    done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


PARTS = [
    (page, part)
    for page in PAGES
    for part in blocks("yaml", text_of(page))
    if set(yaml.safe_load(part)) <= set(Study.model_fields)
]


def test_the_pages_about_machines_show_parts_of_studies() -> None:
    assert {"docs/cluster.md", "docs/distributed.md", "docs/mlflow.md"} == {page for page, _ in PARTS}


@pytest.mark.parametrize(("page", "part"), PARTS)
def test_a_part_of_a_study_on_such_a_page_is_right(page: str, part: str, own_files: Path) -> None:
    study = own_files / "study.yaml"
    study.write_text(yaml.safe_dump(completed(yaml.safe_load(part)), sort_keys=False))
    assert load_study(study).study == "cifar10"


def manifests() -> list[Any]:
    return [
        found for part in blocks("yaml", text_of("docs/cluster.md")) if "apiVersion" in (found := yaml.safe_load(part))
    ]


def test_the_job_for_kubernetes_runs_a_command_that_parses() -> None:
    from test_documents import parse

    [job] = manifests()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    parse(words_after_kdbench(job["spec"]["entrypoint"]) or [])


def test_the_page_about_clusters_says_what_was_tried_and_what_was_not() -> None:
    section = sections(text_of("docs/cluster.md"))["What has been tried"]
    for word in ("Slurm", "KubeRay", "S3", "network namespaces", "not tried"):
        assert word in section


# --- the way in -------------------------------------------------------------------------------------------------------


def test_the_citation_file_has_the_version_and_the_licence_of_the_package() -> None:
    cited = yaml.safe_load(text_of("CITATION.cff"))
    assert (cited["version"], cited["license"], cited["type"]) == (kdbench.__version__, "MIT", "software")
    assert cited["title"] in README


def test_every_page_is_in_the_navigation_of_the_site_and_linked_from_its_first_page() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    listed = set(re.findall(r"^ +- (?:\w+: )?([\w/-]+\.md)$", text_of("mkdocs.yml"), re.M))
    assert pages <= listed
    linked = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text_of("docs/index.md"))}
    assert pages - {"index.md"} <= linked


def test_the_readme_links_every_page() -> None:
    missing = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - set(re.findall(r"\]\(([^)#]+)", README))
    assert missing - {"docs/index.md"} == set()


def test_the_site_is_built_by_make_and_by_ci() -> None:
    assert re.search(r"^docs:", text_of("Makefile"), re.M)
    assert any("make docs" in path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    assert shlex.split(next(line for line in shell_lines(text_of("CONTRIBUTING.md")) if "docs" in line)) == [
        "make",
        "docs",
    ]
