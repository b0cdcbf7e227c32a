"""The ``deepspeed`` launcher."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence

from orchestrator.config.command_line.launch import LOCAL_RANK_FLAG, Launch
from orchestrator.errors import ConfigError
from orchestrator.rank.launchers import flags

_NAME = "deepspeed"
# Nodes are reached by Ray, ranks meet and are heard by the run's own means.
_SERVED = (
    "hostfile", "master_port", "master_addr", "node_rank", "launcher", "no_ssh", "no_ssh_check",
    "force_multi",    "ssh_port", "enable_each_rank_log", "log_level", "quiet",
)  # fmt: skip
_BINDING = "binds ranks to processors, which is not done here; leave it out, or bind them in a shell script"
_REFUSED = {
    "autotuning": "runs a script many times to find its settings; here 'plan … layout=auto' looks for them",
    "launcher_args": "is for ssh or MPI, and nodes are reached by Ray; leave it out",
    "venv_script": "chooses an environment on each node; ranks have that of Ray there; leave it out",
    "save_pid": "writes a number of the launcher, which is not there; leave it out",
    "bind_cores_to_rank": _BINDING,
    "bind_core_list": _BINDING,
}


def read(words: list[str]) -> Launch:
    """What the launcher would start with these words."""
    from deepspeed.launcher import runner

    asked = runner.parse_args(words)
    changed = flags.given(vars(asked), vars(runner.parse_args(["script"])))
    flags.refuse(_NAME, changed, _REFUSED)
    flags.refuse_other_nodes(_NAME, "node_rank", asked.node_rank)
    nodes, ranks = _sizes(asked, "hostfile" in changed)
    local_rank = [] if asked.no_local_rank else [LOCAL_RANK_FLAG]
    return Launch(
        kind=flags.kind_of(_NAME, asked.module, asked.no_python),
        program=asked.user_script,
        argv=(*local_rank, *asked.user_args),
        nodes=nodes,
        ranks_per_node=ranks,
        ranks_were_given=ranks is not None,
        environment=_exported(runner) if (nodes or 1) > 1 else {},
        left_out=tuple(f"--{name}" for name in _SERVED if name in changed),
    )


def _sizes(asked: argparse.Namespace, named: bool) -> tuple[int | None, int | None]:
    """Nodes, and ranks on each; None where the command leaves it to the machines."""
    from deepspeed.launcher import runner

    if named and not os.path.isfile(asked.hostfile):
        raise ConfigError(f"{_NAME}: --hostfile={asked.hostfile}: no such file; name nodes and slots there")
    pool = runner.fetch_hostfile(asked.hostfile)
    if asked.include or asked.exclude:
        if pool is None:
            pool = {"localhost": _local_slots(asked)}
        if not (named or asked.include):
            raise ConfigError(f"{_NAME}: --exclude needs a hostfile to take from; use --num_gpus=N")
        active = runner.parse_inclusion_exclusion(pool, asked.include, asked.exclude)
    else:
        active = {host: list(range(slots)) for host, slots in (pool or {}).items()}
    nodes = len(active) if active else None
    ranks = _alike(active)
    if asked.num_nodes > 0:
        nodes = asked.num_nodes
    if asked.num_gpus > 0:
        ranks = asked.num_gpus
    return nodes, ranks


def _local_slots(asked: argparse.Namespace) -> int:
    """Without a hostfile a node has the devices that are named."""
    from deepspeed.launcher import runner

    named = [slot for slots in runner.parse_node_config_list(asked.include).values() for slot in slots]
    return max(named, default=0) + 1


def _alike(active: Mapping[str, Sequence[int]]) -> int | None:
    counts = {host: flags.first_of_each(_NAME, f"host {host}", slots) for host, slots in active.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{host} {count}" for host, count in counts.items())
        raise ConfigError(
            f"{_NAME}: hosts of different sizes ({told}); here all nodes have as many: --num_gpus=N"
        )
    return next(iter(counts.values()), None)


def _exported(runner: object) -> dict[str, str]:
    """The variables that the launcher hands to other nodes from its own file."""
    found: dict[str, str] = {}
    name = str(getattr(runner, "DEEPSPEED_ENVIRONMENT_NAME", ".deepspeed_env"))
    for folder in (os.path.expanduser("~"), "."):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            with open(path) as file:
                pairs = (line.strip().partition("=") for line in file if "=" in line)
                found |= {key: value for key, _, value in pairs}
    return found
