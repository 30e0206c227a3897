"""`kdbench submit` and `kdbench leaderboard` as a person, a browser and the project's workflows use them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from typer.testing import CliRunner

import kdbench
from kdbench.cli import app
from kdbench.standings.files import NAMES

ROOT = Path(kdbench.__file__).parents[1]
WORKFLOWS = {path.name: path.read_text() for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))}
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-quic")  # fmt: skip


def submit(study: str, name: str, out: Path, *more: str) -> None:
    done = CliRunner().invoke(
        app, ["submit", str(ROOT / "results" / study), "--name", name, "--authors", "Ada Lovelace, Grace Hopper",
              "--out", str(out), *more]
    )  # fmt: skip
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def submissions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three submissions of real studies and one that was tampered with."""
    folder = tmp_path_factory.mktemp("pull") / "submissions"
    submit("digits", "Digits of Ada", folder / "ada", "--url", "https://example.org/ada")
    submit("cifar10-cpu", "CIFAR-10 on a CPU", folder / "cifar")
    submit("published-teacher", "A published teacher", folder / "published")
    shutil.copytree(folder / "ada", folder / "tampered")
    path = sorted((folder / "tampered" / "records").glob("*.json"))[0]
    path.write_text(path.read_text().replace('"wall_s": 1', '"wall_s": 2', 1))
    return folder


def test_three_real_submissions_stand_beside_one_another_and_a_tampered_one_is_refused(
    submissions: Path, tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, ["leaderboard", str(submissions), "--out", str(tmp_path), "--check"])
    assert done.exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
    said = json.loads((tmp_path / "standings.json").read_text())
    assert [made["name"] for made in said["submissions"]] == [
        "A published teacher", "CIFAR-10 on a CPU", "Digits of Ada",
    ]  # fmt: skip
    assert [table["title"] for table in said["tables"]] == [
        "resnet20 -> resnet on cifar10", "resnet56 shortcut=A -> resnet on cifar10", "cnn8 -> cnn on digits",
    ]  # fmt: skip
    assert len(said["not_ranked_together"]) == 3
    (refused,) = said["refused"]
    assert refused["place"] == "tampered" and "changed since it was packed" in refused["reason"]
    good = [str(submissions / name) for name in ("ada", "cifar", "published")]
    assert CliRunner().invoke(app, ["leaderboard", *good, "--check"]).exit_code == 0


def test_another_process_elsewhere_writes_the_same_bytes(submissions: Path, tmp_path: Path) -> None:
    moved, out, home = Path(shutil.copytree(submissions, tmp_path / "moved")), tmp_path / "out", tmp_path / "home"
    home.mkdir()
    around = {"PATH": os.environ["PATH"], "HOME": str(home), "TZ": "Asia/Tokyo", "LANG": "de_DE.UTF-8",
              "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}  # fmt: skip
    command = [sys.executable, "-m", "kdbench.cli", "leaderboard", str(moved), "--out", str(out)]
    subprocess.run(command, check=True, env=around, cwd=home, capture_output=True)
    CliRunner().invoke(app, ["leaderboard", str(submissions), "--out", str(tmp_path / "here")])
    for name in NAMES:
        assert (out / name).read_bytes() == (tmp_path / "here" / name).read_bytes(), name


def test_the_schema_is_printed_without_a_study() -> None:
    done = CliRunner().invoke(app, ["submit", "--schema"])
    assert done.exit_code == 0
    assert json.loads(done.output)["title"] == "kdbench submission"


def test_a_leaderboard_without_anything_to_do_says_so() -> None:
    done = CliRunner().invoke(app, ["leaderboard", "results/digits"])
    assert done.exit_code != 0 and "Give --out FOLDER" in str(done.exception)


def test_a_row_that_is_drawn_and_trained_again_is_no_longer_claimed(submissions: Path, tmp_path: Path) -> None:
    ada = Path(shutil.copytree(submissions / "ada", tmp_path / "ada"))
    drawn = CliRunner().invoke(app, ["leaderboard", str(ada), "--check", "--spot-check", "5m"])
    row = drawn.stdout.strip()
    assert re.fullmatch(rf"{re.escape(str(ada))}/[0-9a-f]{{8}}", row)
    into = tmp_path / "again"
    CliRunner().invoke(app, ["reproduce", row, "--seeds", "1", "--into", str(into), "--by", "Mary Somerville"])
    (ada / "reproductions").mkdir()
    shutil.copy(into / "reproduction.json", ada / "reproductions" / "mary.json")
    done = CliRunner().invoke(app, ["leaderboard", str(ada), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0 and "does not count" not in done.output, done.output
    rows = json.loads((tmp_path / "out" / "standings.json").read_text())["tables"][0]["rows"]
    status = {found["row"]: found["status"] for found in rows}[row.rpartition("/")[2]]
    # bit-equal on the kind of processor that made the records; elsewhere it has to be near
    assert status in ("verified (bit-equal)", "verified (inside interval)")


# --- the page in a browser --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(submissions: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """The page, open in headless Chromium."""
    out = tmp_path_factory.mktemp("page")
    CliRunner().invoke(app, ["leaderboard", str(submissions), "--out", str(out)])
    options = Options()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if not Path(options.binary_location).exists():
        pytest.fail('install chromium and chromium-driver, or leave these tests out: -m "not browser"', pytrace=False)
    browser = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    browser.get((out / "standings.html").as_uri())
    yield browser
    browser.quit()


def shown(page: webdriver.Chrome, board: int = 0) -> list[list[str]]:
    """Rows of a table that can be seen, as text."""
    script = """return [...document.querySelectorAll('.board')[arguments[0]].querySelectorAll('tbody tr')]
        .filter(row => row.offsetParent).map(row => [...row.cells].map(cell => cell.innerText.trim()))"""
    return page.execute_script(script, board)  # type: ignore[no-any-return]


@pytest.mark.browser
def test_a_table_is_sorted_by_click_and_by_keyboard_and_says_so(page: webdriver.Chrome) -> None:
    heading = page.find_elements(By.CSS_SELECTOR, ".board th")[5]
    button = heading.find_element(By.TAG_NAME, "button")
    button.click()
    scores = [float(row[5].split()[0]) for row in shown(page)]
    assert heading.get_attribute("aria-sort") == "ascending" and scores == sorted(scores)
    button.send_keys(Keys.ENTER)
    scores = [float(row[5].split()[0]) for row in shown(page)]
    assert heading.get_attribute("aria-sort") == "descending" and scores == sorted(scores, reverse=True)
    assert shown(page)[0][1] == "teacher"
    page.find_elements(By.CSS_SELECTOR, ".board th button")[0].click()
    assert shown(page)[-1][0] == "–", "rows without a rank stay last"


@pytest.mark.browser
def test_rows_are_filtered_by_text_status_and_rank(page: webdriver.Chrome) -> None:
    find, ranked = page.find_element(By.ID, "find"), page.find_element(By.ID, "ranked")
    find.send_keys("kd digits")
    assert [row[1] for board in range(3) for row in shown(page, board)] == ["kd"]
    assert page.find_element(By.ID, "shown").text.startswith("1 of ")
    assert "find=kd+digits" in page.current_url
    find.send_keys(Keys.CONTROL, "a")
    find.send_keys(Keys.DELETE)
    ranked.click()
    assert all(row[0].isdigit() for board in range(3) for row in shown(page, board))
    ranked.click()
    page.execute_script("const s = document.getElementById('status'); s.value = 'not reproduced';"
                        "s.dispatchEvent(new Event('input', {bubbles: true}))")  # fmt: skip
    assert [row for board in range(3) for row in shown(page, board)] == []
    page.execute_script("const s = document.getElementById('status'); s.value = '';"
                        "s.dispatchEvent(new Event('input', {bubbles: true}))")  # fmt: skip


@pytest.mark.browser
def test_the_page_has_a_dark_and_a_light_form_and_fits_a_phone(page: webdriver.Chrome) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"
    before = page.execute_script(colour)
    page.find_element(By.ID, "theme").click()
    assert page.execute_script(colour) != before
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    )
    assert page.execute_script("return document.documentElement.scrollWidth") <= 360
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.browser
def test_the_page_has_no_errors_and_asks_the_network_for_nothing(page: webdriver.Chrome) -> None:
    assert page.get_log("browser") == []
    sent = [json.loads(line["message"])["message"] for line in page.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    assert any(url.endswith("standings.html") for url in asked), "the log is the one of this page"
    assert [url for url in asked if url.startswith(("http", "ws"))] == []


# --- the workflows ----------------------------------------------------------------------------------------------------


def problems(text: str) -> list[str]:
    """What a workflow must not have: rights, secrets, actions that can change, and text of a stranger in a script."""
    flow = yaml.safe_load(text)
    found = []
    if flow.get("permissions") != {"contents": "read"} or any("permissions" in job for job in flow["jobs"].values()):
        found.append("permissions")
    if "secrets." in text or "github.token" in text:
        found.append("secrets")
    if "pull_request_target" in flow[True] or "workflow_run" in flow[True]:  # YAML 1.1 reads `on` as true
        found.append("trigger")
    steps = [step for job in flow["jobs"].values() for step in job["steps"]]
    for step in steps:
        if "uses" in step and not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]):
            found.append(f"unpinned {step['uses']}")
        if "checkout" in step.get("uses", "") and step.get("with", {}).get("persist-credentials") is not False:
            found.append("credentials")
        if "${{" in step.get("run", ""):
            found.append(f"interpolated: {step['name']}")
    return found


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_is_pinned_and_has_no_more_rights_than_it_needs(name: str) -> None:
    assert problems(WORKFLOWS[name]) == []
    assert all("timeout-minutes" in job for job in yaml.safe_load(WORKFLOWS[name])["jobs"].values())


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("contents: read", "contents: write", "permissions"),
        ("  pull_request:", "  pull_request_target:", "trigger"),
        ("@11bd71901bbe5b1630ceea73d27597364c9af683", "@v4", "unpinned actions/checkout@v4"),
        ("persist-credentials: false", "persist-credentials: true", "credentials"),
        ("git -C proposed", "echo ${{ github.event.pull_request.title }}", "interpolated: Only submissions change"),
        ("group: submission-", "group: ${{ secrets.TOKEN }}", "secrets"),
    ],
)
def test_a_workflow_with_more_is_noticed(old: str, new: str, problem: str) -> None:
    text = WORKFLOWS["submission.yml"]
    assert old in text
    assert problem in problems(text.replace(old, new))


def scripts(name: str) -> Iterator[tuple[str, str]]:
    for job in yaml.safe_load(WORKFLOWS[name])["jobs"].values():
        yield from ((step.get("name", ""), step["run"]) for step in job["steps"] if "run" in step)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_scripts_of_a_workflow_are_bash_and_their_kdbench_commands_exist(name: str) -> None:
    commands = typer.main.get_command(app)
    for _, script in scripts(name):
        subprocess.run(["bash", "-n", "-c", script], check=True)
        for line in re.findall(r"^\s*kdbench (.*)$", script.replace("\\\n", " "), re.M):
            words = shlex.split(line.split(">")[0].split("<")[0].replace('"${folders[@]}"', "a b"))
            command, found, rest = commands.resolve_command(commands.make_context("kdbench", words), words)
            found.make_context(command, rest, resilient_parsing=False)


def test_ci_runs_what_a_person_runs_on_every_supported_python() -> None:
    job = yaml.safe_load(WORKFLOWS["ci.yml"])["jobs"]["test"]
    lines = "\n".join(script for _, script in scripts("ci.yml"))
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert "make test" in lines and "chromium chromium-driver" in lines


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", *identity, "-C", str(folder), *words], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("path", "status", "folders"),
    [
        ("submissions/ada/submission.json", 0, "proposed/submissions/ada\n"),
        ("kdbench/record.py", 1, None),
        ("submissions/$(touch hacked)/submission.json", 1, None),
        ("submissions/README.md", 1, None),
    ],
)
def test_a_pull_request_may_change_submissions_alone(
    path: str, status: int, folders: str | None, tmp_path: Path
) -> None:
    repository = tmp_path / "proposed"
    repository.mkdir()
    git(repository, "init", "--quiet")
    git(repository, "commit", "--allow-empty", "--message", "base")
    (repository / path).parent.mkdir(parents=True)
    (repository / path).write_text("{}")
    git(repository, "add", "--all")
    git(repository, "commit", "--message", "proposed")
    script = dict(scripts("submission.yml"))["Only submissions change"]
    done = subprocess.run(["bash", "-eo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert not (tmp_path / "hacked").exists()
    assert folders is None or (tmp_path / "folders.txt").read_text() == folders


def test_the_example_of_the_documentation_is_a_submission(submissions: Path) -> None:
    text = (ROOT / "docs" / "leaderboard.md").read_text()
    made: dict[str, Any] = json.loads((submissions / "ada" / "submission.json").read_text())
    assert all(f"`{field}`" in text for field in made), "every field is explained"
