"""How a job gets into the queue, by the verbs of the command line: what cannot be is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.cli import main
from orchestrator.dispatch.facts import NodeBound, StartMeant
from orchestrator.dispatch.fleet_file import read_fleet_file
from orchestrator.dispatch.start_words import joined, start_words
from orchestrator.dispatch.store import Store
from orchestrator.dispatch.submitting import Sender, submit
from orchestrator.errors import ConfigError
from orchestrator.fleet.decisions import StartCause
from orchestrator.fleet.jobs import JobSpec, JobState, Placement, PoolPlan

FLEET = """
pools:
  cpus: {nodes: 2, gpus_per_node: 2, resource: CPU, words: [gpu=cpu]}
teams: {nlp: {quota: {cpus: 2}}, cv: {}}
classes: {batch: {default: true}, product: {usd_per_hour: 100}}
"""
JOB = ["job=tiny_gpt", "job.steps=20"]
ONE = [*JOB, "cluster.gpus_per_node=1"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "fleet.yaml").write_text(FLEET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_job_goes_through_all_verbs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "--dry-run", "team=nlp", "key=a", *ONE]) == 0
    assert "starts now" in capsys.readouterr().out
    assert main(["submit", "team=nlp", "key=a", *ONE]) == 0
    assert "a is in the queue; no daemon leads: it starts once 'orchestrator up'" in capsys.readouterr().out
    assert main(["submit", "team=nlp", "key=a", *ONE]) == 0
    assert "a is in the queue already: queued" in capsys.readouterr().out
    assert main(["submit", "team=cv", "key=b", "after=a", "class=product", *ONE]) == 0
    capsys.readouterr()
    assert main(["queue", "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    jobs = {job["key"]: job for job in seen["jobs"]}
    assert (seen["is_led"], seen["ended"], [pool["pool"] for pool in seen["pools"]]) == (False, [], ["cpus"])
    assert (jobs["a"]["gpus"], jobs["a"]["state"], jobs["b"]["usd_per_hour"]) == (1, "queued", 100.0)
    assert (jobs["b"]["why"]["cause"], jobs["b"]["why"]["behind"]) == ("depends", ["a"])
    assert main(["queue", "--why", "b"]) == 0
    assert "b waits for 1 GPU, submitted 0:00:0" in (said := capsys.readouterr().out)
    assert "it comes after a." in said
    assert main(["move", "b", "class=batch", "deadline=3h"]) == 0
    assert main(["hold", "b"]) == 0
    assert main(["queue"]) == 0
    assert "held" in capsys.readouterr().out
    assert main(["hold", "b", "--off"]) == 0
    assert main(["quota"]) == 0
    assert main(["reserve", "team=cv", "nodes=1", "until=1h", "why=demo"]) == 0
    assert "r1: 1 node of cpus for team cv, " in (said := capsys.readouterr().out)
    assert "'reserve name=r1 --off' ends it" in said
    assert main(["reserve", "name=r1", "--off"]) == 0
    assert main(["cancel", "b"]) == 0
    with Store(folder / "runs" / "fleet") as store:
        ended = store.entry("b")
        assert ended is not None
        assert (ended.job.state, ended.job.spec.job_class) == (JobState.CANCELLED, "batch")
        assert ended.cwd == str(folder)


REFUSED = [
    (["submit", "team=nlpp", *JOB], "team='nlpp': there is no such team; did you mean 'nlp'?"),
    (["submit", *JOB], "team: which one? there are nlp, cv; say e.g. team=nlp"),
    (
        ["submit", "team=nlp", "class=prod", *JOB],
        "class='prod': there is no such class; did you mean 'product'?",
    ),
    (
        ["submit", "team=nlp", "clas=product", *JOB],
        "clas=product: there is no such key; did you mean 'class'?",
    ),
    (["submit", "team=nlp", "team=cv", *JOB], "team=cv: team is said twice; leave one out"),
    (["submit", "team=nlp", "pool=gpus", *JOB], "pool='gpus': there is no such pool; did you mean 'cpus'?"),
    (["submit", "team=nlp", "deadline=soon", *JOB], "deadline='soon': is no time; write 3h"),
    (["submit", "team=nlp", "deadline=2020-01-01 10:00", *JOB], "deadline='2020-01-01 10:00': is past"),
    (["submit", "team=nlp", "after=x", *JOB], "after='x': there is no such job in the queue"),
    (["submit", "team=nlp", "key=x", "after=x", *JOB], "after=x: a job cannot wait for itself"),
    (["submit", "team=nlp", "key=a/b", *JOB], "key=a/b: a name is letters, digits"),
    (
        ["submit", "team=nlp", "usd_per_hour=-1", *JOB],
        "usd_per_hour='-1': has to be a number of dollars above 0",
    ),
    (["submit", "team=nlp", "key=fleet", *JOB], "key=fleet: run_root/fleet holds the queue of jobs"),
    (["submit", "team=nlp", "preemptible=no", *JOB], "preemptible='no': has to be true or false"),
    (
        ["submit", "team=nlp", "cluster.gpus_per_node=5", *JOB],
        "is 5, and pool cpus has 4 (2 nodes of 2): it would wait for ever; the largest that fits is"
        " cluster.nodes=2 cluster.gpus_per_node=2",
    ),
    (["submit", "team=nlp", "cluster.gpus_per_node=3", *JOB], "no whole number of nodes; choose 2 or 4"),
    (["queue", "--why", "x"], "x: no such job in the queue; 'queue' lists them"),
    (["cancel"], "cancel: which job? python -m orchestrator cancel KEY"),
    (["move", "x", "clas=y"], "clas=y: 'move' takes class, deadline, pool, usd_per_hour, run_root; did you"),
    (["reserve", "team=nlp", "job=x", "nodes=1", "until=1h"], "reserve: for whom? say team= or job="),
    (["reserve", "team=nlp", "nodes=9", "until=1h"], "nodes='9': has to be a number from 1 to 2"),
    (["drain", "node7"], "drain node7: no such node; the daemon has seen none yet"),
]


@pytest.mark.parametrize(("args", "said"), REFUSED, ids=[said[:40] for _, said in REFUSED])
def test_bad_input_is_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], args: list[str], said: str
) -> None:
    assert main(args) == 2
    err = capsys.readouterr().err
    assert said in err.replace("\n", " ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_without_a_fleet_file_there_is_no_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["queue"]) == 2
    assert (
        "fleet.yaml: is not there, and says which pools and teams share the GPUs" in capsys.readouterr().err
    )


def test_another_job_of_the_same_key_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "team=nlp", "key=a", *JOB]) == 0
    assert main(["submit", "team=nlp", "key=a", *JOB, "job.seed=1"]) == 2
    assert "key=a: is another job's already (job=tiny_gpt job.steps=20, submitted" in capsys.readouterr().err


def test_a_job_is_started_on_the_nodes_of_its_books(folder: Path) -> None:
    main(["submit", "team=nlp", "key=a", "cluster.nodes=2", "cluster.gpus_per_node=2", *JOB])
    with Store(folder / "runs" / "fleet") as store:
        here = Placement("cpus", (0, 1), (2, 2))
        start = StartMeant("a", 1, here, StartCause.WORTH, 1.0)
        bound = [NodeBound("cpus", number, f"id-{number}", f"n{number}") for number in (0, 1)]
        store.write("daemon", 1.0, lambda _books: [*bound, start])
        entry = store.entry("a")
        assert entry is not None
        ids = [slot.node_id for slot in store.read().nodes.values()]
    words = start_words(entry, read_fleet_file(folder / "runs").pool("cpus"), ids, folder / "runs")
    assert words[0] == "gpu=cpu"
    assert words[-1] == "launch.node_ids=[id-0,id-1]"
    assert {"cluster.nodes=2", "cluster.gpus_per_node=2", "run_name=a", "job.resume=auto"} <= set(words)


def test_the_command_of_a_job_stays_the_last_of_its_words() -> None:
    assert joined(("a=1",), ("b=2", "--", "torchrun", "x.py"), ("c=3",)) == (
        "a=1", "b=2", "c=3", "--", "torchrun", "x.py",
    )  # fmt: skip


def test_a_list_of_jobs_is_written_down_whole_or_not_at_all(tmp_path: Path) -> None:
    def spec(key: str, seed: int = 0) -> JobSpec:
        return JobSpec(key, "nlp", (PoolPlan("cpus", 1, 1.0),), overrides=(f"job.seed={seed}",))

    def told(*specs: JobSpec) -> list[tuple[str, bool]]:
        found = submit(store, specs, Sender(tmp_path, "/home/ada", "ada"), 1.0)
        return [(entry.key, is_new) for entry, is_new in found]

    with Store(tmp_path / "fleet") as store:
        assert told(spec("a"), spec("b"), spec("a")) == [("a", True), ("b", True), ("a", True)]
        assert told(spec("b"), spec("c")) == [("b", False), ("c", True)]
        for bad in ([spec("d"), spec("a", seed=1)], [spec("d"), spec("d", seed=1)]):
            with pytest.raises(ConfigError, match="is another job's"):
                told(*bad)
        (tmp_path / "e").mkdir()
        (tmp_path / "e" / "journal.jsonl").touch()
        with pytest.raises(ConfigError, match=r"key=e: .* holds a run already"):
            told(spec("d"), spec("e"))
        assert sorted(store.read().jobs) == ["a", "b", "c"]
