"""Every worker group is held to the published contract: the fake that plays a script, and the one on real
Ray."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.errors import Cancelled, ClusterError, NodeMismatch, NotEnoughResources
from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    Event,
    MetricLogged,
    Outcome,
    RankLost,
    RankOutput,
    ResourcesGranted,
)
from orchestrator.supervise.worker_group import WorkerGroup
from orchestrator.testing.worker_group import Behaviour, WorkerGroupContract
from tests.support.fakes import FakeGroup, fail
from tests.support.folders import SCRIPTS
from tests.support.texts import text_so_far

SCRIPT = SCRIPTS / "group_job.py"
TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    from orchestrator.cluster.session import connect

    with connect(None, cpus=4, dashboard=False):
        yield


def assignment(tmp_path: Path, behaviour: str, zygote: bool = False, **changes: object):
    from orchestrator.agent import facts
    from tests.support import assignments

    fields: dict[str, object] = {
        "run": tmp_path.name,
        "run_dir": str(tmp_path / "run"),
        "checkpoint_dir": str(tmp_path / "run" / "checkpoints"),
        "script": str(SCRIPT),
        "args": [f"--then={behaviour}"],
        "cwd": str(tmp_path),
        "environment": {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        "world_size": 2,
        "zygote": zygote,
        "expected": facts.observe(SCRIPT, [], tmp_path),
        "corpus": [],
        "kill_grace_s": 0.5,
    }
    return assignments.assignment(**{**fields, **changes})


def _fake(behaviour: str) -> FakeGroup:
    endless = 10**9
    return {
        "finish": FakeGroup(steps=3),
        "wait": FakeGroup(steps=endless, save_every=0),
        "deaf": FakeGroup(steps=endless, save_every=0, ignores_stop=True),
        "raise": FakeGroup(faults=[fail(rank=1).at(2).by("ValueError: bad luck on rank 1")] * 2),
        "sigkill": FakeGroup(faults=[fail(rank=1).at(2).by("", -9)] * 2),
    }[behaviour]


def begin(group: WorkerGroup, attempt: int = 1) -> AttemptStarted:
    if attempt == 1:
        granted = group.acquire(lambda: False)
        assert isinstance(granted, ResourcesGranted)
        assert granted.nodes
        assert granted.gpus == 2
    started = group.start(attempt)
    assert started.attempt == attempt
    return started


def until_up(group: WorkerGroup, run_dir: Path) -> None:
    """Until all ranks hear what they are told; they say so."""
    logs = [run_dir / "logs" / f"attempt-1.rank-{rank}.log" for rank in range(2)]
    deadline = time.monotonic() + TIMEOUT_S
    while not all("hello" in text_so_far(log) for log in logs):
        assert time.monotonic() < deadline, "the ranks did not start"
        group.poll()
        time.sleep(0.02)
    group.poll()


def until_ended(group: WorkerGroup, timeout_s: float = TIMEOUT_S) -> list[Event]:
    events: list[Event] = []
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        events += group.poll()
        if any(isinstance(e, AttemptEnded) for e in events):
            assert group.poll() == [], "nothing follows an attempt's end"
            return events
        time.sleep(0.02)
    raise AssertionError(f"no end within {timeout_s} s, only {events}")


def outcome(events: list[Event]) -> Outcome:
    ends = [e for e in events if isinstance(e, AttemptEnded)]
    assert len(ends) == 1
    assert events[-1] == ends[0]
    return ends[0].outcome


class TestFakeGroup(WorkerGroupContract):
    """The one that plays a script holds to what the real one does: tests of the loop rest on it."""

    def make(self, behaviour: Behaviour) -> WorkerGroup:
        return _fake(behaviour)

    def stop_the_deaf(self, group: WorkerGroup) -> None:
        super().stop_the_deaf(group)
        assert not any(isinstance(event, AttemptEnded) for event in group.poll())
        group.kill()  # it counts no time, so its grace is never over by itself


@pytest.mark.real
class TestRayGroup(WorkerGroupContract):
    """On a Ray of its own, with ranks that are processes."""

    @pytest.fixture(autouse=True)
    def _on_ray(self, ray_cluster: None, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make(self, behaviour: Behaviour) -> WorkerGroup:
        from orchestrator.cluster.group import RayWorkerGroup

        return RayWorkerGroup(assignment(self.folder, behaviour), 1, 5.0, 60.0)

    def wait_until_up(self, group: WorkerGroup) -> None:
        until_up(group, self.folder / "run")


# ---- what only the real one can show ---------------------------------------------------------


@pytest.mark.real
def test_output_metrics_and_logs_reach_the_driver(
    ray_group: Callable[..., WorkerGroup], tmp_path: Path
) -> None:
    group = ray_group("finish")
    begin(group)
    events = until_ended(group)
    assert [e.text for e in events if isinstance(e, RankOutput)] == ["hello from rank 0 of 2"]
    assert [e.metrics for e in events if isinstance(e, MetricLogged)] == [{"answer": 42.5}]
    assert [e.step for e in events if isinstance(e, MetricLogged)] == [3]
    assert "hello from rank 1 of 2" in (tmp_path / "run/logs/attempt-1.rank-1.log").read_text()


@pytest.mark.real
def test_a_log_keeps_to_its_bound_while_its_lines_are_heard(
    ray_group: Callable[..., WorkerGroup], tmp_path: Path
) -> None:
    most_bytes, told = 4 * 1024 * 1024, []
    group = ray_group("noise", log_max_bytes=most_bytes, notice=told.append)
    logs = [tmp_path / f"run/logs/attempt-1.rank-{rank}.log" for rank in range(2)]
    begin(group)
    events: list[Event] = []
    deadline_s = time.monotonic() + TIMEOUT_S
    for step in range(1, 11):
        while {"answer": step} not in [event.metrics for event in events if isinstance(event, MetricLogged)]:
            assert time.monotonic() < deadline_s, f"step {step} was not heard of: {events[-3:]}"
            events += group.poll()
        assert logs[0].stat().st_blocks * 512 <= most_bytes
        (tmp_path / f"go-on-{step}").touch()
    assert outcome(events + until_ended(group)) is Outcome.FINISHED
    for rank, log in enumerate(logs):
        assert log.stat().st_size > 50_000_000
        assert log.stat().st_blocks * 512 <= most_bytes
        lines = log.read_text().splitlines()
        assert (lines[0], lines[-1]) == (f"hello from rank {rank} of 2", "the last line")
        assert '{"step": 10, "answer": 10}' in lines
    assert [text.partition(": ")[2] for text in told] == [
        f"logs have reached launch.log_max_bytes={most_bytes}: from here on what lies between their first and"
        " last lines is left out of them"
    ]


@pytest.fixture
def ray_group(ray_cluster: None, tmp_path: Path) -> Iterator[Callable[..., WorkerGroup]]:
    from orchestrator.cluster.group import RayWorkerGroup

    made = []

    def build(behaviour: str = "wait", nodes: int = 1, wait_s: float = 2.0, **changes: Any) -> WorkerGroup:
        notice = changes.pop("notice", lambda _text: None)
        made.append(RayWorkerGroup(assignment(tmp_path, behaviour, **changes), nodes, wait_s, 60.0, notice))
        return made[-1]

    yield build
    for group in made:
        group.close()


@pytest.mark.real
def test_a_stop_is_for_the_rank_and_not_for_its_data_loaders(
    ray_group: Callable[..., WorkerGroup], tmp_path: Path
) -> None:
    group = ray_group("worker")
    begin(group)
    until_up(group, tmp_path / "run")
    assert len(ranks_of(group)) == 4, "two ranks, each with a child"
    group.stop(grace_s=60)
    assert outcome(until_ended(group)) is Outcome.STOPPED
    log = (tmp_path / "run/logs/attempt-1.rank-0.log").read_text()
    assert "stopping as asked" in log
    assert "the worker was told" not in log
    psutil.wait_procs(
        ranks_of(group), TIMEOUT_S / 4
    )  # the children were killed with their ranks, and a kill takes a moment
    assert not ranks_of(group)


@pytest.mark.real
def test_identical_errors_are_counted_as_one(ray_group: Callable[..., WorkerGroup]) -> None:
    group = ray_group("raise_all")
    begin(group)
    causes = [e for e in until_ended(group) if isinstance(e, RankLost)]
    assert len(causes) == 1
    assert causes[0].alike == 2
    assert any("bad luck on rank" in line for line in causes[0].log_tail)


@pytest.mark.real
def test_a_dead_agent_takes_its_ranks_along_and_is_replaced(
    ray_group: Callable[..., WorkerGroup], tmp_path: Path
) -> None:
    group = ray_group("wait")
    begin(group)
    until_up(group, tmp_path / "run")
    assert len(ranks_of(group)) == 2
    import ray

    agent = group._nodes.all[0].agent  # type: ignore[attr-defined]
    os.kill(ray.get(agent.__ray_call__.remote(lambda _agent: os.getpid())), signal.SIGKILL)
    events = until_ended(group)
    assert outcome(events) is Outcome.FAILED
    cause = next(e for e in events if isinstance(e, RankLost))
    assert "agent died" in str(cause.error)
    psutil.wait_procs(ranks_of(group), TIMEOUT_S / 4)
    assert not ranks_of(group)
    begin(group, 2)
    group.stop(10)
    assert outcome(until_ended(group)) is Outcome.STOPPED


@pytest.mark.real
def test_nodes_that_differ_are_refused_by_name(ray_group: Callable[..., WorkerGroup]) -> None:
    group = ray_group(expected={"package torch": "1.0", "package numpy": "0.1"})
    with pytest.raises(
        NodeMismatch, match=r"package torch: '2\.13.*' there, '1\.0' in the plan; node .*numpy"
    ):
        group.acquire(lambda: False)


@pytest.mark.real
def test_a_script_that_is_edited_during_the_start_is_no_difference_between_nodes(
    ray_group: Callable[..., WorkerGroup], tmp_path: Path
) -> None:
    from orchestrator.agent import facts

    script, beside = tmp_path / "train.py", tmp_path / "helper.py"
    script.write_text("import helper\n")
    beside.write_text("a = 1\n")
    planned = facts.observe(script, [], tmp_path)
    beside.write_text("a = 2\n")
    told: list[str] = []
    edited = ray_group(script=str(script), expected=planned, notice=told.append)
    edited.acquire(lambda: False)
    edited.close()
    assert [text for text in told if "was edited after the plan was made" in text]
    other = {**planned, "package torch": "1.0"}
    with pytest.raises(
        NodeMismatch, match=r"differ from the plan: node [^;]*: package torch: [^;]*; make them alike"
    ):
        ray_group(script=str(script), expected=other).acquire(lambda: False)


@pytest.mark.real
def test_a_script_that_is_missing_on_the_node_is_named(ray_group: Callable[..., WorkerGroup]) -> None:
    group = ray_group(script="/nowhere/train.py")
    with pytest.raises(NodeMismatch, match=r"no file at /nowhere/train\.py"):
        group.acquire(lambda: False)


@pytest.mark.real
def test_more_nodes_than_there_are_says_what_is_missing(ray_group: Callable[..., WorkerGroup]) -> None:
    with pytest.raises(NotEnoughResources, match=r"needs 2 nodes with 2 CPU each, the cluster has 1 such"):
        ray_group(nodes=2, wait_s=0.5).acquire(lambda: False)


@pytest.mark.real
def test_resources_that_another_run_holds_are_waited_for_then_named(
    ray_group: Callable[..., WorkerGroup],
) -> None:
    first = ray_group(ranks_per_node=3, world_size=3)
    second = ray_group(ranks_per_node=3, world_size=3, run="second")
    first.acquire(lambda: False)
    with pytest.raises(NotEnoughResources, match="were not free within 2 s"):
        second.acquire(lambda: False)
    first.close()
    second.acquire(lambda: False)


@pytest.mark.real
def test_the_wait_for_resources_can_be_cancelled(ray_group: Callable[..., WorkerGroup]) -> None:
    first, second = (
        ray_group(ranks_per_node=4, world_size=4),
        ray_group(ranks_per_node=4, world_size=4, wait_s=60, run="second"),
    )
    first.acquire(lambda: False)
    with pytest.raises(Cancelled):
        second.acquire(lambda: True)


@pytest.mark.real
def test_two_runs_of_one_name_are_told_apart(ray_group: Callable[..., WorkerGroup]) -> None:
    ray_group().acquire(lambda: False)
    with pytest.raises(ClusterError, match="choose another run_name"):
        ray_group().acquire(lambda: False)


@pytest.mark.real
def test_a_zygote_that_cannot_import_is_a_clear_error(ray_group: Callable[..., WorkerGroup]) -> None:
    environment = {"DS_ACCELERATOR": "nonsense", "OMP_NUM_THREADS": "1"}
    group = ray_group(zygote=True, environment=environment)
    begin(group)
    with pytest.raises(ClusterError, match="could not start its ranks: preloading deepspeed failed"):
        until_ended(group)


def ranks_of(group: WorkerGroup) -> list[psutil.Process]:
    run = group.assignment.run  # type: ignore[attr-defined]
    return [p for p in psutil.process_iter() if _runs(p, "orchestrator rank", run)]


def _runs(process: psutil.Process, *words: str) -> bool:
    try:
        command = " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
    return all(word in command for word in words) and process.pid != os.getpid()
