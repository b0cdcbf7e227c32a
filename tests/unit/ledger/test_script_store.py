"""The store behind a script's own calls of MLflow, asked through MLflow's own client; nothing is started."""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact import artifact_repository_registry
from mlflow.tracking import MlflowClient
from mlflow.tracking._tracking_service import utils

from orchestrator.events import AttemptStarted, Record, ScriptTracked
from orchestrator.ledger.mlflow.projection import Projection
from orchestrator.ledger.mlflow.script_store import NoArtifacts, ScriptStore, refuse_registry
from orchestrator.rank import tracking
from orchestrator.rank.messages import Tracked, decode, encode
from orchestrator.rank.tracking import Recorder

_numbers = itertools.count()


class HeldLink:
    """A rank's tie whose agent reads when the test says so."""

    def __init__(self) -> None:
        self.open = True
        self.sources: deque[Any] = deque()
        self.messages: list[Tracked] = []

    def offer(self, source: Any) -> None:
        self.sources.append(source)

    def deliver(self, at_most: int = 1 << 30) -> None:
        for _ in range(at_most):
            if not self.sources:
                return
            if (message := self.sources[0]()) is None:
                self.sources.popleft()
            else:
                read = decode(encode(message))
                assert isinstance(read, Tracked)
                self.messages.append(read)


def facts(folder: Path, forward: bool = True) -> dict[str, Any]:
    return {
        "run_id": tracking.script_run_id(str(folder)),
        "run_name": "night-1",
        "experiment": "lab",
        "forward": forward,
        "artifacts": str(folder),
    }


class Rank:
    """One attempt's: what its script calls, and what arrives."""

    def __init__(self, folder: Path, forward: bool = True) -> None:
        self.link = HeldLink()
        recorder = Recorder(self.link, facts(folder, forward))  # type: ignore[arg-type]
        uri = f"{tracking.SCHEME}://test-{next(_numbers)}"
        utils._tracking_store_registry.register(
            tracking.SCHEME,
            lambda store_uri=None, artifact_uri=None: ScriptStore(store_uri, artifact_uri, recorder),
        )
        self.uri, self.client = uri, MlflowClient(tracking_uri=uri)

    def told(self, attempt: int = 1, rank: int = 0) -> list[ScriptTracked]:
        self.link.deliver()
        return [ScriptTracked(attempt, rank, m.metrics, m.params, m.tags) for m in self.link.messages]


@pytest.fixture
def rank(tmp_path: Path) -> Rank:
    return Rank(tmp_path)


@pytest.fixture
def script(rank: Rank) -> Iterator[Rank]:
    """The fluent calls go there too."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(rank.uri)
    yield rank
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)


def projected(*attempts: list[ScriptTracked], params: dict[str, str] | None = None) -> tuple[Projection, Any]:
    """The run that MLflow gets."""
    projection, points, seq = Projection(1e9, params), [], itertools.count()
    for number, events in enumerate(attempts, 1):
        for event in (AttemptStarted(number, "h", 1, 2), *events):
            points += projection.fold(Record(next(seq), 0.0, 1e9, event))
    return projection, points + projection.script.rest()


def test_what_is_logged_arrives_and_is_read_back(script: Rank, tmp_path: Path) -> None:
    mlflow.set_experiment("another")
    with mlflow.start_run(run_name="another name", description="why") as run:
        mlflow.log_metrics({"a": 1.0, "b": math.nan, "c": math.inf}, step=3)
        mlflow.log_metric("a", 2.0, step=4)
        mlflow.log_params({"lr": 0.1, "long": "x" * 7000})
        mlflow.set_tags({"who": "me"})
        mlflow.log_text("hello", "d/t.txt")
        mlflow.log_table({"q": [1]}, "table.json")
        mlflow.log_table({"q": [2]}, "table.json")
        read = mlflow.get_run(run.info.run_id)
        (found,) = mlflow.search_runs(
            filter_string="metrics.a > 1 and params.lr = '0.1'", output_format="list"
        )
        assert found.info.run_id == run.info.run_id == tracking.script_run_id(str(tmp_path))
        assert not mlflow.search_runs(filter_string="metrics.a > 2", output_format="list")
        assert [one.value for one in script.client.get_metric_history(run.info.run_id, "a")] == [1.0, 2.0]
    assert (read.info.run_name, read.data.metrics["a"], read.data.tags["who"]) == ("night-1", 2.0, "me")
    assert mlflow.load_table("table.json", run_ids=[run.info.run_id])["q"].tolist() == [1, 2]
    assert (tmp_path / "d" / "t.txt").read_text() == "hello"
    projection, points = projected(script.told())
    arrived = {(point.key, point.step): point.value for point in points}
    assert arrived.pop(("b", 3)) != arrived.get(("b", 3)), "NaN"
    assert arrived == {("a", 3): 1.0, ("a", 4): 2.0, ("c", 3): math.inf}
    assert projection.script.params["lr"] == "0.1"
    assert len(projection.script.params["long"]) == 6000
    assert projection.script.tags.keys() == {"who", "mlflow.note.content", "mlflow.loggedArtifacts"}


def test_the_script_may_end_and_begin_as_it_likes(script: Rank) -> None:
    with mlflow.start_run() as first:
        mlflow.log_metric("a", 1.0, step=1)
    with mlflow.start_run(run_name="again") as second:
        mlflow.log_metric("a", 2.0, step=2)
    with mlflow.start_run(run_id=first.info.run_id) as third:
        mlflow.log_metric("a", 3.0, step=3)
    assert first.info.run_id == second.info.run_id == third.info.run_id
    assert [point.value for point in projected(script.told())[1]] == [1.0, 2.0, 3.0]
    assert mlflow.get_run(first.info.run_id).info.status == "FINISHED", "as the script has left it"


def test_a_nested_run_is_a_prefix(script: Rank) -> None:
    with mlflow.start_run():
        for name in ("fold", "fold", None):
            with mlflow.start_run(nested=True, run_name=name):
                mlflow.log_metric("score", 1.0)
                mlflow.log_param("fold", name)
                mlflow.log_text("x", "x.txt")
    projection, points = projected(script.told())
    assert [point.key for point in points] == ["fold/score", "fold-2/score", "child-3/score"]
    assert set(projection.script.params) == {"fold/fold", "fold-2/fold", "child-3/fold"}


def test_a_parameter_keeps_its_first_value_and_ours_are_ours(script: Rank) -> None:
    with mlflow.start_run():
        for value in (1, 2, 2):
            mlflow.log_param("seed", value)
        mlflow.log_param("job.steps", 7)
        mlflow.set_tags({"status": "mine", "mlflow.runName": "mine", "run": "mine"})
        mlflow.log_metric("loss", 1.0, step=1)
    projection, points = projected(script.told(), params={"job.steps": "9"})
    assert projection.script.params == {"job.steps": "9", "seed": "1"}
    tags = projection.script.tags
    assert tags == {"param.seed": "2", "param.job.steps": "7", "job/status": "mine", "job/run": "mine"}
    assert [point.key for point in points] == ["job/loss"], "beside the loss that the run has"


def test_steps_that_are_done_again_stay_as_they_were_first(tmp_path: Path) -> None:
    def attempt(number: int, first: int, last: int) -> list[ScriptTracked]:
        one = Rank(tmp_path)
        run = one.client.create_run("0").info.run_id
        for step in range(first, last + 1):
            one.client.log_metric(run, "a", number, step=step)
            one.client.log_metric(run, "no_step", number)
            one.client.log_metric(run, "of_epoch", number, step=step % 3)
        return one.told(attempt=number)

    _, points = projected(attempt(1, 1, 28), attempt(2, 21, 40), attempt(3, 31, 50))
    a = [(point.step, point.value) for point in points if point.key == "a"]
    assert a == [(step, 1.0 + (step > 28) + (step > 40)) for step in range(1, 51)]
    count = Counter(point.key for point in points)
    assert count["no_step"] == count["of_epoch"] == 68, "nothing says that these are done again"


def test_ranks_that_are_not_listened_to_log_into_nothing(tmp_path: Path) -> None:
    registry = artifact_repository_registry._artifact_repository_registry
    registry.register(tracking.SCHEME, NoArtifacts)
    rank = Rank(tmp_path, forward=False)
    run = rank.client.create_run("0").info.run_id
    rank.client.log_metric(run, "a", 1.0)
    for _ in range(2):
        rank.client.log_table(run, {"q": [1]}, "t.json")
    assert rank.client.get_run(run).data.metrics == {"a": 1.0}
    assert not rank.told()
    assert not list(tmp_path.iterdir())


def test_other_ranks_have_names_of_their_own(rank: Rank) -> None:
    run = rank.client.create_run("0").info.run_id
    rank.client.log_metric(run, "a", 1.0)
    rank.client.log_param(run, "p", 1)
    projection, (point,) = projected(rank.told(rank=3))
    assert (point.key, list(projection.script.params)) == ("rank-3/a", ["rank-3/p"])


def test_what_has_no_room_is_counted(rank: Rank) -> None:
    run = rank.client.create_run("0").info.run_id
    metrics = [Metric("a", 1.0, 0, step) for step in range(1000)]
    for _ in range(tracking.MOST_WAITING_POINTS // 1000 + 2):
        rank.client.log_batch(run, metrics)
    rank.link.deliver()
    assert sum(len(m.metrics.get("a", ())) for m in rank.link.messages) == tracking.MOST_WAITING_POINTS
    assert sum(message.dropped for message in rank.link.messages) == 2000
    assert len(rank.client.get_metric_history(run, "a")) == 10_000, "what is read back is bounded too"


@pytest.mark.filterwarnings("ignore::UserWarning")  # of MLflow's own type hints, when it imports them
def test_a_model_is_among_the_artifacts(script: Rank, tmp_path: Path) -> None:
    class Twice(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: list[int], params: Any = None) -> list[int]:
            return [2 * one for one in model_input]

    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(name="twice", python_model=Twice(), pip_requirements=[])
    assert list(tmp_path.glob("models/*/MLmodel"))
    assert mlflow.pyfunc.load_model(info.model_uri).predict([1, 2]) == [2, 4]


def test_what_belongs_to_the_run_or_a_server_is_refused_in_one_line(rank: Rank) -> None:
    run = rank.client.create_run("0").info.run_id
    for call in (
        lambda: rank.client.delete_run(run),
        lambda: rank.client.delete_experiment("0"),
        lambda: rank.client.rename_experiment("0", "x"),
        lambda: rank.client.get_run("0" * 32),
        refuse_registry,
    ):
        with pytest.raises(MlflowException) as raised:
            call()
        assert len(str(raised.value).splitlines()) == 1


_KEYS = st.sampled_from(["a", "b/c", "é x", "k" * 300])
_CALL = st.one_of(
    st.tuples(st.just("metric"), _KEYS, st.floats(allow_nan=False), st.integers(0, 5)),
    st.tuples(st.just("batch"), st.lists(st.tuples(_KEYS, st.floats(allow_nan=False)), max_size=4)),
    st.tuples(st.just("param"), _KEYS, st.text(max_size=5)),
    st.tuples(st.just("tag"), _KEYS, st.text(max_size=5)),
    st.tuples(st.just("deliver"), st.integers(1, 3)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(_CALL, max_size=30))
def test_whatever_is_called_arrives_once_and_in_order(tmp_path: Path, calls: list[tuple[Any, ...]]) -> None:
    rank = Rank(tmp_path)
    store = utils._get_store(rank.uri)  # the client refuses names, which is not what is asked here
    run, told = tracking.script_run_id(str(tmp_path)), []
    params: dict[str, list[str]] = {}
    tags: dict[str, str] = {}
    for kind, *rest in calls:
        if kind == "metric":
            key, value, step = rest
            told.append((key[:250], step, value))
            store.log_metric(run, Metric(key, value, 1, step))
        elif kind == "batch":
            told += [(key[:250], 0, value) for key, value in rest[0]]
            store.log_batch(run, [Metric(key, value, 1, 0) for key, value in rest[0]], [], [])
        elif kind == "param":
            params.setdefault(rest[0][:250], []).append(rest[1])
            store.log_param(run, Param(*rest))
        elif kind == "tag":
            tags[rest[0][:250]] = rest[1]
            store.set_tag(run, RunTag(*rest))
        else:
            rank.link.deliver(*rest)
    rank.link.deliver()
    for key in {key for key, _, _ in told}:
        arrived = [p for message in rank.link.messages for p in message.metrics.get(key, [])]
        assert [(step, value) for step, _, value in arrived] == [t[1:] for t in told if t[0] == key]
    seen: dict[str, list[str]] = {}
    for message in rank.link.messages:
        for key, value in message.params.items():
            seen.setdefault(key, []).append(value)
    assert {key: values[0] for key, values in seen.items()} == {
        key: values[0] for key, values in params.items()
    }
    assert {key: set(values) for key, values in seen.items()} == {k: set(v) for k, v in params.items()}
    assert {key: value for m in rank.link.messages for key, value in m.tags.items()} == tags
