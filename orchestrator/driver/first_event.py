"""What a run begins with in its journal: that it has started, or goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.driver.resume import Unfinished
from orchestrator.driver.wiring import Wired
from orchestrator.events import RunResumed, RunStarted
from orchestrator.ledger.charge import cost_usd
from orchestrator.plan.plan import Plan
from orchestrator.redact import redact

if TYPE_CHECKING:  # Ray takes a second to import
    from orchestrator.cluster.session import Session


def first_event(run: Wired, session: Session) -> RunStarted | RunResumed:
    """Of this driver."""
    if run.takes_up:
        return _resumed(run.takes_up, run.plan)
    address = None if session.local else session.address
    return run_started(run.plan, run.name, address, run.config.cluster.grid_gco2_per_kwh)


def _resumed(takes_up: Unfinished, plan: Plan) -> RunResumed:
    """With what the run goes on with, where that is not what it began with."""
    if not takes_up.changed:
        return takes_up.resumed
    changed = [redact(word) for word in takes_up.changed]
    return replace(takes_up.resumed, changed=changed, steps=plan.prediction.steps, gpus=plan.layout.ranks)


def run_started(
    plan: Plan, name: str, ray_address: str | None, grid_gco2_per_kwh: float | None = None
) -> RunStarted:
    """The run's first event: all that the meter needs, and where it ran unless on a cluster of its own."""
    currency, energy = plan.billed_by.currency, plan.prediction.energy
    return RunStarted(
        run=name,
        job=plan.job,
        cluster=plan.cluster,
        gpu_type=plan.gpu_type,
        gpus=plan.layout.ranks,
        price_usd_per_gpu_hour=plan.billed_by.usd_per_gpu_hour,
        unit=plan.unit,
        steps=plan.prediction.steps,
        tokens_per_step=plan.prediction.tokens_per_step,
        model_flops_per_token=plan.model.training_flops_per_token if plan.model else None,
        peak_flops_per_gpu=plan.peak_flops_per_gpu,
        ray_address=ray_address,
        predicted_step_time_s=plan.prediction.step_time_s,
        predicted_memory_bytes=plan.memory.total_bytes if plan.memory else None,
        predicted_cost_usd_per_step=_cost_usd_per_step(plan),
        currency=currency.code if currency else "",
        usd_per_currency_unit=currency.usd_per_unit if currency else None,
        modelled_watts_per_gpu=energy.mean_power_w / plan.layout.ranks if energy else None,
        grid_gco2_per_kwh=grid_gco2_per_kwh,
    )


def _cost_usd_per_step(plan: Plan) -> float | None:
    """Of a run of known length its share of the whole, faults and checkpoints included; else of a step
    alone."""
    predicted = plan.prediction
    if predicted.cost_usd is not None and predicted.steps:
        return predicted.cost_usd / predicted.steps
    if predicted.step_time_s is None:
        return None
    return cost_usd(predicted.step_time_s * plan.layout.ranks, plan.billed_by.usd_per_gpu_hour)
