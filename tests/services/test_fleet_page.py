"""The page of a fleet in a real browser: a day of twenty jobs at two widths, light and dark, and served."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.support.ui import WebDriverWait

from orchestrator.cli.cli import main
from orchestrator.cli.page_server import PageServer, page_token
from orchestrator.cli.show.fleet_page import PAST_S, fleet_page
from orchestrator.dispatch.fleet_seen import FleetWatch
from tests.services.needs import module
from tests.services.test_chromium import SHOWN_S, Browser, looks_like_something
from tests.services.test_report_page import _ASKED, _OVERFLOW, show
from tests.support.fleet_day import a_day

WIDTHS = (390, 1280)
AGAIN_S = 1.0


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fleet") / "runs"
    a_day(root, time.time()).store.close()
    return root


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    module("selenium")
    one = Browser(tmp_path_factory.mktemp("browser"))
    yield one
    one.chrome.quit()


def test_it_is_read_at_two_widths_light_and_dark_and_asks_for_nothing(
    runs: Path, tmp_path: Path, browser: Browser
) -> None:
    page = tmp_path / "fleet.html"
    assert main(["fleet", "page", f"run_root={runs}", "--html", str(page)]) == 0
    grounds = set()
    for width in WIDTHS:
        for scheme in ("light", "dark"):
            show(browser, page, width, scheme)
            browser.until_shown("GPUs in use", "Dollars by team", "sft-chat", "node7 not there")
            assert browser.chrome.execute_script(_ASKED) == []
            assert browser.chrome.execute_script(_OVERFLOW) <= 0, "lanes and tables scroll by themselves"
            now = browser.chrome.execute_script(
                "const line = document.querySelector('.field em').getBoundingClientRect();"
                "const box = document.querySelector('.scroll').getBoundingClientRect();"
                "return box.left < line.left && line.left < box.right"
            )
            assert now, "it is shown where it is now"
            hidden = browser.chrome.execute_script(
                "return [...document.querySelectorAll('.bar b')]"
                ".filter(one => one.getBoundingClientRect().height > one.parentElement.clientHeight + 2).length"
            )
            assert hidden == 0, "a name that is written on a bar fits into it"
            grounds.add(
                browser.chrome.execute_script("return getComputedStyle(document.body).backgroundColor")
            )
            assert looks_like_something(browser.picture(f"fleet-{width}-{scheme}"))
    assert len(grounds) == 2
    assert browser.chrome.get_log("browser") == [], "no word to a developer"


def test_the_served_page_is_shown_anew_by_itself_until_nobody_answers(
    runs: Path, tmp_path: Path, browser: Browser
) -> None:
    watch = FleetWatch(runs, PAST_S)
    looks = []

    def make() -> str:
        looks.append(time.monotonic())
        return fleet_page(watch.look(), AGAIN_S)

    with PageServer(make, page_token(tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.chrome.get(server.address)
        browser.until_shown("sft-chat")
        assert browser.chrome.current_url == f"http://127.0.0.1:{server.port}/", "the token is gone"
        browser.chrome.execute_script("window.first = true")
        WebDriverWait(browser.chrome, SHOWN_S, 0.2).until(lambda _: len(looks) > 2)
        sort = (
            "[...document.querySelectorAll('th button')].find(one => one.textContent === 'to come').click()"
        )
        browser.chrome.execute_script(sort)
        before = len(looks)
        WebDriverWait(browser.chrome, SHOWN_S, 0.2).until(lambda _: len(looks) > before + 1)
        assert browser.chrome.execute_script("return window.first"), "it was not loaded a second time"
        sorted_by = "const head = document.querySelector('[aria-sort]'); return head && head.textContent"
        WebDriverWait(browser.chrome, SHOWN_S, 0.2).until(
            lambda chrome: chrome.execute_script(sorted_by) == "to come"
        )
        server.shutdown()
    WebDriverWait(browser.chrome, SHOWN_S, 0.2).until(
        lambda chrome: chrome.execute_script("return document.body.dataset.lost || ''")
    )
    assert "sft-chat" in browser.text()
