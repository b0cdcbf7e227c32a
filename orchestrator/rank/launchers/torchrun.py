"""torchrun, which is ``python -m torch.distributed.run``, and ``torch.distributed.launch`` before it."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from orchestrator.config.command_line.launch import LOCAL_RANK_FLAG, Launch
from orchestrator.errors import ConfigError
from orchestrator.rank.launchers import flags

_KEYS = {"max_restarts": "recovery.max_restarts", "shutdown_timeout": "recovery.stop_grace_s"}
# Ranks meet, are watched and are heard by the run's own means.
_SERVED = (
    "rdzv_backend", "rdzv_endpoint", "rdzv_conf", "standalone", "master_addr", "master_port", "node_rank",
    "local_addr", "monitor_interval", "start_method", "log_dir", "redirects", "tee", "local_ranks_filter",
    "event_log_handler",
)  # fmt: skip
_REFUSED = {
    "virtual_local_rank": "numbers the devices anew for each rank, which is not done here; leave it out",
    "numa_binding": "binds ranks to processors, which is not done here; leave it out, or bind them in a shell"
    " script with numactl",
    "logs_specs": "writes the logs in a way of its own; here they are in logs/ of the run; leave it out",
    "duplicate_stdout_filters": "copies parts of the logs, which are in logs/ of the run; leave it out",
    "duplicate_stderr_filters": "copies parts of the logs, which are in logs/ of the run; leave it out",
    "signals_to_handle": "is a key here: leave it out and set recovery.stop_signals=[TERM,USR1] for instance",
}


def read(words: list[str]) -> Launch:
    """What torchrun would start with these words."""
    from torch.distributed import run

    return _launch("torchrun", run.get_args_parser().parse_args(words), pass_local_rank=False)


def read_legacy(words: list[str]) -> Launch:
    """What ``python -m torch.distributed.launch`` would: it tells a rank its number by a flag, unless asked
    not to."""
    from torch.distributed import launch, run

    asked = launch.parse_args(words)
    return _launch("torch.distributed.launch", asked, pass_local_rank=not run.get_use_env(asked))


def _usual() -> dict[str, Any]:
    """The defaults, without the environment's PET_… that stand for flags."""
    from torch.distributed import run

    kept = {name: os.environ.pop(name) for name in [*os.environ] if name.startswith("PET_")}
    try:
        return dict(vars(run.get_args_parser().parse_args(["script"])))
    finally:
        os.environ.update(kept)


def _launch(launcher: str, asked: argparse.Namespace, pass_local_rank: bool) -> Launch:
    changed = flags.given(vars(asked), _usual())
    flags.refuse(launcher, changed, _REFUSED)
    flags.refuse_other_nodes(launcher, "node_rank", asked.node_rank)
    environment = {}
    if "role" in changed:
        environment["ROLE_NAME"] = asked.role
    if "rdzv_id" in changed:
        environment["TORCHELASTIC_RUN_ID"] = asked.rdzv_id
    local_rank = [LOCAL_RANK_FLAG.replace("_", "-", 1)] if pass_local_rank else []
    return Launch(
        kind=flags.kind_of(launcher, asked.module, asked.no_python and not asked.run_path),
        program=asked.training_script,
        argv=(*local_rank, *asked.training_script_args),
        nodes=_nodes(launcher, asked.nnodes) if "nnodes" in changed else None,
        ranks_per_node=_ranks(asked.nproc_per_node),
        ranks_were_given="nproc_per_node" in changed or _was_typed("nproc"),
        environment=environment,
        keys={key: changed[name] for name, key in _KEYS.items() if name in changed},
        left_out=tuple(f"--{name}" for name in _SERVED if name in changed),
    )


def _was_typed(flag: str) -> bool:
    """Whether the default itself was typed."""
    return any(word.lstrip("-").startswith(flag) for word in sys.argv[1:] if word.startswith("--"))


def _nodes(launcher: str, nnodes: str) -> int:
    from torch.distributed import run

    least, most = run.parse_min_max_nnodes(nnodes)
    if least != most:
        raise ConfigError(
            f"{launcher}: --nnodes={nnodes} lets the number of nodes change while it runs; here it is one"
            f" number for a run: --nnodes={most}"
        )
    return int(most)


def _ranks(nproc_per_node: str) -> int | None:
    """None for as many as a node has devices, which the cluster knows."""
    from torch.distributed import run

    if nproc_per_node in ("auto", "gpu", "xpu"):
        return None
    return int(run.determine_local_world_size(nproc_per_node))
