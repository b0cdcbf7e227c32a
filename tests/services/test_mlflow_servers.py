"""MLflow's own server over HTTP, which asks for a password, on SQLite and on PostgreSQL: what a person does with
it, many runs at once, and its end in the middle."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.events import StepDone
from orchestrator.ledger.journal import replay
from orchestrator.ledger.meter import Meter
from orchestrator.ledger.mlflow.views import NOTE, SHARED_VIEW, VIEWS
from tests.faults.invariants import mlflow_agrees
from tests.faults.runs import MARKS, Run, User
from tests.services.mlflow_auth import PASSWORD, AuthServer
from tests.services.postgresql import Postgres
from tests.services.runs import SHORT
from tests.support.sink_harness import (
    END,
    Sinks,
    Writer,
    assert_faithful,
    cursor,
    ended,
    forked_sinks,
    log_of,
    new_run_dir,
    story,
    track,
    until,
)

pytestmark = MARKS

STEPS = 60
TOGETHER, STEPS_OF_EACH = 20, 30
# As it is, and as an address has it.
WRITTEN = (PASSWORD, "not-to%2Fbe%40shown%3A9", "not-to/be")


@dataclass
class Place:
    """A server, and what its database holds as text."""

    server: AuthServer
    content: Callable[[], str]
    name: str


def on_sqlite(folder: Path, empty_database: Path) -> Place:
    database = folder / "mlflow.db"
    database.write_bytes(empty_database.read_bytes())
    server = AuthServer(folder, f"sqlite:///{database}")
    return Place(server, lambda: database.read_bytes().decode(errors="replace"), "sqlite")


def in_postgresql(folder: Path, postgres: Postgres) -> Place:
    server = AuthServer(folder, postgres.uri("postgres"))
    return Place(server, lambda: postgres.ask("SELECT database_to_xml(true, false, '')"), "postgresql")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp(request.param)
    postgres = Postgres() if request.param == "postgresql" else None
    one: Place | None = None
    try:
        if postgres is not None:
            postgres.start()
            one = in_postgresql(folder, postgres)
        else:
            one = on_sqlite(folder, empty_database)
        one.server.start()
        one.server.add_user()
        yield one
    finally:
        if one is not None:
            one.server.close()
        if postgres is not None:
            postgres.close()


@pytest.fixture
def experiment() -> str:
    """One of the test's own."""
    return f"exp-{secrets.token_hex(4)}"


def client_of(place: Place) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=place.server.uri)


# --- one run, as a person has it ----------------------------------------------------------------


@dataclass
class Tracked:
    """A run whose driver was killed and which was taken up again, and all that was printed meanwhile."""

    user: User
    run: Run
    uri: str
    printed: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def tracked(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracked]:
    """With the credentials in the environment on the one server, and in the address of the other."""
    in_address = place.name == "postgresql"
    uri = place.server.uri if in_address else place.server.url
    user = User(tmp_path_factory.mktemp("user"), {} if in_address else place.server.variables)
    try:
        told = user.folder / "told"
        words = [f"tracking.uri={uri}", "tracking.required=true", f'notify.command="cat >> {told}"']
        first = user.start("night", *words, tracked=True)
        first.wait_for(StepDone, step=8)
        first.driver.kill()
        killed = first.ended()
        run = user.resume("night").ended()
        yield Tracked(user, run, uri, [killed.text, run.text, told.read_text()])
    finally:
        user.close()


def test_a_run_is_recorded_over_its_driver_s_death(tracked: Tracked, place: Place) -> None:
    assert tracked.run.code == 0, tracked.run.text
    assert "MLflow could not be brought up to date" not in tracked.run.text
    mlflow_agrees(tracked.run, place.server.uri)


def test_compare_shows_what_it_cost(tracked: Tracked) -> None:
    shown = tracked.user.command("compare", "--json", f"tracking.uri={tracked.uri}")
    assert shown.returncode == 0, shown.stderr
    (row,) = json.loads(shown.stdout)
    bill = Meter().fold_all(tracked.run.records()).bill()
    assert (row["name"], row["status"], row["restarts"]) == ("night", "finished", bill.restarts)
    assert row["cost_usd"] == pytest.approx(bill.cost_usd)


def test_the_experiment_has_its_views_and_the_run_its_description(tracked: Tracked, place: Place) -> None:
    client = client_of(place)
    found = client.get_experiment_by_name("orchestrator")
    assert {SHARED_VIEW + view.key for view in VIEWS} <= found.tags.keys()
    (run,) = client.search_runs([found.experiment_id])
    assert "spent on" in run.data.tags[NOTE]
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "journal.jsonl", "incidents.json", "logs"} <= artifacts
    page = f"{place.server.url}/#/experiments/{found.experiment_id}/runs?viewStateShareKey=cost"
    assert page in tracked.run.text, "without the password"


def test_the_password_is_nowhere_but_in_what_its_owner_alone_may_read(tracked: Tracked, place: Place) -> None:
    """And there only where it was a part of an address, which `resume` and `sync` need."""
    shown = [tracked.user.command(*words).stdout for words in (("runs",), ("compare",), ("report", "night"))]
    for said in (*tracked.printed, *shown, place.content()):
        assert not any(way in said for way in WRITTEN), said[-2000:]
    files = [path for path in tracked.user.folder.rglob("*") if path.is_file()]
    files += [path for path in (place.server.folder / "artifacts").rglob("*") if path.is_file()]
    telling = [path for path in files if any(way.encode() in path.read_bytes() for way in WRITTEN)]
    assert {path.name for path in telling} == (
        {"tracking.json", "resume.json", "mlflow_sink.json"} if "@" in tracked.uri else set()
    )
    assert [path for path in telling if path.stat().st_mode & 0o077] == []


def test_a_wrong_password_is_refused_before_anything_starts(place: Place, tmp_path: Path) -> None:
    wrong = {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "of-somebody-else"}
    user = User(tmp_path, wrong)
    at = f"tracking.uri={place.server.url}"
    run = user.start("refused", *SHORT, at, tracked=True).ended()
    compared = user.command("compare", at)
    assert run.code == compared.returncode == 2, run.text + compared.stderr
    assert not run.folder.exists()
    for said in (run.text, compared.stderr):
        line = " ".join(said.split())
        assert (
            "does not take the credentials of MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in line
        )
        assert "of-somebody-else" not in said
        assert "Traceback" not in said


# --- the process that tells it ------------------------------------------------------------------


def test_a_server_that_dies_in_the_middle_lacks_nothing_and_has_nothing_twice(
    place: Place, run_dir: Path, sinks: Sinks, experiment: str
) -> None:
    track(run_dir, place.server.uri, experiment=experiment)
    writer, events = Writer(run_dir), list(story(STEPS))
    writer.write(events[:30])
    sink = sinks(run_dir)
    until(lambda: cursor(run_dir) == 29)
    place.server.kill()
    try:
        writer.write(events[30:45])
        until(lambda: "not written" in log_of(run_dir))
        assert cursor(run_dir) == 29, "the cursor waits for what the server has"
        writer.write([*events[45:], *END])
        assert sink.poll() is None, "the run's end does not end what waits for the server"
    finally:
        place.server.start()
    told = ended(sink).splitlines()
    assert all(
        line.startswith((f"{place.server.url} does not answer: ", "written again")) for line in told
    ), told
    assert_faithful(place.server.uri, run_dir, STEPS, experiment)
    assert f"{place.server.url} does not answer: " in log_of(run_dir)
    assert not any(way in log_of(run_dir) for way in WRITTEN)


def test_twenty_runs_write_at_once(place: Place, tmp_path: Path, experiment: str) -> None:
    run_dirs = [new_run_dir(tmp_path / str(number)) for number in range(TOGETHER + 1)]
    for number, run_dir in enumerate(run_dirs):
        track(run_dir, place.server.uri, experiment=experiment, run_name=f"run-{number}")
        Writer(run_dir).write([*story(STEPS_OF_EACH), *END])
    done = forked_sinks("at-once", *run_dirs)
    assert done.returncode == 0, done.stderr + "".join(map(log_of, run_dirs))[-4000:]
    client = client_of(place)
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert {run.info.run_name for run in runs} == {f"run-{number}" for number in range(TOGETHER + 1)}
    bill = Meter().fold_all(replay(run_dirs[0] / "journal.jsonl")).bill()
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.metrics["cost_usd"] == pytest.approx(bill.cost_usd)
        losses = client.get_metric_history(run.info.run_id, "loss")
        assert sorted(point.step for point in losses) == list(range(1, STEPS_OF_EACH + 1))


def test_an_experiment_that_one_may_only_read_is_named_with_whom_to_ask(
    place: Place, run_dir: Path, sinks: Sinks, experiment: str
) -> None:
    """Nobody waits for a minute for what no waiting mends."""
    place.server.add_closed_experiment(experiment)
    track(run_dir, place.server.uri, experiment=experiment)
    Writer(run_dir).write([*story(STEPS), *END])
    told = ended(sinks(run_dir, timeout_s=600), exit_code=1)
    assert (
        f"does not let this user write to experiment '{experiment}' (HTTP 403); ask whoever keeps it" in told
    )
    assert not any(way in told for way in WRITTEN)
