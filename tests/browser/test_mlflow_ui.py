"""A mirrored study in MLflow's own pages, driven in headless Chromium as a user does: table, charts, Compare.

The study is that of results/digits, as far as three methods, their teacher and their latencies go. With
KDBENCH_SCREENSHOTS=FOLDER the pages that docs/ shows are written there as PNG.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

import kdbench
from kdbench.record import TrialRecord
from kdbench.status import read_only
from kdbench.track.mirror import Mirror
from kdbench.track.mlflow import default_uri
from kdbench.track.publish import publish
from kdbench.track.server import running, runs_url

pytestmark = [pytest.mark.browser, pytest.mark.slow]  # the server takes five seconds to start, each page two

DIGITS = Path(kdbench.__file__).parents[1] / "results" / "digits"
METHODS = ("kd", "logit_mse", "attention_transfer")
FIRST = "best_epoch"  # the metric that MLflow's page of comparisons begins with: the first by name
# MLflow opens a panel on the first visit, which lies over the table.
QUIET = """
    localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
    localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');"""
# Points of the chart are drawn on a canvas, so they are read off what plotly was given.
PLOTTED = "return document.querySelector('.js-plotly-plot').data.flatMap((trace) => trace[arguments[0]])"


class Mirrored(NamedTuple):
    """A study on a running MLflow server. url: of its table of runs, as `kdbench ui` announces it."""

    url: str
    address: str
    runs: dict[str, Any]


def records_shown() -> dict[str, TrialRecord]:
    """The committed records of three methods, their teacher, and the latencies."""
    found = read_only(DIGITS)
    phases = ("teacher", "latency")
    return {key: r for key, r in found.items() if r.spec.phase in phases or r.spec.method_name in METHODS}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirrored]:
    """The study, mirrored and published, on the one server of these tests."""
    folder = tmp_path_factory.mktemp("mlflow") / "digits"
    folder.mkdir()
    for name in ("study.yaml", "study.json", "manifest.json", "leaderboard.md", "leaderboard.html", "pareto.png"):
        shutil.copy(DIGITS / name, folder)
    records = records_shown()
    mirror = Mirror(folder)
    mirror.sync(records.values())
    publish(folder, None, records)
    runs = {run.info.run_name: run for run in mirror.experiment.runs()}
    with running(default_uri(folder), folder / "mlartifacts", "127.0.0.1", 0) as (_, address):
        yield Mirrored(runs_url(address, "digits"), address, runs)


@pytest.fixture
def browser(driver: Chrome) -> Iterator[Chrome]:
    """The shared browser with a desk-sized window, in which MLflow's panels stay shut."""
    metrics = {"width": 1500, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    added = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": QUIET})
    driver.get("about:blank")
    yield driver
    driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    driver.get("about:blank")


def eventually(browser: Chrome, condition: Callable[[Chrome], Any]) -> Any:
    return WebDriverWait(browser, 40, poll_frequency=0.1).until(condition)


def texts(browser: Chrome, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent.trim())"
    return [text for text in browser.execute_script(script, selector) if text]


def row_of(browser: Chrome, name: str) -> str | None:
    """The id of the table's row whose run has this name, or None while it is not there."""
    script = """
        const row = [...document.querySelectorAll('.ag-row')].find((r) => r.textContent.includes(arguments[0]));
        return row ? row.getAttribute('row-id') : null"""
    return browser.execute_script(script, name)


def cells(browser: Chrome, row_id: str) -> list[str]:
    return texts(browser, f'.ag-row[row-id="{row_id}"] .ag-cell')


def screenshot(browser: Chrome, name: str) -> None:
    if folder := os.environ.get("KDBENCH_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def compared(browser: Chrome, study: Mirrored) -> None:
    """Tick the rows of the three methods and press Compare."""
    browser.get(study.url)
    for method in METHODS:
        row_id = eventually(browser, lambda page, method=method: row_of(page, f"{method}: cnn8"))
        tick = f'.ag-row[row-id="{row_id}"] input[aria-label^="Press Space to toggle row selection"]'
        box = eventually(browser, lambda page, tick=tick: page.find_elements(By.CSS_SELECTOR, tick))[0]
        browser.execute_script("arguments[0].click()", box)
    button = '[data-testid="runs-compare-button"]'
    eventually(browser, lambda page: page.find_element(By.CSS_SELECTOR, button).is_enabled())
    browser.find_element(By.CSS_SELECTOR, button).click()
    eventually(browser, lambda page: "Comparing 3 Runs from 1 Experiment" in page.page_source)


def choose(browser: Chrome, box: WebElement, value: str) -> None:
    """Choose a value in one of MLflow's lists, among those that are open."""
    box.click()
    find = f"//*[@role='option'][normalize-space()='{value}']"
    option = eventually(browser, lambda page: page.find_elements(By.XPATH, find))[0]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", option)
    option.click()


def test_the_table_shows_what_a_study_is_about_and_a_row_for_each_method(browser: Chrome, study: Mirrored) -> None:
    browser.get(study.url)
    row_id = eventually(browser, lambda page: row_of(page, "kd: cnn8"))
    headings = texts(browser, ".ag-header-cell-text, .ag-header-cell [role=presentation]")
    shown = " ".join(texts(browser, ".ag-header-cell"))
    for name in ("test_top1_pct", "val_top1_pct", "params", "size_bytes", "latency_b1_p50_ms", "n_finals"):
        assert name in shown, headings
    row = cells(browser, row_id)
    assert "26394" in row and "108728" in row, row  # parameters and bytes of cnn5
    assert any(cell.startswith("97.87") for cell in row), row  # kd's accuracy in results/digits/leaderboard.md
    names = " ".join(texts(browser, ".ag-row"))
    assert "report: digits" in names and "teacher" in names
    assert "search r0" not in names, "trials are folded away below their method"
    assert "Does a teacher help a small network to read handwritten digits?" in browser.page_source


def test_the_charts_show_accuracy_against_parameters_and_latency(browser: Chrome, study: Mirrored) -> None:
    browser.get(f"{study.url}&compareRunsMode=CHART")
    eventually(browser, lambda page: len(texts(page, ".xtitle")) >= 2)
    assert texts(browser, ".xtitle")[:2] == ["params", "latency_b1_p50_ms"]
    assert texts(browser, ".ytitle")[:2] == ["test_top1_pct", "test_top1_pct"]
    shown = browser.find_element(By.TAG_NAME, "body").text
    assert "Accuracy and cost" in shown and "Parallel Coordinates" in shown
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 1500, "height": 1220, "deviceScaleFactor": 1, "mobile": False}
    )
    eventually(browser, lambda page: "latency_b1_p50_ms" in " ".join(texts(page, "svg text, svg title")))
    eventually(browser, lambda page: "attention_transfer" in page.page_source)
    screenshot(browser, "mlflow-charts")


def test_three_methods_compared_show_parallel_coordinates_and_a_scatter_of_our_metrics(
    browser: Chrome, study: Mirrored
) -> None:
    compared(browser, study)
    plot = eventually(browser, lambda page: page.find_elements(By.CSS_SELECTOR, ".pcp-plot"))[0]
    for name in ("params", "latency_b1_p50_ms", "test_top1_pct"):
        box = browser.find_elements(By.CSS_SELECTOR, "input[role=combobox]")[1]
        box.send_keys(name)
        box.send_keys(Keys.ENTER)
        box.send_keys(Keys.ESCAPE)
    remove = f"//*[contains(@class, 'selection-item')][normalize-space()='{FIRST}']//*[contains(@class, 'item-remove')]"
    browser.find_element(By.XPATH, remove).click()
    eventually(browser, lambda page: "test_top1_pct" in plot.text and FIRST not in plot.text)
    labels = texts(browser, ".pcp-plot text")
    for name in ("method", "params", "latency_b1_p50_ms", "test_top1_pct"):
        assert name in labels, labels
    eventually(browser, lambda page: {"kd", "logit_mse"} <= set(texts(page, ".pcp-plot text")))
    screenshot(browser, "mlflow-compare")
    tab = "//*[@role='tab'][contains(., 'Scatter')]"
    eventually(browser, lambda page: page.find_elements(By.XPATH, tab))[0].click()
    choose(browser, eventually(browser, lambda page: page.find_element(By.ID, "x-axis-selector")), "params")
    choose(browser, browser.find_element(By.ID, "y-axis-selector"), "test_top1_pct")
    eventually(browser, lambda page: texts(page, ".xtitle, .ytitle") == ["params", "test_top1_pct"])
    params, accuracy = (sorted(map(float, browser.execute_script(PLOTTED, axis))) for axis in "xy")
    assert params == [6866, 26394, 26394]
    assert accuracy == pytest.approx([95.37037, 97.87037, 98.33333], abs=1e-4)  # results/digits/leaderboard.csv
    details = browser.find_element(By.TAG_NAME, "body").text
    for method in METHODS:
        assert f"{method}: cnn8 -> cnn" in details


def test_the_report_lies_in_a_run_of_its_own_and_its_table_with_each_method(browser: Chrome, study: Mirrored) -> None:
    run = study.runs["report: digits"]
    place = f"{study.address}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    browser.get(place)
    eventually(browser, lambda page: "The whole report is under Artifacts" in page.page_source)
    assert "attention_transfer" in browser.page_source, "the table is the description of the run"
    browser.get(f"{place}/artifacts/report/leaderboard.html")
    eventually(browser, lambda page: page.find_elements(By.CSS_SELECTOR, "iframe"))
    method = study.runs["kd: cnn8 -> cnn"]
    browser.get(f"{study.address}/#/experiments/{run.info.experiment_id}/runs/{method.info.run_id}/artifacts/report")
    eventually(browser, lambda page: "leaderboard.md" in page.page_source and "pareto.png" in page.page_source)
