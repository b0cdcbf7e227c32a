"""The pages that a run points at, in a real browser."""

from __future__ import annotations

import os
import re
import shlex
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from matplotlib.image import imread

from orchestrator.driver.tracking import MLFLOW_UI
from orchestrator.ledger.meter import Meter
from orchestrator.ledger.mlflow.views import VIEWS
from tests.faults.runs import MARKS, Run, User
from tests.services.needs import module, program
from tests.services.processes import Service
from tests.services.runs import SHORT
from tests.support.ports import free_port

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = MARKS

SHOWN_S = 90.0
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1600,1200",
]  # fmt: skip


class Browser:
    """One window of Chromium, led from here, with a profile of its own."""

    def __init__(self, folder: Path) -> None:
        module("selenium")
        chromium, driver = program("chromium", "chromium"), program("chromedriver", "chromium-driver")
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service as Driver

        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in [*FLAGS, f"--user-data-dir={folder / 'profile'}"]:
            options.add_argument(flag)
        environment = {**os.environ, "HOME": str(folder)}
        self._folder = folder
        self.chrome: Chrome = webdriver.Chrome(options, Driver(driver, env=environment))

    def text(self) -> str:
        """What a person can read."""
        from selenium.common.exceptions import StaleElementReferenceException

        try:
            return self.chrome.find_element("tag name", "body").text
        except StaleElementReferenceException:
            return ""

    def until_shown(self, *words: str, without: str = "\0") -> str:
        """Wait until the page says all of this and no longer that; the page's text."""
        from selenium.common.exceptions import TimeoutException
        from selenium.webdriver.support.ui import WebDriverWait

        def shown() -> bool:
            text = self.text()
            return all(word in text for word in words) and without not in text

        try:
            WebDriverWait(self.chrome, SHOWN_S, 0.2).until(lambda _: shown())
        except TimeoutException:
            self.picture("not-shown")
            pytest.fail(f"the page does not say {words}, see {self._folder}:\n{self.text()}")
        return self.text()

    def enter_token(self, token: str) -> None:
        """Into Ray's dialog."""
        from selenium.webdriver.common.keys import Keys

        field = self.chrome.find_element("css selector", "[role=dialog] input")
        field.send_keys(Keys.CONTROL, "a", Keys.NULL, token)
        self.chrome.find_element("xpath", "//*[@role='dialog']//button[normalize-space()='Submit']").click()

    def picture(self, name: str) -> Path:
        """What a person sees."""
        path = self._folder / f"{name}.png"
        assert self.chrome.save_screenshot(str(path))
        return path


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    one = Browser(tmp_path)
    yield one
    one.chrome.quit()


@pytest.fixture(scope="module")
def run(keeper: User) -> Run:
    """A run that MLflow has, in the file that is the default."""
    one = keeper.start("pictured", *SHORT, tracked=True).ended()
    assert one.code == 0, one.text
    return one


@pytest.fixture(scope="module")
def mlflow_ui(run: Run, keeper: User) -> Iterator[str]:
    """The address of what the run said to look at it with."""
    told = re.search(r"\S+ ui --backend-store-uri \S+", run.text)
    assert told is not None, run.text
    program_name, *words = shlex.split(told[0])
    command = [str((keeper.folder / program_name).resolve()) if "/" in program_name else program_name, *words]
    url = f"http://127.0.0.1:{(port := free_port())}"
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    service = Service(
        [*command, "--host=127.0.0.1", f"--port={port}", "--workers=1"],
        keeper.folder,
        {**keeper.environment, **quiet, "PATH": path},
    )

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                return bool(answer.read() == b"OK")
        except OSError:
            return False

    try:
        service.until(answers)
        yield url
    finally:
        service.close()


def looks_like_something(picture: Path) -> bool:
    """Not one colour all over."""
    return float(imread(picture).std()) > 0.01


def test_mlflow_s_pages_show_the_run_and_what_it_cost(run: Run, mlflow_ui: str, browser: Browser) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{run.folder.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("orchestrator")
    assert experiment is not None
    (recorded,) = client.search_runs([experiment.experiment_id])

    browser.chrome.get(f"{mlflow_ui}/#/experiments/{experiment.experiment_id}/runs")
    browser.until_shown("orchestrator", "pictured")
    assert looks_like_something(browser.picture("runs"))

    browser.chrome.get(f"{mlflow_ui}/#/experiments/{experiment.experiment_id}/runs/{recorded.info.run_id}")
    text = browser.until_shown(
        "pictured", "cost_usd", "core_hours", "spent on"
    )  # the last in its description
    assert looks_like_something(browser.picture("run"))
    shown = re.search(r"^cost_usd\s+(\S+)$", text, re.MULTILINE)
    assert shown is not None, text
    assert float(shown[1]) == pytest.approx(Meter().fold_all(run.records()).bill().cost_usd, rel=1e-2)


def test_the_link_that_a_run_ends_with_and_the_other_views_show_their_columns_and_charts(
    run: Run, mlflow_ui: str, browser: Browser
) -> None:
    """Each in a new state of the browser: a page that knows the experiment goes on as it was left."""
    told = re.search(r"what it cost, beside the other runs: (\S+)", run.text)
    assert told is not None, run.text
    server, _, page = told[1].partition("/#")
    assert server == MLFLOW_UI
    assert "viewStateShareKey=cost" in page, "it is no secret"
    columns = {
        "cost": ("cost_usd", "core_hours", "final_loss"),
        "speed": ("mean_tokens_per_s", "mean_mfu"),
        "reliability": ("incidents", "restarts", "incident_cost_usd"),
    }
    for view in VIEWS:
        address = f"{mlflow_ui}/#{page.replace('=cost', f'={view.key}')}"
        for mode, words in (
            ("", columns[view.key]),
            ("&compareRunsMode=CHART", (f"{view.name} as runs go on", f"{view.name} of each run")),
        ):
            browser.chrome.get("about:blank")
            browser.chrome.get(address + mode)
            browser.until_shown("pictured", view.name, *words, without="Error loading shared view")
            assert looks_like_something(browser.picture(f"{view.key}{mode[-5:]}"))


def test_ray_s_dashboard_asks_for_the_token_and_then_shows_the_cluster(
    keeper: User, browser: Browser
) -> None:
    assert keeper.kept is not None
    url = keeper.kept.dashboard_url
    assert url is not None
    browser.chrome.get(url)
    asked = browser.until_shown("Authentication Token Required", "ray get-auth-token")
    assert "orchestrator zygotes" not in asked
    assert looks_like_something(browser.picture("asked"))

    browser.enter_token("not-the-token")
    browser.until_shown("token is invalid")

    browser.enter_token((Path(keeper.environment["HOME"]) / ".ray" / "auth_token").read_text().strip())
    browser.until_shown("Cluster", without="Authentication Token")
    browser.chrome.get(f"{url}/#/actors")
    browser.until_shown("orchestrator zygotes", "ALIVE")
    assert looks_like_something(browser.picture("actors"))
