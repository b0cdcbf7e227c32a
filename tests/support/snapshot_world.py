"""Worlds of ranks whose checkpoints are staged: what an agent and a driver do for them, in the hand of a
test."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from orchestrator.agent.assignment import Assignment, Signing, base_environment
from orchestrator.agent.messages import FromWriter
from orchestrator.agent.snapshots import NodeSnapshots
from orchestrator.checkpoint import store
from orchestrator.checkpoint.arena import Slot
from orchestrator.checkpoint.commits import Commit, PartDurable, Restore, RestoredFile, Snapshots
from orchestrator.checkpoint.laid_out import InMemory
from orchestrator.checkpoint.vouching import why_not_vouched
from orchestrator.errors import RankStartError
from orchestrator.events import RestoreSource
from orchestrator.rank.launch.launcher import Launcher, RankProcess
from orchestrator.rank.messages import Message, ScriptFailed, Staged, Unknown
from orchestrator.rank.spec import RankSpec
from tests.support.assignments import assignment
from tests.support.folders import SCRIPTS
from tests.support.ports import free_port
from tests.support.rank_harness import TIMEOUT_S, Bench, Outcome

MEMORY_DIR = "/dev/shm"
KEY = bytes(range(32))
WEIGHTS, OPTIMIZER = "mp_rank_00_model_states.pt", "zero_pp_rank_{}_mp_rank_00_optim_states.pt"
ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}


def small_assignment(folder: Path, **changes: Any) -> Assignment:
    """One node of two ranks, in a folder of the test's own."""
    (folder / "run" / "logs").mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {
        "run": "a-run", "run_dir": str(folder / "run"), "checkpoint_dir": str(folder / "checkpoints"),
        "cwd": str(folder), "environment": ENVIRONMENT, "ranks_per_node": 2, "world_size": 2,
        "snapshot_dirs": [MEMORY_DIR], "signing": Signing(KEY.hex(), required=False),
    }  # fmt: skip
    return assignment(**{**about, **changes})


@dataclass
class Attempt:
    """Ranks under way; ``parts`` are the words of the node's writer."""

    ranks: list[RankProcess]
    messages: list[list[Message | Unknown]]
    parts: list[FromWriter] = field(default_factory=list)

    @property
    def statuses(self) -> list[int | None]:
        return [rank.poll() for rank in self.ranks]


class World:
    """One node's ranks and its :class:`NodeSnapshots`, and the driver's :class:`Snapshots`."""

    def __init__(self, launcher: Launcher, folder: Path, **changes: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.assignment = small_assignment(folder, **changes)
        self.checkpoints = Path(self.assignment.places.checkpoint_dir)
        self.launcher = launcher
        self.node = NodeSnapshots(self.assignment, 0)
        self.driver = Snapshots("a-run", self.assignment.ranks.world_size, [str(self.checkpoints)])
        self.bench = Bench(launcher, folder, base_environment(self.assignment))
        self.told: Callable[[int, dict[str, Any]], dict[str, Any] | None] = lambda _rank, told: told
        self._attempts: list[Attempt] = []
        self._heard = 0

    def lead(self, restore: Restore | None, attempt: int) -> None:
        """As the driver before an attempt."""
        assert self.node.lay_out(restore, self.launcher) == []
        self.driver.started(attempt, restore)

    def from_memory(self, before: int | None = None) -> Restore:
        restore = self.driver.from_memory(self.node.holdings(), before)
        assert restore is not None
        return restore

    def from_disk(self, before: int | None = None) -> Restore:
        committed = [(str(self.checkpoints), one) for one in store.scan(self.checkpoints).committed]
        restore = self.driver.from_disk(committed, before)
        assert restore is not None
        (manifest,) = (one for _, one in committed if one.tag == restore.tag)
        return replace(restore, unvouched=why_not_vouched(self.checkpoints / restore.tag, manifest, KEY))

    def start(self, *args: str, attempt: int = 1, script: str = str(SCRIPTS / "saves.py")) -> Attempt:
        size = self.assignment.ranks.world_size
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
        ranks = []
        for rank in range(size):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
            spec = self.bench.spec(script, *args, rank=rank, world_size=size, **common, **own)
            log_path = str(self.bench.folder / f"{attempt}.{len(self.bench.started)}.log")
            told = self.told(rank, self.node.payload_for(attempt, rank))
            ranks.append(self.launcher.start(replace(spec, log_path=log_path, snapshot=told)))
            self.bench.started.append(ranks[-1])
        self._attempts.append(Attempt(ranks, [[] for _ in ranks]))
        return self._attempts[-1]

    def poll(self) -> None:
        """As the agent's poll."""
        for attempt in self._attempts:
            for index, rank in enumerate(attempt.ranks):
                rank.poll()
                for message in rank.messages():
                    attempt.messages[index].append(message)
                    if isinstance(message, Staged):
                        self.node.saved(rank.spec.rank, message, self.launcher)
        self._attempts[-1].parts += self.node.poll(self.launcher)

    def until(self, condition: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                return False
            self.poll()
            time.sleep(0.005)
        return True

    def finish(self, attempt: Attempt) -> list[Outcome]:
        self.until(lambda: None not in attempt.statuses)
        self.poll()
        logs = [Path(rank.spec.log_path).read_text() for rank in attempt.ranks]
        return [Outcome(*one) for one in zip(attempt.statuses, logs, attempt.messages, strict=True)]

    def run(self, *args: str, **about: Any) -> list[Outcome]:
        return self.finish(self.start(*args, **about))

    def commit(self, count: int) -> list[Path]:
        """Wait until so many checkpoints are durable, and give them their names as the driver does."""
        commits: list[Commit] = []

        def durable_ones() -> bool:
            parts = [
                part for attempt in self._attempts for part in attempt.parts if isinstance(part, PartDurable)
            ]
            found = [self.driver.durable(part, 0.0) for part in parts[self._heard :]]
            commits.extend(one for one in found if one is not None)
            self._heard = len(parts)
            return len(commits) >= count

        assert self.until(durable_ones), commits
        return [
            store.publish(Path(one.save_dir), one.manifest.signed(KEY), one.save_latest) for one in commits
        ]

    def close(self) -> None:
        self.bench.clear()
        self.node.close()


def losses(outcome: Outcome) -> dict[int, str]:
    """By step, as printed."""
    lines = [line.split() for line in outcome.output.splitlines() if line.startswith("step ")]
    return {int(step): loss for _, step, loss in lines}


def errors(outcomes: list[Outcome]) -> list[ScriptFailed]:
    return [error for outcome in outcomes for error in outcome.of(ScriptFailed)]


# --- without ranks


class NoLauncher:
    """A zygote that has ended."""

    def start(self, spec: RankSpec) -> RankProcess:
        raise RankStartError(f"no zygote to fork {spec.title} from")

    def close(self) -> None:
        pass


def state_of(name: str, step: int) -> dict[str, Any]:
    return {"name": name, "step": step, "w": torch.full((1000,), float(step))}


def files_of(rank: int) -> list[str]:
    return [OPTIMIZER.format(rank), *([WEIGHTS] if rank == 0 else [])]


def stage(
    node: NodeSnapshots, folder: Path, step: int, attempt: int = 1, ranks: int = 2
) -> list[tuple[int, Staged]]:
    """What the node's ranks do in a save, each with one slot after the other; what each of them says."""
    messages = []
    for local in range(ranks):
        slots = [Slot.open(path) for path in node.payload_for(attempt, local)["slots"]]
        steps = [(slot.header() or {"step": -1})["step"] for slot in slots]
        index, rank = steps.index(min(steps)), node._first_rank + local
        slots[index].begin(attempt, f"step-{step}", step, str(folder), True)
        for name in files_of(rank):
            slots[index].add(name, state_of(name, step), True)
        slots[index].finish()
        for slot in slots:
            slot.close()
        to = str(folder / ".attempts" / f"attempt-{attempt:04d}-step-{step:06d}" / f"step-{step}")
        messages.append(
            (rank, Staged(str(folder), f"step-{step}", step, 0.1, attempt, to, index, [], "", True))
        )
    return messages


def restore_of(nodes: list[NodeSnapshots], step: int) -> Restore:
    """As the driver puts it together from all nodes' holdings."""
    held = [one for node in nodes for one in node.holdings() if one.part.step == step]
    files = {
        name: RestoredFile(one.part.rank, memory.bytes, memory)
        for one in held
        for name, memory in one.files.items()
    }
    part = held[0].part
    return Restore(RestoreSource.MEMORY, 1, step, part.tag, part.dir, files)


def disk_restore(folder: Path, step: int, ranks: int) -> Restore:
    files = {name: RestoredFile(rank, 1) for rank in range(ranks) for name in files_of(rank)}
    return Restore(RestoreSource.DISK, 1, step, f"step-{step}", str(folder), files)


def memory_of(restore: Restore, name: str) -> InMemory:
    """Where a file lies that is restored from memory."""
    memory = restore.files[name].memory
    assert memory is not None
    return memory


@contextlib.contextmanager
def nodes_in(folder: Path) -> Iterator[Callable[..., NodeSnapshots]]:
    """Makes nodes, by index, of a world of four ranks; they are closed in the end."""
    with contextlib.ExitStack() as stack:

        def new(index: int = 0, **changes: Any) -> NodeSnapshots:
            node = NodeSnapshots(small_assignment(folder, **{"world_size": 4, **changes}), index)
            return stack.enter_context(contextlib.closing(node))

        yield new
