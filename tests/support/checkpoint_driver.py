"""The driver of checkpoints in the hand of a test: its nodes act on real folders, and its Ray is a few
lines."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError

from orchestrator.agent.checkpoint_files import CheckpointFiles
from orchestrator.agent.snapshots import NodeSnapshots
from orchestrator.checkpoint.commits import PartDurable, RankPart
from orchestrator.checkpoint.manifest import Manifest
from orchestrator.cluster import checkpoints as module
from orchestrator.cluster.checkpoints import Checkpoints
from orchestrator.cluster.nodes import Node
from orchestrator.events import CheckpointSaved, Event
from tests.support.crashes import written
from tests.support.fakes import names
from tests.support.snapshot_world import NoLauncher, small_assignment

SHARED = "mp_rank_00_model_states.pt"  # of what `written` writes: rank 0's
OWN = "zero_pp_rank_1_mp_rank_00_optim_states.pt"  # rank 1's


def files_of(node: NodeSnapshots) -> CheckpointFiles:
    """The part of a node's agent that touches names and manifests."""
    files = CheckpointFiles()
    files.assignment = node._assignment
    return files


class Answer:
    """What Ray calls a reference: a value, or an error, that is there already."""

    def __init__(self, value: Any = None, error: Exception | None = None) -> None:
        self._value, self._error = value, error

    def get(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value


class FakeRay:
    """Everything that was called has ended, but for what is `slow`."""

    slow = False

    @classmethod
    def in_place(cls, monkeypatch: pytest.MonkeyPatch) -> FakeRay:
        """What the driver calls instead of Ray from now on."""
        fake = cls()
        monkeypatch.setattr(module, "ray", fake)
        return fake

    def wait(
        self, answers: list[Answer], num_returns: int, timeout: float
    ) -> tuple[list[Answer], list[Answer]]:
        return ([], answers) if self.slow else (answers, [])

    def get(self, answers: list[Answer]) -> list[Any]:
        return [answer.get() for answer in answers]


class Agent:
    """A node's agent: `agent.method.remote(...)` acts at once, on folders below `root`."""

    def __init__(self, root: Path, node: NodeSnapshots) -> None:
        self.calls: list[str] = []
        self.failing: Exception | None = None
        self._root, self._files, self._node = root, files_of(node), node

    def __getattr__(self, method: str) -> Any:
        class Method:
            remote = staticmethod(lambda *args: self._call(method, *args))

        return Method

    def _call(self, method: str, *args: Any) -> Answer:
        self.calls.append(method)
        given = [arg.get() if isinstance(arg, Answer) else arg for arg in args]
        if method == "lay_out":
            told = given[0] and replace(given[0], save_dir=self._here(given[0].save_dir))
            return Answer(self._node.lay_out(told, NoLauncher()))
        if method == "write_out":
            told = replace(given[0], save_dir=self._here(given[0].save_dir))
            return Answer(self._node.write_out(told, NoLauncher()))
        if method in ("holdings", "forget", "take", "finish"):
            return Answer(getattr(self._node, method)(*given))
        try:
            if self.failing is not None and method == "publish":
                raise self.failing
            return Answer(getattr(self._files, method)(self._here(given[0]), *given[1:]))
        except RayActorError as error:
            return Answer(error=error)
        except Exception as error:  # noqa: BLE001 - as Ray does
            return Answer(error=RayTaskError(method, "", error))

    def _here(self, path: str) -> str:
        return path if path.startswith("/proc/") else str(self._root) + path


class Driver:
    """Two nodes of one rank each; `folders` are their checkpoint directories, the same one where it is
    shared."""

    def __init__(self, folder: Path, shared: bool, **changes: Any) -> None:
        roots = [folder / name for name in (["all", "all"] if shared else ["one", "two"])]
        self.nodes = [
            NodeSnapshots(small_assignment(folder / f"node-{index}", ranks_per_node=1, **changes), index)
            for index in range(2)
        ]
        self.agents = [Agent(root, node) for root, node in zip(roots, self.nodes, strict=True)]
        self.all = [Node(index, agent, f"node-{'ab'[index]}") for index, agent in enumerate(self.agents)]
        self.shared_checkpoints = shared
        self.folders = [root / "checkpoints" for root in roots]
        about = small_assignment(folder / "driver", ranks_per_node=1, checkpoint_dir="/checkpoints")
        self.checkpoints = Checkpoints(about, self)  # type: ignore[arg-type]
        self.checkpoints.snapshots.started(1, None)
        for one in self.folders:
            one.mkdir(parents=True, exist_ok=True)

    def ask(self, node: Node, question: Any, *args: Any) -> Any:
        return (getattr(node.agent, question).remote(*args) if isinstance(question, str) else question).get()

    def write(self, step: int, attempt: int = 1, ranks: tuple[int, ...] = (0, 1)) -> list[Event]:
        """The ranks' files are on the disks, and the nodes say so."""
        manifests = {folder: written(folder, step, attempt=attempt) for folder in dict.fromkeys(self.folders)}
        manifest = manifests[self.folders[0]]
        for folder, kept in zip(self.folders, (0, 1), strict=True) if not self.shared_checkpoints else ():
            for name, part in manifest.files.items():
                if part.rank != kept:
                    (
                        folder / ".attempts" / f"attempt-{attempt:04d}-step-{step:06d}" / manifest.tag / name
                    ).unlink()
        return [event for rank in ranks for event in self.say_durable(manifest, rank)]

    def say_durable(self, manifest: Manifest, rank: int) -> list[Event]:
        part = RankPart(manifest.attempt, manifest.step, "/checkpoints", manifest.tag, rank, save_latest=True)
        files = {name: file for name, file in manifest.files.items() if file.rank == rank}
        return self.checkpoints.receive(self.all[rank], PartDurable(part, files, 0.1), 5.0)

    def saved(self, step: int, attempt: int = 1) -> None:
        self.checkpoints.saved(CheckpointSaved(attempt, step, f"step-{step}", "/checkpoints", 0.1, True), 3.0)

    def choose(self, before: int | None = None, listen: Callable[[], list[Event]] = list) -> Any:
        return self.checkpoints.choose(before, 0.05, listen)

    def close(self) -> None:
        for node in self.nodes:
            node.close()


Make = Callable[..., Driver]


@contextlib.contextmanager
def drivers(folder: Path) -> Iterator[Make]:
    """Makes drivers that are closed in the end."""
    with contextlib.ExitStack() as stack:

        def new(shared: bool = True, **changes: Any) -> Driver:
            return stack.enter_context(contextlib.closing(Driver(folder, shared, **changes)))

        yield new


def commit(driver: Driver, *steps: int) -> None:
    """Write these steps, each to its name."""
    for step in steps:
        driver.write(step)
        assert names(driver.checkpoints.poll(5.0)) == ["SnapshotCommitted"]
