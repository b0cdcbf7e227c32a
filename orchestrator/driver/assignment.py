"""From plan and configuration to what every node is told."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.agent.assignment import (
    Assignment,
    Places,
    Program,
    Ranks,
    ScriptTracking,
    Secrets,
    Shell,
    Signing,
)
from orchestrator.config.schema import Config
from orchestrator.driver.launch_check import working_dir
from orchestrator.driver.script_preload import script_preload
from orchestrator.driver.signing import signing_key
from orchestrator.ledger.run_directory import number_of_run
from orchestrator.plan.plan import Plan
from orchestrator.rank.environment import held_back, reaching_ranks
from orchestrator.vocabulary import ProgramKind

if TYPE_CHECKING:
    from orchestrator.driver.preflight import Planned

# Of optimizer state by parameter: fp32 weights and two moments. Weights come on top, in their own precision.
_OPTIMIZER_BYTES = 12
_WEIGHT_BYTES = {"fp32": 4}
_GENERATIONS = 2


def assignment_of(
    config: Config,
    planned: Planned,
    name: str,
    run_dir: Path,
    run_dir_mark: str,
    warm_idle_timeout_s: float | None,
    began_unix_s: float | None = None,
) -> Assignment:
    """What the plan says to every node. ``began_unix_s`` is when the run began, if not now."""
    plan = planned.plan
    shipped = working_dir(config)
    checkpoint_dir = config.job.checkpoint_dir or str(run_dir / "checkpoints")
    trusted = [str(Path(plan.cwd, folder).resolve()) for folder in config.snapshot.trusted]
    return Assignment(
        run=name,
        number=number_of_run(run_dir),
        began_unix_s=time.time() if began_unix_s is None else began_unix_s,
        places=Places(str(run_dir), run_dir_mark, checkpoint_dir=str(Path(plan.cwd, checkpoint_dir))),
        program=Program(
            script=_as_named(config, plan),
            args=list(plan.args),
            resume_args=list(plan.resume_args),
            cwd=plan.cwd,
            corpus=list(plan.corpus),
            environment={key: setting.value for key, setting in plan.environment.items()},
            deepspeed=dict(plan.deepspeed),
            deepspeed_assumed=list(plan.assumed),
            kind=plan.program,
            module=plan.module,
            preload=script_preload(config, plan, planned.sources) if config.launch.zygote else [],
        ),
        ranks=Ranks(
            per_node=plan.layout.ranks_per_node,
            world_size=plan.layout.ranks,
            device=plan.device,
            unit=plan.unit,
            product_names=list(plan.product_names),
            usd_per_gpu_hour=plan.billed_by.usd_per_gpu_hour,
        ),
        secrets=Secrets(
            Shell(reaching_ranks(os.environ, config.launch.forward), held_back(os.environ, plan.environment)),
            Signing(signing_key(config, run_dir).hex(), required=config.snapshot.key_file is not None),
        ),
        recovery=config.recovery,
        snapshot=replace(config.snapshot, trusted=trusted),
        launch=replace(config.launch, working_dir=str(shipped) if shipped else None),
        tracking=ScriptTracking(config.tracking.experiment, config.tracking.ranks),
        expected=dict(plan.facts),
        system_metrics_every_s=config.tracking.system_metrics_every_s,
        last_step=config.job.steps,
        mtbf_s=config.recovery.gpu_hours_per_failure * 3600 / plan.layout.ranks,
        snapshot_bytes=snapshot_bytes_per_node(plan),
        warm_idle_timeout_s=warm_idle_timeout_s,
    )


def _as_named(config: Config, plan: Plan) -> str:
    """The script as it was named, where its ranks find it by that name from where they are: it is what a
    script sees as ``sys.argv[0]``."""
    named = config.job.script
    if plan.program is not ProgramKind.SCRIPT or not named:
        return plan.script
    return named if os.path.abspath(os.path.join(plan.cwd, named)) == plan.script else plan.script


def snapshot_bytes_per_node(plan: Plan) -> int | None:
    """Memory for two generations on the node that stages most; None where the model is not known.

    About 14 bytes per parameter and generation with bf16: the weights in their own precision, which one
    data-parallel rank stages for all, and 12 of the optimizer, which ZeRO divides among the ranks.
    """
    if plan.model is None:
        return None
    stage = int(plan.deepspeed.get("zero_optimization", {}).get("stage", 0))
    weights = _WEIGHT_BYTES.get(plan.layout.precision, 2)
    shared = weights / plan.layout.nodes if stage == 3 else weights
    optimizer = _OPTIMIZER_BYTES / (plan.layout.nodes if stage else 1)
    return int(_GENERATIONS * plan.model.parameters * (shared + optimizer))
