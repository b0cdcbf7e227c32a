"""MLflow in PostgreSQL, on a real server: the sink, `compare`, the check before a run, and a whole run."""

from __future__ import annotations

import importlib.util
import json
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.ledger.journal import replay
from orchestrator.ledger.meter import Meter
from orchestrator.ledger.mlflow.uri import check_tracking
from tests.faults.invariants import mlflow_agrees
from tests.faults.runs import MARKS, Run, User
from tests.services.postgresql import AT_ONCE, IN_ORDER, Postgres
from tests.services.processes import START_S
from tests.services.runs import SHORT
from tests.support.ports import free_port
from tests.support.sink_harness import (
    END,
    Sinks,
    Writer,
    assert_faithful,
    cursor,
    ended,
    log_of,
    story,
    the_run,
    track,
    until,
)

pytestmark = MARKS

STEPS = 60
IMPORT_S = 40.0  # of MLflow, on a busy machine; 2 s at rest
# In a process of its own: a database with a connection cannot be copied.
MAKE_TABLES = "import sys, mlflow; mlflow.MlflowClient(tracking_uri=sys.argv[1]).search_experiments()"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """With a database that has MLflow's tables: making them takes longer than all that most tests do with
    them."""
    server = Postgres()
    try:
        server.start()
        server.ask("CREATE DATABASE empty")
        subprocess.run([sys.executable, "-c", MAKE_TABLES, server.uri("empty")], check=True, timeout=START_S)
        yield server
    finally:
        server.close()


@pytest.fixture
def uri(postgres: Postgres) -> str:
    """A database of the test's own."""
    name = f"test_{secrets.token_hex(4)}"
    postgres.ask(f"CREATE DATABASE {name} TEMPLATE empty")
    return postgres.uri(name)


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    one = User(tmp_path)
    yield one
    one.close()


def test_postgresql_gets_everything_once(run_dir: Path, sinks: Sinks, uri: str) -> None:
    track(run_dir, uri)
    Writer(run_dir).write([*story(STEPS), *END])
    assert ended(sinks(run_dir)) == ""
    assert_faithful(uri, run_dir, STEPS)
    client, run = the_run(uri)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "night-1")
    assert run.data.params["job.args"].endswith("x … (cut, 7000 characters in all)")
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert artifacts == {"config.yaml", "incidents.json", "journal.jsonl", "logs"}

    # Once more from the start: MLflow keeps one of each.
    state = json.loads((run_dir / "mlflow_sink.json").read_text())
    (run_dir / "mlflow_sink.json").write_text(json.dumps(state | {"written_seq": -1}))
    assert ended(sinks(run_dir)) == ""
    assert_faithful(uri, run_dir, STEPS)


@pytest.mark.parametrize("how", [IN_ORDER, AT_ONCE], ids=["in order", "at once"])
def test_a_server_that_is_stopped_in_the_middle_and_started_again_lacks_nothing(
    how: int, run_dir: Path, sinks: Sinks, uri: str, postgres: Postgres
) -> None:
    track(run_dir, uri)
    writer = Writer(run_dir)
    events = list(story(STEPS))
    writer.write(events[:30])
    sink = sinks(run_dir)
    until(lambda: cursor(run_dir) == 29, 60)
    postgres.stop(how)
    try:
        writer.write([*events[30:45]])
        until(lambda: "not written" in log_of(run_dir), 60)
        assert cursor(run_dir) == 29, "the cursor waits for what the server has"
        writer.write([*events[45:], *END])
        assert sink.poll() is None, "the run's end does not end what waits for the server"
    finally:
        postgres.start()
    assert ended(sink) == ""
    assert_faithful(uri, run_dir, STEPS)
    assert the_run(uri)[1].info.status == "FINISHED"


def test_the_sink_gives_up_in_time_on_a_server_that_never_comes(run_dir: Path, sinks: Sinks) -> None:
    track(run_dir, f"postgresql://ada@127.0.0.1:{free_port()}/nothing")
    Writer(run_dir).write([*story(STEPS), *END])
    sink = sinks(run_dir, timeout_s=2)
    _, stderr = sink.communicate(timeout=IMPORT_S)
    assert "did not take everything" in stderr


def test_a_database_whose_driver_is_missing_is_refused_in_a_line(postgres: Postgres, user: User) -> None:
    """The server is there; MySQL's driver is not."""
    assert importlib.util.find_spec("MySQLdb") is None
    shown = user.command("compare", f"tracking.uri=mysql://ada@127.0.0.1:{postgres.port}/whole")
    assert shown.returncode == 2, shown.stderr
    assert "the database's driver MySQLdb is not installed" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_compare_reads_from_postgresql(run_dir: Path, sinks: Sinks, uri: str, user: User) -> None:
    track(run_dir, uri)
    Writer(run_dir).write([*story(STEPS), *END])
    assert ended(sinks(run_dir)) == ""
    shown = user.command("compare", "--json", f"tracking.uri={uri}", "tracking.experiment=exp")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    (row,) = json.loads(shown.stdout)
    bill = Meter().fold_all(replay(run_dir / "journal.jsonl")).bill()
    assert (row["name"], row["status"], row["cluster"], row["gpus"]) == ("night-1", "finished", "lab", 4)
    for name in ("gpu_hours", "cost_usd", "goodput", "restarts", "tokens", "tokens_per_s"):
        assert row[name] == pytest.approx(getattr(bill, name)), name
    assert row["final_loss"] == pytest.approx(5.0 / STEPS)


def test_a_server_that_is_down_is_named_and_its_password_is_not(
    postgres: Postgres, uri: str, user: User
) -> None:
    assert check_tracking(uri, 3) is None
    postgres.stop()
    try:
        reason = check_tracking(uri, 3)
        assert reason == f"tracking database at 127.0.0.1:{postgres.port} does not answer: Connection refused"
        run = user.start(
            "refused", *SHORT, f"tracking.uri={uri}", "tracking.required=true", tracked=True
        ).ended()
        compared = user.command("compare", f"tracking.uri={uri}")
    finally:
        postgres.start()
    assert run.code == compared.returncode == 5, run.text + compared.stderr
    assert run.events() == [], "refused before it costs anything"
    for said in (run.text, compared.stdout + compared.stderr):
        assert reason in " ".join(said.split())
        assert postgres.password not in said
        assert "Traceback" not in said


@pytest.mark.parametrize(
    ("who", "database", "told"),
    [
        ("ada:of-somebody-else", "empty", "does not let user 'ada' in"),
        ("ada", "empty", "does not let user 'ada' in"),
        ("nobody:of-somebody-else", "empty", "does not let user 'nobody' in"),
        (f"ada:{Postgres.password}", "nowhere", "has no such database"),
    ],
)
def test_whom_the_server_does_not_let_in_is_bad_input(
    who: str, database: str, told: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGPASSWORD", "PGPASSFILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError) as raised:
        check_tracking(f"postgresql://{who}@127.0.0.1:{postgres.port}/{database}", START_S)
    assert told in str(raised.value)
    assert not any(secret in str(raised.value) for secret in ("of-somebody-else", postgres.password))


def test_a_wrong_password_is_refused_before_anything_starts(postgres: Postgres, user: User) -> None:
    at = f"tracking.uri=postgresql://ada:of-somebody-else@127.0.0.1:{postgres.port}/empty"
    run = user.start("refused", *SHORT, at, tracked=True).ended()
    compared = user.command("compare", at)
    assert run.code == compared.returncode == 2, run.text + compared.stderr
    assert not run.folder.exists()
    for said in (run.text, compared.stderr):
        line = " ".join(said.split())
        assert f"tracking.uri: the database at 127.0.0.1:{postgres.port} does not let user 'ada' in" in line
        assert "write there the user and the password that it takes" in line
        assert "of-somebody-else" not in said
        assert "Traceback" not in said


def test_a_password_that_is_wrong_for_a_while_costs_no_run_its_record(
    run_dir: Path, sinks: Sinks, uri: str, postgres: Postgres
) -> None:
    postgres.ask("CREATE ROLE bob LOGIN SUPERUSER PASSWORD 'of-before'")
    track(run_dir, uri.replace(f"{postgres.user}:{postgres.password}", "bob:of-now"))
    writer = Writer(run_dir)
    writer.write(list(story(STEPS)))
    sink = sinks(run_dir)
    until(lambda: "does not let user 'bob' in" in log_of(run_dir), IMPORT_S)
    postgres.ask("ALTER ROLE bob PASSWORD 'of-now'")
    until(lambda: cursor(run_dir) > 0, IMPORT_S)
    writer.write(END)
    said = ended(sink)
    assert "does not let user 'bob' in" in said, "at once, since no waiting mends it"
    assert "written again after" in said
    assert "of-now" not in said + log_of(run_dir)
    assert_faithful(uri, run_dir, STEPS)


@pytest.fixture(scope="module")
def tracked(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[User, Run]]:
    """A whole run, into a database in which there is nothing yet."""
    postgres.ask("CREATE DATABASE whole")
    one = User(tmp_path_factory.mktemp("user"))
    yield one, one.start("tiny", *SHORT, f"tracking.uri={postgres.uri('whole')}", tracked=True).ended()
    one.close()


def test_a_real_run_is_recorded_in_postgresql(tracked: tuple[User, Run], postgres: Postgres) -> None:
    user, run = tracked
    assert run.code == 0, run.text
    assert "MLflow could not be brought up to date" not in run.text
    mlflow_agrees(run, postgres.uri("whole"))
    shown = user.command("compare", "--json", f"tracking.uri={postgres.uri('whole')}")
    assert [row["name"] for row in json.loads(shown.stdout)] == ["tiny"]
    assert postgres.ask("SELECT status FROM runs", "whole") == "FINISHED", "whatever MLflow's client says"


def test_the_password_is_in_no_file_that_others_may_read(
    tracked: tuple[User, Run], postgres: Postgres
) -> None:
    _, run = tracked
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    telling = [path for path in files if postgres.password.encode() in path.read_bytes()]
    assert telling, "resume and sync need it"
    assert [path.name for path in telling if path.stat().st_mode & 0o077] == []


def test_the_password_is_not_in_what_is_printed(tracked: tuple[User, Run], postgres: Postgres) -> None:
    _, run = tracked
    assert postgres.password not in run.text
    assert re.search(r"postgresql://ada:\*\*\*@127\.0\.0\.1", run.text), "where to look is said all the same"


def test_the_artifacts_of_a_run_lie_beside_the_runs(tracked: tuple[User, Run], postgres: Postgres) -> None:
    user, run = tracked
    assert not (user.folder / "mlruns").exists(), "nothing is left in the working directory"
    client, recorded = the_run(postgres.uri("whole"), "orchestrator")
    place = run.folder.parent / "mlartifacts"
    assert Path(recorded.info.artifact_uri).is_relative_to(place)
    assert place.stat().st_mode & 0o777 == 0o700
    names = {item.path for item in client.list_artifacts(recorded.info.run_id)}
    assert {"config.yaml", "journal.jsonl", "logs"} <= names


def test_a_place_of_artifacts_that_is_closed_here_costs_no_run_its_record(
    run_dir: Path, sinks: Sinks, uri: str, tmp_path: Path
) -> None:
    """An experiment of somebody else's, who keeps its artifacts where this machine has no folder."""
    from mlflow.tracking import MlflowClient

    (tmp_path / "a-file").write_text("")
    MlflowClient(tracking_uri=uri).create_experiment("exp", artifact_location=f"{tmp_path}/a-file/theirs")
    track(run_dir, uri)
    Writer(run_dir).write([*story(STEPS), *END])
    assert ended(sinks(run_dir)) == ""
    assert_faithful(uri, run_dir, STEPS)
    assert the_run(uri)[1].info.status == "FINISHED"
    assert f"{run_dir} has them all" in log_of(run_dir)
