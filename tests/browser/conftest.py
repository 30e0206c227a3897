"""One headless Chromium for all tests of the page, and the page of a made-up study to open in it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from kdbench.report.leaderboard import Leaderboard

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # where the made-up study of the report's tests is
from page_example import page_of, page_results

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic", "--force-device-scale-factor=1",
    "--force-prefers-reduced-motion", "--hide-scrollbars",
)  # fmt: skip
MISSING = 'install chromium and chromium-driver, or leave these tests out: -m "not browser"'


def located(*names: str) -> dict[str, str]:
    """Paths of programs; the tests fail with what to do where one is missing."""
    found = {name: shutil.which(name) for name in names}
    lacking = [name for name, path in found.items() if path is None]
    if lacking:
        pytest.fail(f"{' and '.join(lacking)}: not found on the PATH; {MISSING}", pytrace=False)
    return {name: str(path) for name, path in found.items()}


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A browser that logs its console and its network, with a profile of its own that is thrown away."""
    found = located("chromium", "chromedriver")
    options = Options()
    options.binary_location = found["chromium"]
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(found["chromedriver"]))
    browser.set_script_timeout(20)
    yield browser
    browser.quit()


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Leaderboard]:
    """The page of the made-up study as a file, and the leaderboard that is in it."""
    text, board = page_of(page_results())
    path = tmp_path_factory.mktemp("page") / "leaderboard.html"
    path.write_text(text, encoding="utf-8")
    return path, board
