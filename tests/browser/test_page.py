"""The HTML page in headless Chromium: sorting, filters, axes, details, colours, a phone, and no word to any network."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import located
from page_example import ERROR, EVIL, OTHER
from report_example import PAIR
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from kdbench.report.leaderboard import Leaderboard
from kdbench.report.pareto import on_front

pytestmark = pytest.mark.browser


@pytest.fixture
def page(driver: Chrome, example: tuple[Path, Leaderboard]) -> Iterator[Chrome]:
    """A freshly opened page on a desk-sized window with light colours; afterwards its console must be empty."""
    opened(driver, example[0])
    yield driver
    assert driver.get_log("browser") == []


def opened(driver: Chrome, path: Path, fragment: str = "", width: int = 1280, colours: str = "light") -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    in_colours(driver, colours)
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get_log("performance")
    driver.get(path.as_uri() + fragment)
    driver.execute_script("try { localStorage.clear(); } catch {}")


def in_colours(driver: Chrome, name: str) -> None:
    features = {"features": [{"name": "prefers-color-scheme", "value": name}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", features)


def eventually(driver: Chrome, condition: Callable[[Chrome], Any]) -> Any:
    return WebDriverWait(driver, 10, poll_frequency=0.05).until(condition)


def column(driver: Chrome, heading: str) -> list[str]:
    """The texts of a column of the leaderboard, of the rows that are shown, from top to bottom."""
    script = """
        const headings = [...document.querySelectorAll('#board th')];
        const place = headings.findIndex((heading) => heading.textContent.startsWith(arguments[0]));
        return [...document.querySelectorAll('#board tbody tr')].filter((tr) => !tr.hidden)
            .map((tr) => tr.cells[place].firstChild ? tr.cells[place].firstChild.textContent : '');"""
    return list(driver.execute_script(script, heading))


def heading(driver: Chrome, text: str) -> WebElement:
    return next(th for th in driver.find_elements(By.CSS_SELECTOR, "#board th") if th.text.startswith(text))


def numbers(texts: list[str]) -> list[float]:
    return [float(text.replace("−", "-")) for text in texts if text != "–"]


def choose(driver: Chrome, name: str, value: str) -> None:
    Select(driver.find_element(By.ID, name)).select_by_value(value)


def front_in_page(driver: Chrome) -> set[str]:
    script = "return [...document.querySelectorAll('#points [data-front=true]')].map((b) => b.dataset.row)"
    return set(driver.execute_script(script))


def front_by_kdbench(board: Leaderboard, table: str, x: str, y: str) -> set[str]:
    latency = any(name.startswith("latency") for name in (x, y))
    rows = [r for r in board.of(table) if r.kind == "student" and r.rank and (r.latency_comparable or not latency)]
    points = np.array([[row.value(x), row.value(y)] for row in rows])
    return {row.id for row, flag in zip(rows, on_front(points, (x, y)), strict=True) if flag}


def test_the_page_opens_without_a_request_or_a_word_on_the_console(
    driver: Chrome, example: tuple[Path, Leaderboard]
) -> None:
    opened(driver, example[0])
    eventually(driver, lambda d: d.find_elements(By.CSS_SELECTOR, "#explorer-chart .main-svg"))
    choose(driver, "axis-x", "latency_b1_p50_ms")
    driver.find_element(By.CSS_SELECTOR, "#board .open").send_keys(Keys.ENTER)
    eventually(driver, lambda d: d.find_elements(By.CSS_SELECTOR, "#row-body .main-svg"))
    time.sleep(0.5)  # a request that follows would come now
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in sent if not url.startswith("data:")] == [example[0].as_uri()]
    assert driver.get_log("browser") == []


def test_without_chromium_the_tests_say_what_to_install() -> None:
    with pytest.raises(
        pytest.fail.Exception, match=r"no-such-browser: not found .* install chromium and chromium-driver"
    ):
        located("no-such-browser")


def test_a_violation_of_the_policy_is_seen_by_these_tests(driver: Chrome, example: tuple[Path, Leaderboard]) -> None:
    opened(driver, example[0])
    driver.execute_script("fetch('https://example.invalid/x').catch(() => {});")
    found = eventually(driver, lambda d: [e["message"] for e in d.get_log("browser")])
    assert any("Content Security Policy" in message for message in found)
    script = "const s = document.createElement('script'); s.textContent = 'window.broken = 1'; document.body.append(s);"
    driver.execute_script(script)
    assert driver.execute_script("return window.broken") is None
    driver.get_log("browser")


def test_a_click_sorts_a_column_turns_it_and_puts_it_back(page: Chrome) -> None:
    before = column(page, "Top-1")
    button = heading(page, "NLL").find_element(By.TAG_NAME, "button")
    button.click()
    assert heading(page, "NLL").get_attribute("aria-sort") == "ascending"
    up = column(page, "NLL")
    assert numbers(up) == sorted(numbers(up))
    assert len(numbers(up)) > 30
    button.click()
    assert heading(page, "NLL").get_attribute("aria-sort") == "descending"
    down = column(page, "NLL")
    assert numbers(down) == sorted(numbers(down), reverse=True)
    assert down[len(numbers(down)) :] == ["–"] * (len(down) - len(numbers(down))), "empty cells stay last"
    button.click()
    assert heading(page, "NLL").get_attribute("aria-sort") == "none"
    assert column(page, "Top-1") == before


def test_the_keyboard_sorts_text_numbers_with_prefixes_and_the_better_end_first(page: Chrome) -> None:
    for name, key in (("Method", Keys.ENTER), ("Params", Keys.SPACE), ("Top-1", Keys.ENTER)):
        heading(page, name).find_element(By.TAG_NAME, "button").send_keys(key)
        found = column(page, name)
        if name == "Method":
            assert [found[0], found[-1]] == [EVIL, "teacher"]
        elif name == "Params":
            scale = {"k": 1e3, "M": 1e6}
            sizes = [float(t.split()[0]) * scale[t.split()[1]] for t in found if t != "–"]
            assert sizes == sorted(sizes)
        else:
            assert numbers(found) == sorted(numbers(found), reverse=True)


def test_filters_work_together_say_how_many_are_left_and_are_kept_in_the_address(
    page: Chrome, example: tuple[Path, Leaderboard]
) -> None:
    board = example[1]
    page.find_element(By.ID, "filter").send_keys("resnet20 KD")
    fitting = [row for row in board.rows if row.student.startswith("resnet20") and row.method == "kd"]
    assert set(column(page, "Method")) == {"kd"}
    assert len(column(page, "Method")) == len(fitting)
    assert page.find_element(By.ID, "count").text == f"{len(fitting)} of {len(board.rows)} rows"
    page.find_element(By.ID, "filter").send_keys(Keys.BACKSPACE * len("resnet20 KD"))
    choose(page, "by-pair", OTHER)
    assert set(column(page, "Pair")) == {"wrn40 → wrn"}
    choose(page, "by-pair", "")
    choose(page, "by-method", "attention_transfer")
    page.find_element(By.ID, "ranked").click()
    ranked = [row for row in board.rows if row.method == "attention_transfer" and row.rank]
    assert len(column(page, "Method")) == len(ranked) > 0
    address = page.current_url
    assert "method=attention_transfer" in address
    assert "ranked=true" in address
    opened(page, example[0], address[address.index("#") :])
    assert len(column(page, "Method")) == len(ranked)
    page.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    eventually(page, lambda d: len(column(d, "Method")) == len(board.rows))


def test_a_column_can_be_hidden_and_shown(page: Chrome) -> None:
    assert heading(page, "NLL").is_displayed()
    page.find_element(By.CSS_SELECTOR, "#columns summary").click()
    boxes = {b.text.strip(): b for b in page.find_elements(By.CSS_SELECTOR, "#columns label")}
    boxes["NLL ↓"].click()
    boxes["Hyper-parameters"].click()
    shown = [th.text for th in page.find_elements(By.CSS_SELECTOR, "#board th") if th.is_displayed()]
    assert "NLL ↓" not in shown
    assert "Hyper-parameters" in shown


def test_a_row_opens_by_click_and_closes_by_escape_with_the_focus_back(page: Chrome) -> None:
    button = next(b for b in page.find_elements(By.CSS_SELECTOR, "#board .open") if b.text == "attention_transfer")
    row = page.execute_script("return arguments[0].closest('tr').dataset.row", button)
    button.click()
    dialog = page.find_element(By.ID, "row")
    assert dialog.get_attribute("open")
    assert f"row={row}" in page.current_url
    assert f"kdbench show {row}" in dialog.text
    for words in ("Configuration", "beta=1000", "Seeds", "Training curves", "Failures", "Provenance", "finished"):
        assert words in dialog.text, words
    eventually(page, lambda d: d.find_elements(By.CSS_SELECTOR, "#row-body .scatterlayer .trace"))
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    assert dialog.get_attribute("open") is None
    assert page.switch_to.active_element == button
    assert "row=" not in page.current_url


def test_a_row_opens_by_the_keyboard_and_shows_its_failures_with_their_reason(
    page: Chrome, example: tuple[Path, Leaderboard]
) -> None:
    row = next(r for r in example[1].rows if r.method == "attention_transfer" and r.student == "resnet20")
    line = page.find_element(By.CSS_SELECTOR, f"#board tr[data-row='{row.id}']")
    line.find_element(By.CSS_SELECTOR, ".open").send_keys(Keys.ENTER)
    dialog = page.find_element(By.ID, "row")
    assert dialog.get_attribute("open")
    assert page.switch_to.active_element.get_attribute("id") == "row-title"
    assert ERROR in dialog.text, "as text: <b> is not markup"
    assert all(key in dialog.text for key in row.keys)
    assert "0123456789abcdef0123456789abcdef01234567" in dialog.get_attribute("textContent")
    low, high = row.interval.low, row.interval.high
    assert f"Mean {row.score:.2f} %, bootstrap 95 % interval [{low:.2f}, {high:.2f}]" in dialog.text


def test_an_address_opens_its_row(driver: Chrome, example: tuple[Path, Leaderboard]) -> None:
    row = next(r for r in example[1].rows if r.rank == 1)
    opened(driver, example[0], f"#row={row.id}")
    assert f"kdbench show {row.id}" in driver.find_element(By.ID, "row").text
    opened(driver, example[0], "#row=00000000")
    assert driver.find_element(By.ID, "row").get_attribute("open") is None


def test_a_name_that_is_markup_is_text_in_every_place(page: Chrome, example: tuple[Path, Leaderboard]) -> None:
    row = next(r for r in example[1].rows if r.method == EVIL)
    page.find_element(By.CSS_SELECTOR, f"#board tr[data-row='{row.id}'] .open").click()
    dialog = page.find_element(By.ID, "row")
    assert page.find_element(By.ID, "row-title").text.startswith(EVIL)
    assert f"note={EVIL}" in dialog.text
    page.find_element(By.ID, "row-close").click()
    point = page.find_element(By.CSS_SELECTOR, f"#points [data-row='{row.id}']")
    page.execute_script("arguments[0].focus()", point)
    label = eventually(page, lambda d: d.find_elements(By.CSS_SELECTOR, "#explorer-chart .hovertext"))
    assert EVIL in label[0].get_attribute("textContent")
    assert page.execute_script("return document.querySelectorAll('body script:not([type])').length") == 2


AXES = (
    ("params", "test_top1_pct"), ("test_ece_pct", "test_nll"), ("test_top1_pct", "flops"),
    ("latency_b1_p50_ms", "test_top1_pct"), ("test_top1_pct", "test_nll"),
)  # fmt: skip


def test_the_front_of_the_chosen_axes_is_the_one_of_kdbench(page: Chrome, example: tuple[Path, Leaderboard]) -> None:
    for x, y in AXES:
        choose(page, "axis-x", x)
        choose(page, "axis-y", y)
        for table in (PAIR, OTHER):
            choose(page, "explorer-pair", table)
            expected = front_by_kdbench(example[1], table, x, y)
            assert expected
            assert front_in_page(page) == expected, (table, x, y)


def test_latencies_measured_otherwise_are_left_out_with_a_note(page: Chrome, example: tuple[Path, Leaderboard]) -> None:
    odd = {r.id for r in example[1].of(PAIR) if r.latency_conditions and not r.latency_comparable and r.scores}
    assert odd

    def listed() -> set[str]:
        return {b.get_attribute("data-row") for b in page.find_elements(By.CSS_SELECTOR, "#points button")}

    assert odd <= listed()
    choose(page, "axis-x", "latency_b1_p50_ms")
    assert not odd & listed()
    status = page.find_element(By.ID, "explorer-status").text
    assert f"{len(odd)} rows whose latency was measured under other conditions" in status
    assert "2 threads" in status


def test_hovering_a_point_shows_its_configuration_and_a_click_opens_it(page: Chrome) -> None:
    choose(page, "explorer-pair", OTHER)
    chart = page.find_element(By.ID, "explorer-chart")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    points = eventually(page, lambda d: d.find_elements(By.CSS_SELECTOR, "#explorer-chart .trace .point"))
    assert len(points) == 3, "two rows and the teacher"
    ActionChains(page).move_to_element(points[1]).pause(0.2).perform()
    [label] = eventually(page, lambda d: d.find_elements(By.CSS_SELECTOR, "#explorer-chart .hovertext"))
    text = label.get_attribute("textContent")
    assert "kd · resnet20" in text
    assert "temperature=4" in text
    ActionChains(page).click().perform()
    dialog = eventually(page, lambda d: d.find_element(By.CSS_SELECTOR, "#row[open]"))
    assert "kd · resnet20" in dialog.text


def test_points_can_be_reached_and_opened_by_the_keyboard(page: Chrome) -> None:
    point = page.find_elements(By.CSS_SELECTOR, "#points button")[0]
    assert "on the front" in point.text
    point.send_keys(Keys.ENTER)
    dialog = page.find_element(By.ID, "row")
    assert f"kdbench show {point.get_attribute('data-row')}" in dialog.text
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    assert page.switch_to.active_element == point


def test_a_method_is_hidden_by_its_button_and_the_front_stays(page: Chrome) -> None:
    before = front_in_page(page)
    status = page.find_element(By.ID, "explorer-status").text
    button = page.find_element(By.CSS_SELECTOR, "#explorer-legend [data-method=kd]")
    button.send_keys(Keys.SPACE)
    assert button.get_attribute("aria-pressed") == "false"
    names = [b.text.split(" ·")[0] for b in page.find_elements(By.CSS_SELECTOR, "#points button")]
    assert "kd" not in names
    assert front_in_page(page) <= before
    assert page.find_element(By.ID, "explorer-status").text == status


def test_the_axes_scale_follows_the_unit_and_the_address_keeps_them(
    page: Chrome, example: tuple[Path, Leaderboard]
) -> None:
    kind = "return document.getElementById('explorer-chart')._fullLayout[arguments[0]].type"
    assert page.execute_script(kind, "xaxis") == "log"
    assert page.execute_script(kind, "yaxis") == "linear"
    page.find_element(By.ID, "log-x").click()
    assert page.execute_script(kind, "xaxis") == "linear"
    choose(page, "axis-y", "test_nll")
    page.find_element(By.ID, "swap").click()
    address = page.current_url
    opened(page, example[0], address[address.index("#") :])
    assert page.find_element(By.ID, "axis-x").get_attribute("value") == "test_nll"
    assert page.find_element(By.ID, "axis-y").get_attribute("value") == "params"
    assert page.execute_script(kind, "yaxis") == "linear"


def test_curves_show_means_and_every_seed_on_request(page: Chrome) -> None:
    traces = "return document.getElementById('curves-chart').data.length"
    choose(page, "curves-pair", OTHER)
    assert page.execute_script(traces) == 2
    page.find_element(By.ID, "curves-seeds").click()
    assert page.execute_script(traces) == 2 + 2 * 3
    choose(page, "curves-quantity", "train_loss")
    title = "return document.getElementById('curves-chart').layout.yaxis.title.text"
    assert page.execute_script(title) == "training loss"


def test_colours_follow_the_system_and_the_button(page: Chrome) -> None:
    def background() -> str:
        return str(page.execute_script("return getComputedStyle(document.body).backgroundColor"))

    ink = "return document.getElementById('explorer-chart').layout.font.color"
    assert background() == "rgb(255, 255, 255)"
    light = page.execute_script(ink)
    in_colours(page, "dark")
    eventually(page, lambda d: background() == "rgb(13, 17, 23)")
    eventually(page, lambda d: d.execute_script(ink) != light)
    button = page.find_element(By.ID, "theme")
    button.click()
    assert button.text == "Colours: light"
    assert background() == "rgb(255, 255, 255)"
    assert page.execute_script(ink) == light
    button.click()
    assert button.text == "Colours: dark"
    in_colours(page, "light")
    assert background() == "rgb(13, 17, 23)"
    button.click()
    assert button.text == "Colours: as the system"


def test_on_a_phone_nothing_is_wider_than_the_screen(driver: Chrome, example: tuple[Path, Leaderboard]) -> None:
    opened(driver, example[0], width=360)
    width = "return document.documentElement.scrollWidth"
    assert driver.execute_script("return innerWidth") == 360
    assert driver.execute_script(width) == 360
    shown = [th.text for th in driver.find_elements(By.CSS_SELECTOR, "#board th") if th.is_displayed()]
    assert [text.split()[0] for text in shown] == ["Pair", "#", "Method", "Top-1"]
    driver.find_elements(By.CSS_SELECTOR, "#board .open")[1].click()
    body = eventually(driver, lambda d: d.find_element(By.CSS_SELECTOR, "#row[open] #row-body"))
    eventually(driver, lambda d: d.find_elements(By.CSS_SELECTOR, "#row-body .main-svg"))
    assert driver.execute_script("return [arguments[0].scrollWidth, arguments[0].clientWidth]", body) == [360, 360]
    assert driver.execute_script(width) == 360
    assert driver.get_log("browser") == []


def test_parts_of_the_page_have_names_and_headings(page: Chrome) -> None:
    for region in page.find_elements(By.CSS_SELECTOR, "main section"):
        title = page.find_element(By.ID, str(region.get_attribute("aria-labelledby")))
        assert title.tag_name == "h2"
    unnamed = page.execute_script("""
        const named = (e) => e.textContent.trim() || e.getAttribute('aria-label') || (e.labels && e.labels.length);
        return [...document.querySelectorAll('button, select, input')].filter((e) => !named(e)).length;""")
    assert unnamed == 0
    assert "Not computed: 2 pairs: Friedman's test needs more than <2>." in page.find_element(By.ID, "ranks").text
