"""The pages of runs and of a run, in a real browser: without a network, at two widths, light and dark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.generated_runs import EXPERIMENT, write_database
from orchestrator.cli.cli import main
from orchestrator.records import record_to_json
from tests.services.needs import module
from tests.services.test_chromium import FLAGS, Browser, looks_like_something
from tests.unit.cli.show.test_pages import EVIL, records

RUNS = 60
WIDTHS = (390, 1440)
# What the page asked for, and what it said to a developer.
_ASKED = "return performance.getEntriesByType('resource').map(entry => entry.name)"
_OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """As a user makes them."""
    folder = tmp_path_factory.mktemp("pages")
    uri = write_database(folder / "mlflow.db", RUNS)
    tracking = [f"tracking.uri={uri}", f"tracking.experiment={EXPERIMENT}"]
    made = {name: folder / f"{name}.html" for name in ("runs", "groups", "run")}
    assert main(["compare", *tracking, "--html", str(made["runs"])]) == 0
    by = ["--by", "cluster,job.args.lr", "--to-loss", "2.1"]
    assert main(["compare", *tracking, *by, "--html", str(made["groups"])]) == 0
    run = folder / "runs" / "night-1"
    run.mkdir(parents=True)
    (run / "journal.jsonl").write_text("".join(f"{record_to_json(each)}\n" for each in records()))
    assert main(["report", str(run), "--html", str(made["run"])]) == 0
    return made


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    module("selenium")
    assert "--no-proxy-server" in FLAGS
    one = Browser(tmp_path_factory.mktemp("browser"))
    one.chrome.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    one.chrome.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield one
    one.chrome.quit()


def show(browser: Browser, page: Path, width: int, scheme: str) -> None:
    metrics = {"width": width, "height": 1600, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.chrome.get(page.as_uri())


@pytest.mark.parametrize("name", ["runs", "groups", "run"])
def test_a_page_is_read_at_two_widths_light_and_dark_and_asks_for_nothing(
    name: str, pages: dict[str, Path], browser: Browser
) -> None:
    grounds = set()
    for width in WIDTHS:
        for scheme in ("light", "dark"):
            show(browser, pages[name], width, scheme)
            browser.until_shown("Loss against dollars", "What the cost went to")
            assert browser.chrome.execute_script(_ASKED) == []
            assert browser.chrome.execute_script(_OVERFLOW) <= 0, "nothing but the table scrolls sideways"
            grounds.add(
                browser.chrome.execute_script("return getComputedStyle(document.body).backgroundColor")
            )
            assert looks_like_something(browser.picture(f"{name}-{width}-{scheme}"))
            small = browser.chrome.execute_script(
                "return Math.min(...[...document.querySelectorAll('figure text')]"
                ".map(one => one.getBoundingClientRect().height))"
            )
            assert small >= 7, "letters of the charts can be read on a phone"
    assert len(grounds) == 2
    assert browser.chrome.get_log("browser") == [], "no word to a developer"


def test_the_table_sorts_and_filters(pages: dict[str, Path], browser: Browser) -> None:
    show(browser, pages["runs"], 1440, "light")

    def costs() -> list[float]:
        heads = [one.text.strip() for one in browser.chrome.find_elements("css selector", "th")]
        shown = browser.chrome.execute_script(
            "return [...document.querySelectorAll('tbody tr')].filter(row => !row.hidden)"
            ".map(row => row.cells[arguments[0]].dataset.v)",
            next(place for place, head in enumerate(heads) if head.startswith("cost")),
        )
        return [float(one) for one in shown]

    (cost,) = [one for one in browser.chrome.find_elements("css selector", "th button") if one.text == "cost"]
    cost.click()
    assert costs() == sorted(costs())
    assert len(costs()) == RUNS
    cost.click()
    assert costs() == sorted(costs(), reverse=True)
    browser.chrome.find_element("css selector", "input").send_keys("dgx_h100 finished")
    few = browser.chrome.find_element("css selector", "output").text
    counted = re.fullmatch(rf"(\d+) of {RUNS} runs", few)
    assert counted is not None, few
    assert 0 < int(counted[1]) == len(costs()) < RUNS


def test_a_name_is_a_text(pages: dict[str, Path], browser: Browser) -> None:
    show(browser, pages["run"], 1440, "light")
    assert "<script>alert(1)</script>" in browser.until_shown("incident 1")
    assert EVIL.startswith("a<script>")
    assert browser.chrome.find_elements("css selector", "script + script") == []


def test_on_paper_it_is_light_and_whole(pages: dict[str, Path], browser: Browser) -> None:
    import base64

    show(browser, pages["runs"], 1440, "dark")
    printed = browser.chrome.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")
    browser.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.chrome.execute_script("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    shown = browser.chrome.execute_script(
        "return [getComputedStyle(document.querySelector('.filter')).display,"
        " getComputedStyle(document.querySelector('.wide')).maxHeight]"
    )
    assert shown == ["none", "none"]
