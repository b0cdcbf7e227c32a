"""Config → plan, with a look at this machine: what is refused here has cost nothing yet."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator import hardware, provenance
from orchestrator.config import Config, Device, conf_dir
from orchestrator.deepspeed_check import check_deepspeed
from orchestrator.errors import ConfigError
from orchestrator.plan.plan import Plan, make_plan


def plan_of(config: Config) -> Plan:
    """The plan of a configuration, with script, corpus and versions as this machine has them.

    Raises :class:`ConfigError`.
    """
    check_deepspeed(config.deepspeed)
    check_local_gpus(config)
    cwd = Path(config.job.cwd or os.getcwd()).resolve()
    script = find_script(config.job.script, cwd)
    facts = provenance.observe(script, config.job.corpus, cwd, least_corpus_bytes(config))
    return make_plan(config, str(script), str(cwd), facts)


def find_script(script: str, cwd: Path) -> Path:
    """An absolute path: as given, from ``cwd``, or among the jobs that come with the project."""
    candidates = [cwd / Path(script).expanduser(), conf_dir().parent / script]
    for path in candidates:
        if path.is_file():
            return path.resolve()
    raise ConfigError(
        f"job.script={script}: no such file (looked at {' and '.join(map(str, dict.fromkeys(candidates)))}); "
        "give the path of a Python script"
    )


def check_local_gpus(config: Config) -> None:
    """A local cluster can not have more GPUs than this machine shows."""
    if (
        config.ray_address is not None
        or config.cluster.name != "local"
        or config.gpu.device is not Device.cuda
    ):
        return
    visible = len(hardware.local_gpus())
    asked = min(config.job.ranks or config.cluster.gpus_per_node, config.cluster.gpus_per_node)
    if asked > visible:
        raise ConfigError(
            f"cluster.gpus_per_node={config.cluster.gpus_per_node}: this machine shows {visible} GPUs; "
            f"use cluster.gpus_per_node={visible}, or gpu=cpu"
            if visible
            else f"gpu={config.gpu.name}: this machine shows no GPU; use gpu=cpu, or ray_address=… of a cluster"
        )


def least_corpus_bytes(config: Config) -> int:
    """Bytes of one sequence and the token after it, where tokens are bytes; else one byte."""
    if config.model is None or config.job.tokenizer not in (None, "bytes"):
        return 1
    return config.model.seq_len + 1
