"""The batch script of `export format=slurm`, submitted to a Slurm of three hosts: to its end; over its time limit,
the loss of a node and a cancellation, saving each time and going on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from orchestrator.events import Event, ResourcesGranted, RunEnded, RunResumed, Status, StepDone
from orchestrator.ledger.journal import replay
from tests.faults.runs import MARKS, UNTRACKED
from tests.hosts.hosts import SHARED, Network, NoHostsError
from tests.services.slurm_hosts import NODES, SlurmOnHosts

pytestmark = MARKS

WAIT_S = 400.0
# The main job on a processor core of each host; what is not looked at is left out.
WORDS = [
    "gpu=cpu", "cluster=local", "fabric=ethernet", f"cluster.nodes={NODES}", "cluster.gpus_per_node=1",
    "cluster.cpu_threads_per_rank=1", "launch.dashboard=false", "job.micro_batch=1", "model.seq_len=64",
    "job.args.val_every=0", "job.args.sample_tokens=0", "recovery.stop_grace_s=20",
    "snapshot.dirs=[/dev/shm,durable]", f"run_root={SHARED}/runs", UNTRACKED,
]  # fmt: skip


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmOnHosts]:
    try:
        network = Network()
    except NoHostsError as error:
        pytest.skip(str(error))
    with network:
        one = SlurmOnHosts(network, tmp_path_factory.mktemp("shared"))
        yield one
        one.close()


@dataclass
class Job:
    slurm: SlurmOnHosts
    number: str
    name: str

    @property
    def state(self) -> str:
        return self.slurm.job(self.number)["JobState"]

    def events(self) -> list[Event]:
        journals = list((self.slurm.shared / "runs").glob(f"{self.name}*/journal.jsonl"))
        return [record.event for journal in journals for record in replay(journal)]

    def steps(self) -> list[int]:
        return [event.step for event in self.events() if isinstance(event, StepDone)]

    def text(self) -> str:
        return "".join(path.read_text() for path in self.slurm.shared.glob(f"{self.name}.*.txt"))

    def until(self, true: object, what: str) -> None:
        assert callable(true)
        try:
            self.slurm.until(true, what, WAIT_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.slurm.job(self.number)}\n{self.text()}") from None

    def until_step(self, step: int) -> None:
        self.until(lambda: max(self.steps(), default=0) >= step, f"step {step}")


def submitted(slurm: SlurmOnHosts, name: str, *words: str) -> Job:
    made = slurm.hosts[0].run(
        ["python", "-m", "orchestrator", "export", "format=slurm", f"slurm.job_name={name}", *WORDS, *words,
         "--out", SHARED],
        check=True,
    )  # fmt: skip
    assert f"sbatch {name}.sbatch" in made.stdout
    number = slurm.command("sbatch", "--parsable", f"--chdir={SHARED}", f"{SHARED}/{name}.sbatch")
    return Job(slurm, number, name)


def left_on(slurm: SlurmOnHosts) -> list[str]:
    """Folders and processes of jobs, on every host."""
    found = []
    for host in slurm.hosts:
        folder = host.seen_from_outside("/tmp")
        found += [
            f"{host.name}:{path}" for one in ("orc-ray-*", "orchestrator-*") for path in folder.glob(one)
        ]
        for process in host.processes():
            command = ""
            with contextlib.suppress(psutil.Error):  # ended meanwhile, or nobody has buried it
                command = " ".join(process.cmdline())
            if "raylet" in command or "gcs_server" in command or "warm.join" in command:
                found.append(f"{host.name}: {command[:120]}")
    return found


def test_the_main_job_runs_over_three_nodes_and_leaves_nothing(slurm: SlurmOnHosts) -> None:
    job = submitted(slurm, "whole", "job.steps=6", "job.args.checkpoint_every=0")
    job.until(lambda: job.state not in ("PENDING", "RUNNING", "COMPLETING"), "end")
    assert (job.state, slurm.job(job.number)["ExitCode"]) == ("COMPLETED", "0:0"), job.text()
    assert job.steps() == [1, 2, 3, 4, 5, 6]
    (granted,) = [event for event in job.events() if isinstance(event, ResourcesGranted)]
    assert granted.domains == {"block": 1, "rack": 2}, "as Slurm's switches are"
    assert granted.nodes in (["host-01", "host-03", "host-02"], ["host-02", "host-01", "host-03"])
    (folder,) = (slurm.shared / "runs").glob("whole*")
    plan = json.loads((folder / "plan.json").read_text())
    assert (plan["layout"]["nodes"], plan["layout"]["ranks"]) == (3, 3)
    job.until(lambda: not left_on(slurm), f"end of {left_on(slurm)}")


def test_a_time_limit_a_lost_node_and_a_cancellation_lose_no_step(slurm: SlurmOnHosts) -> None:
    job = submitted(slurm, "long", "job.steps=1000000", "job.args.checkpoint_every=10")
    job.until_step(5)
    limited(job)
    down(job)
    cancelled(job)


def limited(job: Job) -> None:
    """The time is made shorter than what saving takes, so that Slurm signals at its next look."""
    job.slurm.command("scontrol", "update", f"JobId={job.number}", "TimeLimit=2")
    job.until(lambda: job.slurm.job(job.number)["Restarts"] == "1", "requeue")
    ended = [event for event in job.events() if isinstance(event, RunEnded)]
    assert [event.status for event in ended] == [Status.INTERRUPTED], job.text()
    assert ended[0].reason.startswith("stopped by SIGUSR1")
    saved = max(job.steps())
    job.slurm.command("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")
    job.until_step(saved + 1)
    (resumed,) = [place for place, event in enumerate(job.events()) if isinstance(event, RunResumed)]
    again = [event.step for event in job.events()[resumed:] if isinstance(event, StepDone)]
    assert again[0] == saved + 1, "it saved at the signal, and does no step again"


def down(job: Job) -> None:
    """Slurm kills the job of a lost node without a word to the run, and requeues it."""
    lost = job.slurm.hosts[-1].name
    before = max(job.steps())
    job.slurm.command("scontrol", "update", f"NodeName={lost}", "State=DOWN", "Reason=test")
    job.until(lambda: job.slurm.job(job.number)["Restarts"] == "2", "requeue")
    # It comes back by itself where its slurmd has registered again meanwhile (ReturnToService=2).
    job.slurm.command("scontrol", "update", f"NodeName={lost}", "State=RESUME", check=False)
    job.until_step(before + 20)
    assert sum(isinstance(event, RunResumed) for event in job.events()) == 2


def cancelled(job: Job) -> None:
    job.slurm.command("scancel", job.number)
    job.until(lambda: job.state == "CANCELLED", "cancellation")
    job.until(lambda: isinstance(job.events()[-1], RunEnded), "last word")
    last = job.events()[-1]
    assert isinstance(last, RunEnded)
    assert last.status is Status.INTERRUPTED, job.text()
    saved = sorted(Path(job.slurm.shared, "runs").glob("long*/checkpoints/*/manifest.json"))
    assert any(path.parent.name.endswith(str(max(job.steps()))) for path in saved), (
        "it saved when it was cancelled"
    )
    job.until(lambda: not left_on(job.slurm), "end of all")
