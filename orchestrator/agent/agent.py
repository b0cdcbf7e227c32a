"""The node agent: owns its node's GPUs, starts and watches its ranks, speaks for them.

Written without Ray, so that a test can hold one in its hand; ``group.py`` makes it an actor.
Nothing here blocks: the driver polls, and what is due (SIGKILL after SIGTERM) happens then.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.agent.assignment import Assignment, Secrets, own_environment, rank_specs, zygote_environment
from orchestrator.agent.checkpoint_files import CheckpointFiles
from orchestrator.agent.launchers import (
    WarmZygotes,
    as_important_as_others,
    forking_launcher,
    standing_in,
    zygote_preload,
)
from orchestrator.agent.localize import (
    differences,
    identity,
    interfaces,
    leave_mark,
    on_node,
    remove_mark,
    sees_mark,
)
from orchestrator.agent.log_transfer import sender_of
from orchestrator.agent.memory_kills import monitor_remark
from orchestrator.agent.messages import Encoded, NodeSample, Part, ScriptPreloaded, encode
from orchestrator.agent.port import HeldPort
from orchestrator.agent.ranks import NodeRanks
from orchestrator.agent.raylet import end_with_raylet
from orchestrator.agent.resumed import Origin
from orchestrator.agent.save_watch import SaveWatch
from orchestrator.agent.snapshots import NodeSnapshots
from orchestrator.agent.staging_dir import why_too_much
from orchestrator.agent.system_metrics import Sampler
from orchestrator.agent.zygote_pool import ZygoteLease
from orchestrator.checkpoint.commits import Held, Restore
from orchestrator.checkpoint.laid_out import InMemory
from orchestrator.config.hardware import local_gpus
from orchestrator.config.signals import stop_numbers
from orchestrator.rank.environment import held_back_remark
from orchestrator.rank.launch.launcher import ExecLauncher, ForkingLauncher, Launcher, SharedZygote
from orchestrator.rank.launch.preload import Preloaded
from orchestrator.rank.launch.zygote_key import ZygoteKey

AGENT = "orchestrator agent"


@dataclass(frozen=True)
class Place:
    """A node of a cluster: the cluster's own name for it, and the address by which others know it."""

    node_id: str
    address: str


class NodeAgent(CheckpointFiles):
    """One per node of the run."""

    def __init__(
        self,
        assignment: Assignment,
        node_index: int,
        warm: WarmZygotes | None = None,
        *,
        place: Callable[[], Place] | None = None,
        own_process: bool = False,
    ) -> None:
        """``place`` tells where this node is; None is by itself, without a cluster. ``own_process``: nothing
        else runs in this process, so that signals and its end are the agent's."""
        if own_process:
            _leave_stopping_to_the_driver(stop_numbers(assignment.recovery.stop_signals))
            end_with_raylet()
        as_important_as_others()
        self.assignment = assignment
        self.node_index = node_index
        self._warm = warm
        self._parking = ""  # where the node's keeper parks slots
        self._place = Place("", "127.0.0.1") if place is None else place()
        self._zygote_remark: str | None = None
        self._since_unix_s = time.time()
        self._launcher: Launcher | None = None
        self._told_of: Launcher | None = None
        self._untold: Preloaded | None = None
        self._ranks = NodeRanks(assignment)
        self._saves: SaveWatch | None = None
        self._snapshots: NodeSnapshots | None = None
        self._port: HeldPort | None = None
        self._sampler = Sampler(assignment.system_metrics_every_s, [gpu.uuid for gpu in local_gpus()])

    def describe(self, secrets: Secrets) -> dict[str, Any]:
        """Who this node is, and what about it differs from the plan; the zygote imports meanwhile."""
        self.assignment = replace(self.assignment, secrets=secrets)
        here = self._place
        description: dict[str, Any] = {
            "host": socket.gethostname(),
            "address": here.address,
            "ray_id": here.node_id,
        }
        description |= identity()
        try:
            self.assignment = on_node(self.assignment, os.getcwd(), interfaces(), description["address"])
        except ValueError as error:
            return {**description, "problems": [str(error)]}
        self._ranks.assignment = self.assignment
        self._ranks.sender = sender = sender_of(self.assignment)
        if sender is not None:
            sender.follow(self._zygote_log().name)
        self._ready_launcher()
        if self.assignment.snapshot.enabled:
            self._hold_slots()
            description["parked"] = self._snapshots.parked_ranks if self._snapshots else []
        return {**description, "problems": self.compare(self.assignment.expected), "remarks": self._remarks()}

    def be(self, node_index: int) -> None:
        """Have other ranks than those that the node was to have, before any attempt: it has theirs in
        memory."""
        self.node_index = node_index
        if self._snapshots is not None:
            self._snapshots.close()
            self._hold_slots()

    def compare(self, expected: Mapping[str, str]) -> list[str]:
        """What about this node differs from facts that are newer than the plan's."""
        self.assignment = replace(self.assignment, expected=dict(expected))
        snapshot = self.assignment.snapshot
        try:
            too_much = why_too_much(snapshot.park_bytes, snapshot.dirs) if snapshot.enabled else None
            return differences(self.assignment) + ([too_much] if too_much else [])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said by name on the driver
            return [str(error)]

    def report(self) -> dict[str, Any]:
        """The run, for those who look at the cluster; the fields of
        :class:`~orchestrator.cluster.overview.LiveRun`."""
        assignment = self.assignment
        return {
            "name": assignment.run,
            "nodes": assignment.ranks.world_size // assignment.ranks.per_node,
            "ranks": assignment.ranks.world_size,
            "unit": assignment.ranks.unit,
            "usd_per_gpu_hour": assignment.ranks.usd_per_gpu_hour,
            "since_unix_s": self._since_unix_s,
            "step": self._ranks.step,
            "run_dir": assignment.places.run_dir,
        }

    def mark_checkpoints(self) -> str:
        """Leave a mark in the checkpoint directory, for the other nodes to look for."""
        return leave_mark(Path(self.assignment.places.checkpoint_dir))

    def sees_checkpoints(self, mark: str) -> bool:
        """Whether the checkpoint directory here is the one that has the mark."""
        return sees_mark(Path(self.assignment.places.checkpoint_dir), mark)

    def unmark_checkpoints(self, mark: str) -> None:
        """Take the mark away again."""
        remove_mark(Path(self.assignment.places.checkpoint_dir), mark)

    def free_port(self) -> int:
        """A TCP port for rank 0's rendezvous, held until the next one is asked for."""
        if self._port is not None:
            self._port.close()
        self._port = HeldPort()
        return self._port.number

    def holdings(self) -> list[Held]:
        """What this node's ranks have in memory."""
        return self._snapshots.holdings() if self._snapshots else []

    def forget(self, from_step: int) -> None:
        """Drop generations of this step and later."""
        if self._snapshots is not None:
            self._snapshots.forget(from_step)

    def lay_out(self, restore: Restore | None) -> list[str]:
        """Put in place what the ranks of the next attempt will read; which files have to come from other
        nodes."""
        if self._snapshots is None:
            return []
        return self._snapshots.lay_out(restore, self._ready_launcher())

    def write_out(self, restore: Restore) -> None:
        """Have what is in memory of a checkpoint written that has no name yet."""
        if self._snapshots is not None:
            launcher = self._ready_launcher()
            self._snapshots.write_out(restore, launcher)
            self._ranks.launcher = self._ranks.launcher or launcher  # so that the writer is heard

    def finish(self) -> None:
        """The run has finished: nothing of it is parked when this agent ends."""
        if self._snapshots is not None:
            self._snapshots.finish()

    def take(self, name: str, data: bytes, memory: InMemory | None, first: bool) -> None:
        """A stretch of such a file."""
        assert self._snapshots is not None
        self._snapshots.take(name, data, memory, first)

    def start(
        self, origin: Origin, master_addr: str, master_port: int, skip_batches: Sequence[int] = ()
    ) -> None:
        """Start this node's ranks of an attempt. Raises :class:`NodeMismatch` when ranks are still alive."""
        attempt = origin.attempt
        self._ranks.check_gone(attempt)
        specs = rank_specs(
            self.assignment, self.node_index, origin, master_addr, master_port, skip_batches=skip_batches
        )
        snapshots = self._snapshots
        if snapshots is not None:
            specs = [
                replace(spec, snapshot=snapshots.payload_for(attempt, spec.local_rank)) for spec in specs
            ]
        launcher = self._launcher = self._standing(self._ready_launcher())
        self._end_watch()
        self._saves = SaveWatch(Path(self.assignment.places.checkpoint_dir), finds=self.node_index == 0)
        self._ranks.start(specs, launcher)
        if isinstance(launcher, ForkingLauncher) and launcher is not self._told_of:
            self._told_of, self._untold = launcher, launcher.preloaded

    def poll(self) -> Encoded:
        """Returns everything that happened on this node since the last call."""
        parts = self._preloaded() + self._ranks.poll()
        if self._saves is not None:
            parts += self._saves.poll(parts, self._ranks.pids, time.monotonic())
        sample = self._sampler.sample()
        if sample is not None:
            parts.append(NodeSample(sample))
        return encode(parts)

    def stop(self, grace_s: float) -> None:
        """SIGTERM now, SIGKILL to what is left after ``grace_s``."""
        self._ranks.stop(grace_s)

    def kill(self) -> None:
        """SIGKILL every rank and its children."""
        self._ranks.kill()

    def ask_stacks(self) -> None:
        """Have every rank write down where it is; a later poll has the answers."""
        self._ranks.ask_stacks()

    def close(self) -> None:
        """Kill ranks, end the zygote."""
        self.kill()
        self._end_watch()
        if self._snapshots is not None:
            self._snapshots.close()
            self._snapshots = None
        if self._launcher is not None:
            self._launcher.close()
            self._launcher = None
        if self._port is not None:
            self._port.close()
            self._port = None

    def _hold_slots(self) -> None:
        snapshots = NodeSnapshots(self.assignment, self.node_index, self._parking)
        self._snapshots = self._ranks.snapshots = snapshots

    def _end_watch(self) -> None:
        if self._saves is not None:
            self._saves.close()
            self._saves = None

    def _remarks(self) -> list[str]:
        """What differs from the best that could be, without being wrong."""
        staging = self._snapshots.remark if self._snapshots else None
        held_back = held_back_remark(self.assignment.secrets.shell.held_back, own_environment())
        return [remark for remark in (self._zygote_remark, staging, monitor_remark(), held_back) if remark]

    def _preloaded(self) -> list[Part]:
        """What became of the script's own imports, once for each zygote."""
        told, self._untold = self._untold, None
        if told is None or not (told.imported or told.left_out):
            return []
        warm = isinstance(self._launcher, SharedZygote) and self._launcher.warm
        return [ScriptPreloaded(told.imported, None if warm else told.seconds, told.left_out)]

    def _zygote_log(self) -> Path:
        return Path(self.assignment.places.run_dir) / "logs" / f"zygote.node-{self.node_index}.log"

    def _standing(self, launcher: Launcher) -> Launcher:
        environment = zygote_environment(self.assignment, outlives=False)
        return standing_in(launcher, environment, str(self._zygote_log()), zygote_preload(self.assignment))

    def _leased(self, wanted: ZygoteKey, environment: dict[str, str]) -> ZygoteLease | None:
        """What the node's keeper has for us; who lends zygotes parks slots, too."""
        assert self._warm is not None
        lease = self._warm(wanted, environment)
        self._parking = lease.parking if lease is not None else ""
        return lease

    def _ready_launcher(self) -> Launcher:
        """The launcher of this node; a zygote that died is replaced."""
        if isinstance(self._launcher, ForkingLauncher) and not self._launcher.alive():
            self._launcher.close()
            self._launcher = None
        if self._launcher is None:
            if self.assignment.launch.zygote:
                self._launcher, self._zygote_remark = forking_launcher(
                    zygote_environment(self.assignment, outlives=False),
                    self._leased if self._warm else None,
                    str(self._zygote_log()),
                    zygote_preload(self.assignment),
                    zygote_environment(self.assignment),
                )
            else:
                self._launcher = ExecLauncher()
        return self._launcher


def _leave_stopping_to_the_driver(numbers: Sequence[int]) -> None:
    """What a job manager sends to every process would end the agent, and its ranks with it, before they have
    saved."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
