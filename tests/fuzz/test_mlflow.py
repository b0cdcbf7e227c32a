"""MLflow's answers: other people's runs, and servers that answer with anything at all."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.cli.show.runs_export import to_csv, to_json
from orchestrator.cli.show.runs_table import print_table
from orchestrator.cli.show.screen import Screen
from orchestrator.errors import ConfigError, TrackingError
from orchestrator.ledger.mlflow.differences import with_differences
from orchestrator.ledger.mlflow.run_table import FIELDS, sort_runs
from orchestrator.ledger.mlflow.runs import RunRow, _row, load_runs
from orchestrator.ledger.mlflow.server import QUESTIONS
from orchestrator.ledger.mlflow.uri import check_tracking
from tests.fuzz.inputs import NUMBERS, TEXTS, bounded, files_of, fuzzed, is_one_line
from tests.support.ports import free_port

TAGS = ("run", "job", "status", "cluster", "gpu_type", "gpus", "unit", "other")
METRICS = (
    *(
        "tokens",
        "mean_tokens_per_s",
        "mean_mfu",
        "gpu_hours",
        "cost_usd",
        "cost_usd_per_million_tokens",
        "goodput",
    ),
    *("restarts", "final_loss", "other"),
)
TEXT = st.sampled_from(TEXTS) | st.text(max_size=5) | st.floats().map(str)
# MLflow's client makes floats of all metrics.
REAL = st.sampled_from([float(n) for n in NUMBERS if abs(n) < 1e300 or isinstance(n, float)]) | st.floats()
RUNS = st.builds(
    lambda start_time, run_name, status, tags, metrics, params: SimpleNamespace(
        data=SimpleNamespace(tags=tags, metrics=metrics, params=params),
        info=SimpleNamespace(run_id="0123", run_name=run_name, status=status, start_time=start_time),
    ),
    st.none() | st.integers(-(2**63), 2**63) | st.sampled_from([0, 10**15, 10**18]),
    st.none() | TEXT,
    st.none() | TEXT,
    st.dictionaries(st.sampled_from(TAGS), TEXT, max_size=8),
    st.dictionaries(st.sampled_from(METRICS), REAL, max_size=10),
    st.dictionaries(
        st.sampled_from(("model.name", "job.args.lr", "a.lr", "", "\x1b[2J")) | TEXT, TEXT, max_size=4
    ),
)


def shown(rows: list[RunRow]) -> None:
    out = Screen(file=io.TextIOWrapper(io.BytesIO(), errors="replace"), width=120)
    print_table(rows, out)
    assert json.loads(to_json(rows), parse_constant=pytest.fail)
    out.file.write(to_csv(rows))
    for key in FIELDS:
        assert len(sort_runs(rows, key, descending=True)) == len(rows)


@fuzzed(60)
@given(runs=st.lists(RUNS, min_size=1, max_size=4))
def test_any_runs(runs: list[Any]) -> None:
    with bounded():
        shown(with_differences([_row(run) for run in runs]))


def run_with(**about: Any) -> Any:
    info = {"run_id": "0123", "run_name": "r", "status": "FINISHED", "start_time": 1_800_000_000_000}
    tags, metrics, params = about.pop("tags", {}), about.pop("metrics", {}), about.pop("params", {})
    return SimpleNamespace(
        data=SimpleNamespace(tags=tags, metrics=metrics, params=params), info=SimpleNamespace(**info | about)
    )


@pytest.mark.parametrize(
    "about",
    [
        {"start_time": 10**18},
        {"status": None},
        {"tags": {"gpus": "inf"}},
        {"tags": {"gpus": "nan"}},
        {"tags": {"gpus": "1e300", "status": "\x1b[2J", "run": "\ud800"}, "run_name": None},
        {"params": {"model.name": "\x1b[2J", "job.args.\ud800": "x" * 70_000, "": "\ud800"}},
        {"metrics": {"tokens": 1e300, "restarts": float("nan"), "cost_usd": 1e-320}},
    ],
)
def test_a_run_that_somebody_else_has_written_is_shown(about: dict[str, Any]) -> None:
    shown([_row(run_with(**about)), _row(run_with())])


class Answers(BaseHTTPRequestHandler):
    """Says what the test has chosen: ``health`` where it is asked whether it is well, ``api`` for all other
    paths.

    ``short`` bytes of what was promised never come.
    """

    api: bytes = b"{}"
    health: bytes = b"OK"
    status: int = 200
    short: int = 0

    def do_GET(self) -> None:
        body = self.health if self.path == "/health" else self.api
        self.send_response(200 if self.path == "/health" else self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) + self.short))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - as the library names them

    def log_message(self, *_about: Any) -> None:
        pass


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    port = free_port()
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(Answers) as uri:
        yield uri


@pytest.fixture(autouse=True)
def _answers_are_the_tests_own() -> Iterator[None]:
    yield
    Answers.api, Answers.health, Answers.status, Answers.short = b"{}", b"OK", 200, 0


HTML = b"<html><body>Sign in</body></html>"
# What an experiment, a list of experiments and a list of runs look like, in one answer for all questions.
BODY: dict[str, Any] = {
    "experiment": {"experiment_id": "1", "name": "e", "lifecycle_stage": "active"},
    "experiments": [{"experiment_id": "1", "name": "e"}],
    "runs": [
        {
            "info": {"run_id": "0123", "status": "RUNNING", "start_time": 5, "experiment_id": "1"},
            "data": {
                "metrics": [{"key": "tokens", "value": 5.0, "step": 1}],
                "tags": [{"key": "job", "value": "j"}],
            },
        }
    ],
    "next_page_token": "more",
}


@fuzzed(40)
@given(api=files_of(BODY))
@example(api=HTML)
@example(api=b"{")
@example(api=b"[" * 100_000)
@example(api=json.dumps({**BODY, "runs": []}).encode())
@example(api=json.dumps({**BODY, "experiment": 5}).encode())
@example(api=json.dumps({**BODY, "runs": [5]}).encode())
def test_a_server_may_answer_anything(server: str, api: bytes) -> None:
    Answers.api = api
    with bounded():
        try:
            rows = load_runs(server, "e", 5)
        except (ConfigError, TrackingError) as error:
            is_one_line(error)
        else:
            shown(rows)
            assert len(rows) <= 5


@pytest.mark.parametrize("status", [200, 302, 404, 418])
@pytest.mark.parametrize("health", [HTML, b"", b"\xff" * 10_000, b"OK"])
def test_what_is_no_mlflow_is_said_to_be_none(server: str, health: bytes, status: int) -> None:
    Answers.health, Answers.api, Answers.status = health, HTML, status
    reason = check_tracking(server, 5.0)
    if health != b"OK" or status != 200:
        assert reason is not None
        is_one_line(ValueError(reason))


def test_half_an_answer_is_none(server: str) -> None:
    Answers.short, Answers.status, Answers.api = 100, 403, b"Host header"
    reason = check_tracking(server, 5.0)
    assert reason is not None
    is_one_line(ValueError(reason))


class Drips(BaseHTTPRequestHandler):
    """A byte now and then, each of them in time."""

    over = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "4000")
        self.end_headers()
        with contextlib.suppress(OSError):
            while not self.over.wait(0.02):
                self.wfile.write(b"O")
                self.wfile.flush()

    def log_message(self, *_about: Any) -> None:
        pass


@pytest.mark.timeout(60)
def test_an_answer_that_never_ends_is_not_waited_for() -> None:
    with serving(Drips) as uri:
        try:
            reason = check_tracking(uri, 0.2)
        finally:
            Drips.over.set()
    assert reason == f"MLflow at {uri} does not end its answer within {QUESTIONS * 0.2:g} s"
