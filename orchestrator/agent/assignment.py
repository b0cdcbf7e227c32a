"""What the plan says to a node, and the ranks that follow from it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.agent.loggers import one_history
from orchestrator.agent.resumed import Origin, words_of
from orchestrator.config import placeholders
from orchestrator.config.schema import LaunchConfig, RecoveryConfig, SnapshotConfig, TrackedRanks
from orchestrator.config.signals import stop_numbers
from orchestrator.config.surroundings import compiled_programs
from orchestrator.files import atomic_write
from orchestrator.rank import tracking
from orchestrator.rank.environment import without_leftovers
from orchestrator.rank.spec import RankSpec
from orchestrator.redact import is_secret
from orchestrator.vocabulary import ProgramKind

# Set by Ray for its own workers, and by our command line for Hydra; a rank is neither.
_NOT_ITS_OWN = ("PYTHONBREAKPOINT", "SPT_NOENV", "OMP_NUM_THREADS", "HYDRA_FULL_ERROR")
_SHIPPED = f"{os.sep}runtime_resources{os.sep}"


@dataclass(frozen=True)
class Places:
    """The run's own folders, whose paths are the same on every node."""

    run_dir: str
    # The file by which a node knows that it shares the driver's run directory; where it does not, it sends
    # its logs. None: nobody asks for logs.
    run_dir_mark: str | None
    checkpoint_dir: str


@dataclass(frozen=True)
class Program:
    """What every rank runs. A node puts its own paths and interface into it, see ``localize.on_node``."""

    script: str  # from cwd, where it is a relative path; of a module its file, of a command the program
    args: list[str]
    resume_args: list[str]  # added to them when an attempt goes on from a checkpoint
    cwd: str
    corpus: list[str]
    environment: dict[str, str]  # all that the plan sets, on top of the shell's and of the node's own
    deepspeed: dict[str, Any]
    deepspeed_assumed: list[str]  # what of it nobody has asked for, as the plan names it
    kind: ProgramKind
    module: str | None
    preload: list[str]  # what it imports, for the zygote to import before it

    @property
    def file(self) -> Path:
        """The script's whole path."""
        return Path(self.cwd, self.script)

    @property
    def is_command(self) -> bool:
        return self.kind is ProgramKind.COMMAND


@dataclass(frozen=True)
class Ranks:
    """How many there are, and what each has to itself."""

    per_node: int
    world_size: int
    device: str
    unit: str
    product_names: list[str]
    usd_per_gpu_hour: float

    def gpu_name(self, local_rank: int) -> str:
        """What people call a rank's device."""
        return f"GPU {local_rank}" if self.device == "cuda" else f"CPU core {local_rank}"


@dataclass(frozen=True)
class Shell:
    """Variables of the shell that started the run, which may be secret."""

    forwarded: dict[str, str] = field(repr=False)
    held_back: dict[str, str] = field(repr=False)  # does not travel though it may be meant to


@dataclass(frozen=True)
class Signing:
    """How manifests are signed, and whether one without that signature counts."""

    key: str = field(repr=False)  # in hex digits
    required: bool


@dataclass(frozen=True)
class Secrets:
    """What an agent is told when it runs, and what is not written down with the actor that it is."""

    shell: Shell
    signing: Signing


NO_SECRETS = Secrets(Shell({}, {}), Signing("", required=False))


@dataclass(frozen=True)
class ScriptTracking:
    """What the script's own calls of MLflow find, and of which ranks they are taken."""

    experiment: str
    ranks: TrackedRanks


@dataclass(frozen=True)
class Assignment:
    """What the plan says to a node.

    ``recovery``, ``snapshot`` and ``launch`` are what the user asked for, with absolute paths; what is
    computed from it and from the plan stands beside them. Nothing here has a default: the schema has them,
    and what the driver forgets to say is an error there. ``secrets`` are for agents alone, and not for Ray's
    record of actors.
    """

    run: str
    number: str  # of the run, drawn once: no other has it, in the same directory or elsewhere
    began_unix_s: float  # whoever drives it meanwhile
    places: Places
    program: Program
    ranks: Ranks
    secrets: Secrets
    recovery: RecoveryConfig
    snapshot: SnapshotConfig
    launch: LaunchConfig
    tracking: ScriptTracking
    expected: dict[str, str]  # facts that every node has to have in common with the plan
    system_metrics_every_s: float
    last_step: int | None
    mtbf_s: float  # mean time between failures of all its GPUs together
    snapshot_bytes: int | None  # that a node's staged checkpoints take at most; None is not known
    # A node of a kept cluster gets a keeper of zygotes that lives this long unused; None takes only one that
    # is there.
    warm_idle_timeout_s: float | None


def base_environment(assignment: Assignment) -> dict[str, str]:
    """A rank's: the node's own without what Ray put there, what came from the run's shell, and the plan's on
    top."""
    return own_environment() | assignment.secrets.shell.forwarded | assignment.program.environment


def zygote_environment(assignment: Assignment, outlives: bool = True) -> dict[str, str]:
    """A zygote's: what torch and DeepSpeed read when they are imported has nothing of the shell in it.

    The script's libraries read whatever they like. For them it is what a rank has; without the secrets of the
    shell where the zygote ``outlives`` the run.
    """
    if not assignment.program.preload:
        return own_environment() | assignment.program.environment
    shell = assignment.secrets.shell.forwarded
    secrets = {name for name in shell if is_secret(name) and name not in assignment.program.environment}
    environment = rank_environment(assignment)
    return {name: value for name, value in environment.items() if not (outlives and name in secrets)}


def rank_environment(assignment: Assignment) -> dict[str, str]:
    """All that the ranks of a node have in common, with where their calls of MLflow go."""
    environment = base_environment(assignment)
    if _is_tracked(assignment):
        environment = {k: v for k, v in environment.items() if k not in tracking.OF_ANOTHER_STORE}
        environment[tracking.URI_VARIABLE] = tracking.URI
    return environment


def _is_tracked(assignment: Assignment) -> bool:
    return tracking.URI_VARIABLE not in assignment.program.environment


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
    origin: Origin,
    master_addr: str,
    master_port: int,
    *,
    skip_batches: Sequence[int] = (),
) -> list[RankSpec]:
    """The node's ranks of one attempt. Makes the folders and DeepSpeed's file that they are told of.

    ``skip_batches`` are the global batches, counted from 0, that the attempt is not to train on.
    """
    run_dir = Path(assignment.places.run_dir)
    Path(assignment.places.checkpoint_dir).mkdir(parents=True, exist_ok=True)
    config_path = run_dir / f"deepspeed.node-{node_index}.json"
    atomic_write(config_path, json.dumps(assignment.program.deepspeed, indent=2), mode=0o600, durable=False)
    places = {
        placeholders.RUN_DIR: str(run_dir),
        placeholders.DEEPSPEED_CONFIG: str(config_path),
        placeholders.CHECKPOINT_DIR: assignment.places.checkpoint_dir,
        placeholders.SKIP_BATCHES: ",".join(map(str, skip_batches)),
        placeholders.MTBF_S: str(round(assignment.mtbf_s, 3)),
    }
    base, specs, tracked = rank_environment(assignment), [], _is_tracked(assignment)
    loggers = one_history(str(run_dir), base)
    for local_rank in range(assignment.ranks.per_node):
        rank = node_index * assignment.ranks.per_node + local_rank
        environment = launcher_environment(assignment, node_index, local_rank, origin.attempt) | {
            "MASTER_ADDR": master_addr,
            "MASTER_PORT": str(master_port),
        }
        places[placeholders.LOCAL_RANK] = str(local_rank)
        specs.append(
            RankSpec(
                rank=rank,
                local_rank=local_rank,
                world_size=assignment.ranks.world_size,
                title=f"orchestrator rank {rank}/{assignment.ranks.world_size} {assignment.run}",
                script=assignment.program.script,
                args=words_of(assignment.program.args, assignment.program.resume_args, origin, places),
                cwd=assignment.program.cwd,
                env=base | environment | (loggers if rank == 0 else {}),
                log_path=str(run_dir / "logs" / f"attempt-{origin.attempt}.rank-{rank}.log"),
                stop_signals=stop_numbers(assignment.recovery.stop_signals),
                tracking=script_tracking(assignment, rank) if tracked else None,
                kind=assignment.program.kind.value,
                module=assignment.program.module,
                began_unix_s=assignment.began_unix_s,
            )
        )
    return specs


def script_tracking(assignment: Assignment, rank: int) -> dict[str, Any]:
    """What a rank's recorder is told."""
    run_dir = assignment.places.run_dir
    return {
        "run_id": tracking.script_run_id(run_dir),
        "run_name": assignment.run,
        "experiment": assignment.tracking.experiment,
        "forward": rank == 0 or assignment.tracking.ranks is TrackedRanks.all,
        "artifacts": str(Path(run_dir, tracking.ARTIFACTS, *([f"rank-{rank}"] if rank else []))),
    }


def launcher_environment(
    assignment: Assignment, node_index: int, local_rank: int, attempt: int
) -> dict[str, str]:
    """What torchrun tells a rank, without the rendezvous.

    ``TORCHELASTIC_USE_AGENT_STORE`` is False: rank 0 holds the store itself, and would wait for ever for
    another's. The name of the role and of the run are the user's where they are set.
    """
    ranks, given = assignment.ranks, assignment.program.environment
    rank = node_index * ranks.per_node + local_rank
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(ranks.world_size),
        "LOCAL_WORLD_SIZE": str(ranks.per_node),
        "GROUP_RANK": str(node_index),
        "GROUP_WORLD_SIZE": str(ranks.world_size // ranks.per_node),
        "ROLE_NAME": given.get("ROLE_NAME", "default"),
        "ROLE_RANK": str(rank),
        "ROLE_WORLD_SIZE": str(ranks.world_size),
        "TORCHELASTIC_RUN_ID": given.get("TORCHELASTIC_RUN_ID", assignment.run),
        "TORCHELASTIC_RESTART_COUNT": str(max(0, attempt - 1)),
        "TORCHELASTIC_MAX_RESTARTS": str(assignment.recovery.max_restarts),
        "TORCHELASTIC_USE_AGENT_STORE": "False",
    }
