"""The ways to start job/first_step.py that are compared: what is typed, and what shows how far it has
come."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.ground import BIN, TIMEOUT_S, Ground
from benchmarks.phases import Launch, slowest
from orchestrator.driver.driver_host import DriverHost
from orchestrator.events import AttemptStarted, Record, RunStarted
from orchestrator.ledger.journal import replay
from tests.support.ports import free_port

JOB = Path(__file__).parent / "job"
SCRIPT = str(JOB / "first_step.py")
ORCHESTRATOR_COMMAND = (sys.executable, "-m", "orchestrator")
_numbers = count(1)


@dataclass(frozen=True)
class Task:
    """What is started: `ranks` processes on the cores or GPUs of so many hosts, training for `steps`.

    `options` are more flags of the script; `{place}` in them is the launch's folder.
    """

    ranks: int
    hosts: int = 1
    cuda: bool = False
    steps: int = 1
    restarts: int = 0
    address: str | None = None  # of a running Ray cluster
    host: DriverHost | None = None  # that forks the orchestrator's drivers
    script: str = SCRIPT
    options: Mapping[str, str] = field(default_factory=dict)


def ranks_in_words(task: Task) -> str:
    what = "NCCL rank with a GPU" if task.cuda else "gloo rank of one thread"
    return f"one {what}" if task.ranks == 1 else f"{task.ranks} {what.replace('rank', 'ranks', 1)}"


@dataclass(frozen=True)
class Place:
    """Where one launch leaves its stamps: below `folder`, which is `inside` to the commands."""

    name: str
    folder: Path
    inside: Path

    @classmethod
    def fresh(cls, ground: Ground) -> Place:
        name = f"launch-{next(_numbers)}"
        (ground.folder / name).mkdir()
        return cls(name, ground.folder / name, ground.folder_inside / name)

    def ranks(self) -> list[dict[str, Any]]:
        """What the ranks have said so far, in the order in which they came to it."""
        told = [json.loads(path.read_text()) for path in self.folder.glob("rank-*.json")]
        return sorted(told, key=lambda rank: rank["stamps"]["first_step"])

    def journal(self) -> list[Record]:
        return list(replay(self.folder / "run" / "journal.jsonl"))


@dataclass(frozen=True)
class Launcher:
    """`before_ranks` gives the ends of the phases before the script's first line, from what the tool left
    behind."""

    command: Callable[[Task, Place], list[str]]
    before_ranks: Callable[[Place, Mapping[str, float]], dict[str, float]]

    def launch(self, ground: Ground, task: Task) -> Launch:
        """Start the job and wait for its end. Raises RuntimeError when it fails, or did something else."""
        place = Place.fresh(ground)
        begin_unix_s = ground.run(self.command(task, place))
        ranks = place.ranks()
        check_alike(ranks, task, ground)
        moments = slowest(rank["stamps"] for rank in ranks)
        return Launch.between(begin_unix_s, self.before_ranks(place, moments), moments)


@dataclass(frozen=True)
class ForkingLauncher(Launcher):
    """Has a host fork what would be typed, as a queue does: the command's own imports are done."""

    def launch(self, ground: Ground, task: Task) -> Launch:
        place = Place.fresh(ground)
        words = self.command(task, place)[len(ORCHESTRATOR_COMMAND) :]
        assert task.host is not None
        with (ground.folder / "command.log").open("ab") as log:
            begin_unix_s = time.time()
            driver = task.host.start(ORCHESTRATOR_COMMAND[-1], words, ground.folder, log.fileno())
        if not driver.is_forked or not driver.wait(TIMEOUT_S):
            raise RuntimeError(f"it was not forked, or did not end in {TIMEOUT_S:g} s: {ground.said()}")
        ranks = place.ranks()
        check_alike(ranks, task, ground)
        moments = slowest(rank["stamps"] for rank in ranks)
        return Launch.between(begin_unix_s, self.before_ranks(place, moments), moments)


def check_alike(ranks: Sequence[Mapping[str, Any]], task: Task, ground: Ground) -> None:
    """All ranks must have been one world, on the device and with the threads that the others had too."""
    wanted = (task.ranks, "cuda" if task.cuda else "cpu", int(ground.env["OMP_NUM_THREADS"]))
    seen = [(rank["world_size"], rank["device"], rank["threads"]) for rank in ranks]
    if seen != [wanted] * task.ranks:
        raise RuntimeError(
            f"{task.ranks} ranks with (world size, device, threads) {wanted} were wanted, {seen} came"
        )


def script_options(task: Task, place: Place) -> dict[str, str]:
    options = {name: value.replace("{place}", str(place.inside)) for name, value in task.options.items()}
    return {"stamps": str(place.inside), "steps": str(task.steps), **options}


def script_arguments(task: Task, place: Place) -> list[str]:
    return [task.script, *(f"--{name}={value}" for name, value in script_options(task, place).items())]


def torchrun(task: Task, place: Place) -> list[str]:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={task.ranks}"]
    if not task.restarts:
        return [*command, f"--master_port={free_port()}", *script_arguments(task, place)]
    # With the store that attempts share by default, ranks meet the addresses of the attempt before, and the
    # restart fails (https://github.com/pytorch/pytorch/issues/135712).
    how = ["--standalone", f"--max_restarts={task.restarts}"]
    return ["env", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1", *command, *how, *script_arguments(task, place)]


def deepspeed(task: Task, place: Place) -> list[str]:
    how = [f"--num_gpus={task.ranks}", f"--master_port={free_port()}"]
    return [str(BIN / "deepspeed"), *how, *script_arguments(task, place)]


def ray_train(task: Task, place: Place) -> list[str]:
    how = [f"--ranks={task.ranks}", f"--restarts={task.restarts}", f"--folder={place.inside}"]
    how += [f"--address={task.address}"] if task.address else []
    how += ["--cuda"] if task.cuda else []
    how += ["--spread"] if task.hosts > 1 else []
    return [sys.executable, str(JOB / "ray_train.py"), *how, *script_arguments(task, place)]


def orchestrator(task: Task, place: Place) -> list[str]:
    keys = [
        f"run_name={place.name}",
        f"run_dir={place.inside}/run",
        "job=script",
        f"job.script={task.script}",
    ]
    keys += [f"+job.args.{name}={value}" for name, value in script_options(task, place).items()]
    keys += [f"recovery.max_restarts={task.restarts}", *orchestrator_cluster(task)]
    keys += [f"ray_address={task.address}"] if task.address else []
    return [*ORCHESTRATOR_COMMAND, *keys]


def orchestrator_cluster(task: Task) -> list[str]:
    keys = [f"cluster.gpus_per_node={task.ranks // task.hosts}", "cluster.cpu_threads_per_rank=1"]
    keys += [f"cluster.nodes={task.hosts}", "fabric=ethernet"] if task.hosts > 1 else []
    return keys if task.cuda else ["gpu=cpu", *keys]


def seen_from_outside(_place: Place, ranks: Mapping[str, float]) -> dict[str, float]:
    """The tool's own time ends where the ranks' processes begin."""
    return {"tool": ranks["process"]}


def seen_by_driver(place: Place, _ranks: Mapping[str, float]) -> dict[str, float]:
    """Ray starts workers ahead, so their processes' beginning says nothing: 'start' is all until the script
    runs."""
    told = json.loads((place.folder / "driver.json").read_text())
    return {"tool": told["imported"], "attach": told["attached"]}


def seen_in_journal(place: Place, ranks: Mapping[str, float]) -> dict[str, float]:
    """The journal is opened before Ray is looked for, and its first event comes once Ray is there."""
    records = place.journal()
    first = next(record for record in records if isinstance(record.event, RunStarted))
    attempt = next(record for record in records if isinstance(record.event, AttemptStarted))
    return {
        "tool": first.time_unix_s - first.elapsed_s,
        "attach": first.time_unix_s,
        "place": attempt.time_unix_s,
        "spawn": ranks["process"],
    }


TORCHRUN = Launcher(torchrun, seen_from_outside)
DEEPSPEED = Launcher(deepspeed, seen_from_outside)
RAY_TRAIN = Launcher(ray_train, seen_by_driver)
ORCHESTRATOR = Launcher(orchestrator, seen_in_journal)
FORKED = ForkingLauncher(orchestrator, seen_in_journal)
