"""A run as a job of Slurm: `python -m orchestrator` in a batch script, on a Ray of its own in the
allocation."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from orchestrator.events import Event, RunEnded, Status, StepDone
from orchestrator.ledger.journal import replay
from tests.faults.runs import COMMON, MARKS, TIMEOUT_S, UNTRACKED, User
from tests.services.runs import SHORT
from tests.services.slurm import Slurm
from tests.support.processes import end
from tests.support.texts import text_so_far

pytestmark = MARKS

OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    one = Slurm()
    yield one
    one.close()


@dataclass
class Job:
    """A batch job in which one command runs."""

    slurm: Slurm
    number: str
    folder: Path
    name: str

    def state(self) -> str:
        return self.slurm.job(self.number)["JobState"]

    def ended(self) -> dict[str, str]:
        """Wait for its end; what Slurm says of it then."""
        self.wait(lambda: self.state() in OVER)
        return self.slurm.job(self.number)

    def wait_for_a_step(self) -> None:
        self.wait(lambda: any(isinstance(event, StepDone) for event in self.events()))

    def wait(self, true: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + TIMEOUT_S
        while not true():
            assert time.monotonic() < deadline_s, f"{self.slurm.job(self.number)}\n{self.text()}"
            time.sleep(0.2)

    def text(self) -> str:
        return text_so_far(self.folder / f"{self.name}.txt")

    def events(self) -> list[Event]:
        journal = self.folder / "runs" / self.name / "journal.jsonl"
        return [record.event for record in replay(journal)] if journal.exists() else []


@dataclass
class Submitter:
    """Submits jobs, and leaves none behind."""

    slurm: Slurm
    user: User
    jobs: list[Job]

    def __call__(self, name: str, *overrides: str, by: str = "exec") -> Job:
        words = [
            sys.executable,
            "-m",
            "orchestrator",
            f"run_name={name}",
            *COMMON,
            *SHORT,
            UNTRACKED,
            *overrides,
        ]
        script = self.user.folder / f"{name}.sh"
        script.write_text(f"#!/bin/sh\nenv | grep ^SLURM > {name}.environment\n{by} {shlex.join(words)}\n")
        number = self.slurm.command(
            "sbatch", "--parsable", "--ntasks=2", f"--chdir={self.user.folder}", f"--output={name}.txt",
            str(script), environment=self.user.environment,
        )  # fmt: skip
        self.jobs.append(Job(self.slurm, number, self.user.folder, name))
        return self.jobs[-1]


@pytest.fixture
def submit(slurm: Slurm, tmp_path: Path) -> Iterator[Submitter]:
    one = Submitter(slurm, User(tmp_path), [])
    yield one
    for job in one.jobs:
        slurm.command("scancel", "--quiet", job.number, check=False)
        job.ended()
        end(*left_of(job))


def left_of(job: Job) -> list[psutil.Process]:
    """Processes that were started in the job, wherever they are now."""
    mine = {"SLURM_JOB_ID": job.number, "HOME": str(job.folder / "home")}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if mine.items() <= process.environ().items() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def assert_finished(job: Job) -> None:
    said = job.ended()
    assert (said["JobState"], said["ExitCode"]) == ("COMPLETED", "0:0"), job.text()
    events = job.events()
    assert isinstance(events[-1], RunEnded)
    assert events[-1].status is Status.FINISHED, job.text()
    assert [event.step for event in events if isinstance(event, StepDone)] == [1, 2, 3, 4, 5, 6]
    job.wait(lambda: not left_of(job))


def assert_interrupted(job: Job) -> None:
    last = job.events()[-1]
    assert isinstance(last, RunEnded), job.text()
    assert last.status is Status.INTERRUPTED
    assert last.reason.startswith("stopped by SIGTERM")
    job.wait(lambda: not left_of(job))


def test_a_run_in_a_batch_job_completes(submit: Submitter) -> None:
    job = submit("batch")
    assert_finished(job)
    variables = (job.folder / "batch.environment").read_text()
    for name in ("SLURM_PROCID=0", "SLURM_NTASKS=2", f"SLURM_JOB_ID={job.number}"):
        assert name in variables.splitlines(), "it ran with what Slurm leaves in a job's environment"


def test_a_run_that_srun_starts_in_the_job_completes(submit: Submitter) -> None:
    assert_finished(submit("step", by="srun --ntasks=1 --cpus-per-task=2"))


def test_the_job_s_exit_code_is_the_run_s(submit: Submitter) -> None:
    job = submit("refused", "job.steps=-1")
    said = job.ended()
    assert (said["JobState"], said["ExitCode"]) == ("FAILED", "2:0"), job.text()


def test_a_signal_to_the_batch_script_interrupts_the_run(submit: Submitter, slurm: Slurm) -> None:
    """As `sbatch --signal=B:TERM@120` sends it before the time is over."""
    job = submit("told", "job.steps=100000")
    job.wait_for_a_step()
    there = [Path(process.exe()).name for process in left_of(job)]
    assert "raylet" in there, "what is looked for in the end is found while it runs"
    slurm.command("scancel", "--batch", "--signal=TERM", job.number)
    assert job.ended()["ExitCode"] == "143:0", job.text()
    assert_interrupted(job)


def test_a_job_that_is_cancelled_is_a_run_that_is_interrupted(submit: Submitter, slurm: Slurm) -> None:
    job = submit("cancelled", "job.steps=100000")
    job.wait_for_a_step()
    slurm.command("scancel", job.number)
    job.ended()
    assert_interrupted(job)
