"""What the plan says to a node, and the ranks that follow from it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.config import placeholders
from orchestrator.config.surroundings import compiled_programs
from orchestrator.files import write_whole
from orchestrator.rank.environment import without_leftovers
from orchestrator.rank.spec import RankSpec

# Set by Ray for its own workers, and by our command line for Hydra; a rank is neither.
_NOT_ITS_OWN = ("PYTHONBREAKPOINT", "SPT_NOENV", "OMP_NUM_THREADS", "HYDRA_FULL_ERROR")
_SHIPPED = f"{os.sep}runtime_resources{os.sep}"


@dataclass(frozen=True)
class Assignment:
    """What the plan says to a node. Paths are the same on every node, save those below ``working_dir``, which
    Ray unpacks on each; ``environment`` is all that the plan sets, on top of ``shell``, which is what came
    from the shell that started the run, and of the node's own. ``shell`` may hold secrets: it is told to
    agents only. So is ``held_back``, what does not travel though it may be meant to. ``run_dir_mark`` is the
    file by which a node knows that it shares the driver's run directory; where it does not, it sends its
    logs."""

    run: str
    run_dir: str
    checkpoint_dir: str
    script: str
    args: list[str]
    cwd: str
    environment: dict[str, str]
    deepspeed: dict[str, Any]
    ranks_per_node: int
    world_size: int
    device: str
    zygote: bool
    product_names: list[str]
    expected: dict[str, str]
    corpus: list[str]
    sample_every_s: float
    kill_grace_s: float
    run_dir_mark: str | None = None
    working_dir: str | None = None
    # A node of a kept cluster gets a keeper of zygotes that lives this long unused; None takes only one that
    # is there.
    warm_idle_timeout_s: float | None = None
    unit: str = "GPU"
    usd_per_gpu_hour: float = 0.0
    mtbf_s: float = 0.0  # mean time between failures of all its GPUs together
    # Checkpoints are staged in the first of these with room for this many bytes (None is not known); none of
    # them where they are left to DeepSpeed.
    snapshots: bool = False
    snapshot_dirs: list[str] = field(default_factory=list)
    snapshot_bytes: int | None = None
    snapshot_keep: int = 2
    snapshot_keep_hours: float | None = None
    snapshot_trusted: list[str] = field(default_factory=list)
    snapshot_key: str = field(default="", repr=False)  # that signs manifests, in hex digits
    snapshot_key_required: bool = False
    snapshot_allow_types: list[str] = field(default_factory=list)
    last_step: int | None = None
    shell: dict[str, str] = field(default_factory=dict, repr=False)
    held_back: dict[str, str] = field(default_factory=dict, repr=False)
    hang_factor: float = 3.0
    hang_floor_s: float = 60.0
    hang_timeout_cold_s: float = 90.0
    hang_evidence_s: float = 120.0
    hang_after_s: float | None = None
    stop_signals: list[int] = field(default_factory=list)
    sigkill_timeout_s: float = 15.0
    agent_timeout_s: float = 30.0
    straggler_factor: float = 1.5
    straggler_steps: int = 20
    straggler_after_s: float = 300.0
    log_max_bytes: int | None = None

    def gpu_name(self, local_rank: int) -> str:
        """What people call a rank's device."""
        return f"GPU {local_rank}" if self.device == "cuda" else f"CPU core {local_rank}"


def base_environment(assignment: Assignment) -> dict[str, str]:
    """A rank's: the node's own without what Ray put there, what came from the run's shell, and the plan's on
    top."""
    return own_environment() | assignment.shell | assignment.environment


def zygote_environment(assignment: Assignment) -> dict[str, str]:
    """A zygote's: it may outlive the run, so it has nothing of the shell, and imports the same without."""
    return own_environment() | assignment.environment


def own_environment() -> dict[str, str]:
    """This process's environment as it was before Ray and before launchers: a rank is none of their workers.

    Ray puts the folder that it shipped on PYTHONPATH. A script finds its own folder without that, and
    with it every change of a file would ask for another zygote.
    """
    own = {
        k: v
        for k, v in without_leftovers(os.environ).items()
        if not k.startswith("RAY_") and k not in _NOT_ITS_OWN
    }
    path = [entry for entry in own.pop("PYTHONPATH", "").split(os.pathsep) if entry and _SHIPPED not in entry]
    return own | ({"PYTHONPATH": os.pathsep.join(path)} if path else {}) | compiled_programs(own)


def rank_specs(
    assignment: Assignment,
    node_index: int,
    attempt: int,
    master_addr: str,
    master_port: int,
    *,
    skip_batches: Sequence[int] = (),
) -> list[RankSpec]:
    """The node's ranks of one attempt. Makes the folders and DeepSpeed's file that they are told of.

    ``skip_batches`` are the global batches, counted from 0, that the attempt is not to train on.
    """
    run_dir = Path(assignment.run_dir)
    Path(assignment.checkpoint_dir).mkdir(parents=True, exist_ok=True)
    config_path = run_dir / f"deepspeed.node-{node_index}.json"
    write_whole(config_path, json.dumps(assignment.deepspeed, indent=2), mode=0o600)
    places = {
        placeholders.RUN_DIR: str(run_dir),
        placeholders.DEEPSPEED_CONFIG: str(config_path),
        placeholders.CHECKPOINT_DIR: assignment.checkpoint_dir,
        placeholders.SKIP_BATCHES: ",".join(map(str, skip_batches)),
        placeholders.MTBF_S: str(round(assignment.mtbf_s, 3)),
    }
    base, specs = base_environment(assignment), []
    for local_rank in range(assignment.ranks_per_node):
        rank = node_index * assignment.ranks_per_node + local_rank
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(assignment.world_size),
            "LOCAL_WORLD_SIZE": str(assignment.ranks_per_node),
            "GROUP_RANK": str(node_index),
            "MASTER_ADDR": master_addr,
            "MASTER_PORT": str(master_port),
        }
        specs.append(
            RankSpec(
                rank=rank,
                local_rank=local_rank,
                world_size=assignment.world_size,
                title=f"orchestrator rank {rank}/{assignment.world_size} {assignment.run}",
                script=assignment.script,
                args=[placeholders.fill(arg, places) for arg in assignment.args],
                cwd=assignment.cwd,
                env=base | environment,
                log_path=str(run_dir / "logs" / f"attempt-{attempt}.rank-{rank}.log"),
                stop_signals=list(assignment.stop_signals),
            )
        )
    return specs
