"""``accelerate launch``: its flags, its file, and the variables by which it tells a script of both."""

from __future__ import annotations

import argparse
import os

from orchestrator.config.command_line.launch import Launch
from orchestrator.errors import ConfigError
from orchestrator.rank.launchers import flags

_NAME = "accelerate launch"
_KEYS = {"max_restarts": "recovery.max_restarts"}
_SERVED = (
    "main_process_ip", "main_process_port", "same_network", "machine_rank", "rdzv_backend", "rdzv_conf",
    "tee",    "log_dir", "monitor_interval", "quiet", "deepspeed_hostfile", "deepspeed_multinode_launcher",
)  # fmt: skip
_REFUSED = {
    "tpu": "is for TPUs, of which there are none here; leave it out",
    "mpirun_hostfile": "starts ranks by mpirun; here Ray does: leave it out and say --num_machines",
    "deepspeed_exclusion_filter": "chooses among hosts; here say --num_machines and --num_processes",
    "deepspeed_inclusion_filter": "chooses among hosts; here say --num_machines and --num_processes",
}
# What every rank is told anew.
_NOT_FOR_ALL = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE")


def read(words: list[str]) -> Launch:
    """What it would start with these words."""
    from accelerate.commands.launch import launch_command_parser

    parser = launch_command_parser()
    typed = flags.given(vars(parser.parse_args(words)), vars(launch_command_parser().parse_args(["script"])))
    flags.refuse(_NAME, typed, _REFUSED)
    asked, fields = _with_file(parser.parse_args(words))
    flags.refuse_other_nodes(_NAME, "machine_rank", int(asked.machine_rank or 0))
    nodes = int(asked.num_machines or 1)
    ranks = int(asked.num_processes or 0)
    if ranks % nodes:
        raise ConfigError(
            f"{_NAME}: --num_processes={ranks} over --num_machines={nodes}: every node has as many ranks; use"
            " a multiple"
        )
    environment = _environment(asked, fields)
    if "num_cpu_threads_per_process" not in typed:  # the cluster's own then
        environment.pop("OMP_NUM_THREADS", None)
    if getattr(asked, "role", "default") not in (None, "default"):
        environment["ROLE_NAME"] = asked.role
    stage = (
        getattr(asked, "zero_stage", None)
        if asked.use_deepspeed and not asked.deepspeed_config_file
        else None
    )
    return Launch(
        kind=flags.kind_of(_NAME, asked.module, asked.no_python),
        program=asked.training_script,
        argv=tuple(asked.training_script_args),
        nodes=nodes if "num_machines" in typed or nodes > 1 else None,
        ranks_per_node=ranks // nodes or None,
        ranks_were_given=ranks > 0,
        environment=environment,
        keys={key: typed[name] for name, key in _KEYS.items() if name in typed}
        | ({"gpu": "cpu"} if asked.cpu or getattr(asked, "use_cpu", False) else {})
        | ({"deepspeed": f"zero{stage}"} if str(stage) in "0123" else {}),
        left_out=tuple(f"--{name}" for name in _SERVED if name in typed),
    )


def _with_file(asked: argparse.Namespace) -> tuple[argparse.Namespace, str]:
    """With what the file of ``--config_file`` says, or the one that ``accelerate config`` has written; and
    the names of its fields, which a script is told."""
    from accelerate.commands.launch import _validate_launch_command

    if asked.config_file is not None and not os.path.isfile(asked.config_file):
        raise ConfigError(f"{_NAME}: --config_file={asked.config_file}: no such file")
    asked, defaults, precision_is_the_files = _validate_launch_command(asked)
    if asked.tpu or str(getattr(defaults, "compute_environment", "")).endswith("SAGEMAKER"):
        raise ConfigError(
            f"{_NAME}: its file is for TPUs or SageMaker; give one for GPUs or CPUs by --config_file"
        )
    fields = list(defaults.deepspeed_config) if defaults else []
    return asked, ",".join([*fields, *(["mixed_precision"] if precision_is_the_files else [])])


def _environment(asked: argparse.Namespace, fields: str) -> dict[str, str]:
    """The variables that it would set for a rank, on top of this shell's."""
    from accelerate.utils import launch

    if asked.gpu_ids not in (None, "all"):
        flags.first_of_each(_NAME, "--gpu_ids", map(int, asked.gpu_ids.split(",")))
        asked.gpu_ids = "all"
    # Else it would look whether a port is free here, and ask where the first node is.
    asked.main_process_port, asked.main_process_ip = 0, "127.0.0.1"
    if asked.use_deepspeed and not asked.cpu:
        asked.deepspeed_fields_from_accelerate_config = fields
        _, made = launch.prepare_deepspeed_cmd_env(asked)
    elif (asked.use_fsdp or asked.use_megatron_lm or asked.multi_gpu) and not asked.cpu:
        made = launch.prepare_multi_gpu_env(asked)
    else:
        _, made = launch.prepare_simple_launcher_cmd_env(asked)
    return {
        name: value
        for name, value in made.items()
        if name not in _NOT_FOR_ALL and os.environ.get(name) != value
    }
