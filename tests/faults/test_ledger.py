"""Faults of what is beside the run: MLflow and the wall clock.

==================================  =======================  =========================================================
fault                               time                     expected
==================================  =======================  =========================================================
MLflow down                         until after the end      said; the run goes on; `sync` tells MLflow all of it
MLflow down                         until the middle         said, and that it answers; it has all, from the start
MLflow SIGKILL, started again       in the middle            nothing is missing in the end
MLflow SIGKILL                      until after the end      said; exit code 0; `sync` adds the rest, once
MLflow SIGSTOP                      in the middle            no step waits for it
its process SIGKILL                 in the middle            said; another goes on from there, nothing is missing
wall clock set back by an hour      between two checkpoints  no time is counted twice or lost; MLflow has the last bill
==================================  =======================  =========================================================
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

import pytest

from orchestrator.events import RankLost, RunStarted, StepDone
from tests.faults.faults import event, fail
from tests.faults.invariants import finished_like, mlflow_agrees
from tests.faults.runs import MARKS, Run, User
from tests.support.mlflow_server import Server

pytestmark = MARKS

CLOCK = Path(__file__).with_name("clock")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Server]:
    """Down at first; what one test has started serves the next."""
    one = Server(tmp_path_factory.mktemp("server"), empty_database)
    yield one
    one.close()


def tracked(server: Server) -> list[str]:
    return [f"tracking.uri={server.uri}", "tracking.required=false", "tracking.flush_s=0.5"]


@pytest.fixture(scope="module")
def without_mlflow(keeper: User, server: Server) -> Run:
    """A run from whose start to whose end it was down."""
    return keeper.start("mlflow-late", *tracked(server), tracked=True).ended()


def test_mlflow_started_after_the_run(keeper: User, whole: Run, server: Server, without_mlflow: Run) -> None:
    run = keeper.start("mlflow-later", *tracked(server), tracked=True, pace_s=10)
    run.wait_for(RunStarted)
    server.start()
    server.wait()
    run.hurry()
    run.ended()
    finished_like(run, whole)
    said = " ".join(run.text.split())
    assert "going on without it, the journal keeps everything" in said
    assert "MLflow answers now: the run is recorded, from its start" in said
    mlflow_agrees(run, server.uri)


def test_mlflow_down_at_the_start(keeper: User, whole: Run, server: Server, without_mlflow: Run) -> None:
    run = without_mlflow
    finished_like(run, whole)
    assert "going on without it, the journal keeps everything" in " ".join(run.text.split())
    assert f"Later: {sys.executable} -m orchestrator sync {run.folder}" in run.text
    server.start()
    server.wait()
    synced = keeper.command("sync", "mlflow-late")
    assert synced.returncode == 0, synced.stdout + synced.stderr
    mlflow_agrees(run, server.uri)


def test_mlflow_down_in_the_middle(keeper: User, whole: Run, server: Server) -> None:
    server.start()
    server.wait()
    run = keeper.start("mlflow-away", *tracked(server), tracked=True)
    run.wait_for(StepDone, step=4)
    server.tell(SIGKILL)
    run.wait_for(StepDone, step=9)
    server.start()
    server.wait()
    run.hurry()
    run.ended()
    finished_like(run, whole)
    mlflow_agrees(run, server.uri)


def test_mlflow_down_until_after_the_end(keeper: User, whole: Run, server: Server) -> None:
    server.start()
    server.wait()
    run = keeper.start("mlflow-gone", *tracked(server), "tracking.finish_timeout_s=3", tracked=True)
    run.wait_for(StepDone, step=9)
    server.tell(SIGKILL)
    run.hurry()
    run.ended()
    finished_like(run, whole)
    assert "MLflow could not be brought up to date" in run.text
    server.start()
    server.wait()
    for said in ("new records", "up to date"):
        synced = keeper.command("sync", "mlflow-gone")
        assert synced.returncode == 0, synced.stdout + synced.stderr
        assert said in synced.stdout
        mlflow_agrees(run, server.uri)


def test_mlflow_hangs_in_the_middle(keeper: User, whole: Run, server: Server) -> None:
    server.start()
    server.wait()
    run = keeper.start("mlflow-hangs", *tracked(server), tracked=True)
    run.wait_for(StepDone, step=4)
    server.tell(SIGSTOP)
    try:
        run.wait_for(StepDone, step=20)
    finally:
        server.tell(SIGCONT)
    run.ended()
    finished_like(run, whole)
    mlflow_agrees(run, server.uri)


def test_the_process_that_tells_mlflow_sigkill(keeper: User, whole: Run) -> None:
    run = keeper.start("sink-killed", fail(sink=0).at(step=9).by(SIGKILL), tracked=True).ended()
    finished_like(run, whole)
    assert "the process that tells it was killed by SIGKILL; another is started in 1 s" in run.text
    assert "MLflow could not be brought up to date" not in run.text
    mlflow_agrees(run, f"sqlite:///{keeper.folder}/runs/mlflow.db")


def test_wall_clock_set_back(tmp_path: Path, whole: Run, empty_database: Path) -> None:
    """The rank is killed after it, so that the order in which ranks end is told by that clock, too."""
    switch = tmp_path / "set-back"
    user = User(tmp_path, {"PYTHONPATH": str(CLOCK), "CLOCK_SET_BACK": str(switch)}, empty_database)
    try:
        run = user.start("clock", fail(rank=1).during(event(StepDone, step=10)).by(SIGKILL), tracked=True)
        run.wait_for(StepDone, step=8)
        switch.touch()
        run.ended()
        finished_like(run, whole)
        times = [record.time_unix_s for record in run.records()]
        assert min(after - before for before, after in itertools.pairwise(times)) < -3000, "it was set back"
        elapsed = [record.elapsed_s for record in run.records()]
        assert elapsed == sorted(elapsed)
        assert elapsed[-1] < 600
        (lost,) = run.of(RankLost)
        assert (lost.rank, lost.reason) == (1, "killed by SIGKILL")
        mlflow_agrees(run, f"sqlite:///{user.folder}/runs/mlflow.db")
    finally:
        user.close()
