"""What the whole run will take: steps, hours, interruptions, energy, dollars, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.config.schema import Config, PriceKind
from orchestrator.errors import ConfigError
from orchestrator.plan.environment import environment_of_user
from orchestrator.plan.forecast.energy import Energy, energy_of
from orchestrator.plan.forecast.failure_rates import Checkpoints, Hazards
from orchestrator.plan.forecast.interruptions import Forecast, cost_range, forecast
from orchestrator.plan.forecast.price import Offer, no_price, offers, ownership
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.perf.baseline import group_of, nominal
from orchestrator.plan.perf.calibration import Calibration, Group
from orchestrator.plan.perf.likeness import Kind, Likeness, best_mfu, differences, kind_of, likeness
from orchestrator.plan.perf.machine import NOT_SPREAD, Machine
from orchestrator.plan.perf.memory import Memory
from orchestrator.plan.perf.mfu import hardware_flops_utilisation, model_flops_utilisation
from orchestrator.plan.perf.spread import Spread
from orchestrator.plan.perf.step import StepTime
from orchestrator.plan.perf.transformer import parameters
from orchestrator.plan.perf.transport import Route, route_of
from orchestrator.text import bytes_in_words

# A checkpoint in 16-bit training: weights, and the optimizer's float32 weights and two moments (Rajbhandari
# et al. 2020).
CHECKPOINT_BYTES_PER_PARAMETER = 14
# What bounds a step, by the part of it that takes longest.
BOUNDS = {
    "matmul_s": "matrix products", "attention_s": "attention", "memory_bound_s": "memory bandwidth",
    "recompute_s": "recomputation", "host_s": "starting kernels on the host", "optimizer_s": "the optimizer",
    "offload_s": "offload to the host", "tp_s": "tensor parallel communication",
    "sp_s": "sequence parallel communication",
    "ep_s": "expert parallel communication", "pp_s": "communication between pipeline stages",
    "dp_s": "data parallel communication", "bubble_s": "the pipeline's bubble", "data_s": "reading data",
}  # fmt: skip
COMMUNICATION = ("tp_s", "sp_s", "ep_s", "pp_s", "dp_s")


@dataclass(frozen=True)
class Cost:
    """US dollars of the run by one way of paying; `gpu_hours` differ where spot nodes are taken away."""

    kind: str  # how it is paid: `list`, `reserved`, `spot` or `owned`
    # the same in words: `on demand`, `reserved` with its end where it has one, `spot`, `owned`; `assumed` or
    # `estimated` where nobody rents at the price
    paid: str
    usd_per_gpu_hour: float  # of one accelerator; where that changes, of the run's hours
    gpu_hours: float  # paid for: more where spot nodes are taken away
    usd: float  # expected
    low_usd: float  # with few interruptions and fast steps
    high_usd: float  # with many interruptions and slow steps
    source: str  # where the price comes from
    # that buys the whole nodes first, where they are owned; null where they are rented
    capital_usd: float | None = None


@dataclass(frozen=True)
class Prediction:
    """None where nothing on record allows a prediction. `hours`, `gpu_hours` and `cost_usd` are of the whole
    run with interruptions, by the chosen way of paying; `costs` are by every way whose price is known, that
    one first. `step_time_error` is the planner's mean error on published runs that it was not fitted to, as a
    fraction; None where its constants were calibrated on runs of the cluster, whose error is another."""

    steps: int | None  # of the whole run; null where the job does not say
    tokens: int | None  # of the whole run; null where steps or tokens of one are not known
    # of the global batch; null where neither the model nor `job.tokens_per_step` says so
    tokens_per_step: int | None = None
    step_time_s: float | None = None  # of one step of the slowest rank
    step: StepTime | None = None  # the same by part
    bound_by: str | None = None  # what takes longest of a step, in words
    tokens_per_s: float | None = None  # of the whole run's ranks
    tokens_per_s_per_gpu: float | None = None  # of one accelerator
    mfu: float | None = None  # model FLOPs over the dense peak, 0 to 1
    hfu: float | None = None  # the same with what is computed again
    hours: float | None = None  # of the whole run, interruptions included
    gpu_hours: float | None = None  # the same times the accelerators, by the chosen way of paying
    cost_usd: float | None = None  # expected, by the chosen way of paying
    # by every way of paying whose price is known, the chosen one first; empty where the hours are not known
    costs: tuple[Cost, ...] = ()
    forecast: Forecast | None = None  # interruptions and what they take
    energy: Energy | None = None  # power and energy; null where the power of the nodes is not on record
    # the planner's mean error on published runs, as a fraction; null where its constants were calibrated on
    # runs of the cluster, or nothing is predicted
    step_time_error: float | None = None
    # between which eight of ten published runs like this one were, by what their predictions were off; null
    # where the constants were calibrated on runs of the cluster, or nothing is predicted
    step_time_low_s: float | None = None
    step_time_high_s: float | None = None  # the other end of the range; null as above
    alike: bool = True  # whether published runs are like it in all that counts, or its range is by another
    likeness: str = ""  # which published runs the range comes from, in words; empty where there is none
    # what published runs of these accelerators reached at the most, as a share of the dense peak, where more
    # is predicted; null where it is not
    best_published_mfu: float | None = None
    basis: str = ""  # what the figures rest on, in words


def memory_and_calibration(
    config: Config,
    layout: Layout,
    calibrations: Mapping[Group, Calibration],
    spread: Spread = NOT_SPREAD,
) -> tuple[Memory | None, StepTime | None, Calibration | None]:
    """Memory and step time as far as they can be predicted, calibrated where this cluster's runs were."""
    expected = nominal(config, layout, spread)
    if expected is None:
        return None, None, None
    calibration = calibrations.get(group_of(config, layout))
    if calibration is not None:
        step = calibration.apply(expected.step) if expected.step else None
        return calibration.apply_memory(expected.memory), step, calibration
    known = layout.precision in config.gpu.matmul_efficiency
    return expected.memory, expected.step if known else None, None


def bound_of(step: StepTime) -> str:
    """What takes longest of a step, and its share of it."""
    part, seconds = next(iter(step.parts().items()))
    return f"{BOUNDS[part]}, {seconds / step.total_s:.0%}"


def _network_of(config: Config, layout: Layout, step: StepTime) -> str:
    """Where what takes longest goes between nodes: over what it goes there."""
    route = route_between_nodes(config, layout)
    inner = {"ep_s": layout.ep * layout.tp, "sp_s": layout.sp * layout.tp, "tp_s": layout.tp}
    part = next(iter(step.parts()))
    if route is None or part not in COMMUNICATION or inner.get(part, math.inf) <= layout.ranks_per_node:
        return ""
    return f", over {route.transport_in_words}: {bytes_in_words(route.bytes_per_s)}/s a node"


def _tokens_per_step(config: Config, layout: Layout) -> int | None:
    """Raises ConfigError where the job says another number than the model does."""
    said, model = config.job.tokens_per_step, config.model
    if model is None:
        return said
    counted = layout.global_batch * model.seq_len
    if said is not None and said != counted:
        raise ConfigError(
            f"job.tokens_per_step={said}: but a global batch of {layout.global_batch} sequences of"
            f" model.seq_len={model.seq_len} has {counted} tokens; leave job.tokens_per_step out"
        )
    return counted


def route_between_nodes(config: Config, layout: Layout) -> Route | None:
    """None on one node."""
    if layout.nodes == 1:
        return None
    return route_of(config.cluster, config.gpu, config.fabric, environment_of_user(config))


def predict(
    config: Config,
    layout: Layout,
    step: StepTime | None,
    calibration: Calibration | None,
    likeness_of: Callable[[Kind], Likeness] | None = None,
) -> Prediction:
    """The run's prediction from the time of one step. Raises ConfigError for absurd rates and a site's power
    limit.

    ``likeness_of`` is for who predicts many runs of few kinds, and remembers the likeness of each kind.
    """
    model, steps, tokens_per_step = config.model, config.job.steps, _tokens_per_step(config, layout)
    tokens = steps * tokens_per_step if steps and tokens_per_step else None
    if step is None or model is None or tokens_per_step is None:
        reason = "the model is not described" if model is None else _why_not(config, layout)
        energy = energy_of(config.cluster, config.gpu, layout.ranks, None)
        return Prediction(steps, tokens, tokens_per_step, energy=energy, basis=reason)
    machine, rate = Machine.of_config(config), tokens_per_step / step.total_s
    whole = _whole_run(config, layout, step, steps) if steps else None
    kind = kind_of(model, config.gpu.architecture, layout.precision, layout)
    like = None
    if calibration is None:
        like = likeness(kind, config.planner) if likeness_of is None else likeness_of(kind)
        like = like.waiting(step.host_s / step.total_s)
    mfu = model_flops_utilisation(model, machine, layout.precision, layout.ranks, rate)
    best = None if calibration else best_mfu(config.planner, kind, model.hidden)
    costs = tuple(
        _cost(config, layout, step, steps, offer, like)
        for offer in (
            () if no_price(config.cluster, config.gpu) else offers(config.cluster.price, config.gpu)
        )
        if steps
    )
    return Prediction(
        steps=steps,
        tokens=tokens,
        tokens_per_step=tokens_per_step,
        step_time_s=step.total_s,
        step=step,
        bound_by=f"{bound_of(step)} of a step" + _network_of(config, layout, step),
        tokens_per_s=rate,
        tokens_per_s_per_gpu=rate / layout.ranks,
        mfu=mfu,
        hfu=hardware_flops_utilisation(
            model, machine, layout.precision, layout.ranks, rate, layout.recompute
        ),
        hours=whole.wall_hours if whole else None,
        gpu_hours=whole.gpu_hours if whole else None,
        cost_usd=costs[0].usd if costs else None,
        costs=costs,
        forecast=whole,
        energy=energy_of(config.cluster, config.gpu, layout.ranks, whole.wall_hours if whole else None),
        step_time_error=None if calibration else config.planner.step_time_error,
        step_time_low_s=like.low * step.total_s if like else None,
        step_time_high_s=like.high * step.total_s if like else None,
        alike=like is None or _is_alike(kind, like),
        likeness=_likeness(kind, like) if like else "",
        best_published_mfu=best if best is not None and mfu > best else None,
        basis=calibration.basis if calibration else f"planner's constants, fitted on {config.planner.fitted}",
    )


def _is_alike(kind: Kind, like: Likeness) -> bool:
    return like.alike and like.nearest is not None and not differences(kind, like.nearest)


def _likeness(kind: Kind, like: Likeness) -> str:
    """Which published runs a range comes from, and what of them is another than here."""
    if like.nearest is None:
        return "by the mean error of all published runs"
    apart = differences(kind, like.nearest)
    if _is_alike(kind, like):
        return f"as published runs like it were off ({like.nearest.table} and others)"
    unlike = ", ".join(apart) or "another scale"
    none = "few published runs like it" if like.alike else "no published run like it"
    return f"{none}: the nearest, of {like.nearest.table}, have {unlike}"


def _why_not(config: Config, layout: Layout) -> str:
    return (
        f"no efficiency of {layout.precision} is on record for {config.gpu.name}; after a run, "
        "'python -m orchestrator calibrate' finds it"
    )


def _whole_run(
    config: Config, layout: Layout, step: StepTime, steps: int, kind: PriceKind | None = None
) -> Forecast:
    """The forecast of all steps; on spot nodes with their reclaims."""
    assert config.model is not None
    price = config.cluster.price
    spot = (kind or price.kind) is PriceKind.spot
    states = CHECKPOINT_BYTES_PER_PARAMETER * parameters(config.model).total
    return forecast(
        step.total_s * steps / 3600,
        layout.ranks,
        layout.nodes,
        Hazards(
            config.recovery.gpu_hours_per_failure,
            spot_node_hours_per_interruption=price.spot_node_hours_per_interruption if spot else None,
        ),
        Checkpoints.of(
            states,
            layout.ranks,
            layout.nodes,
            staged=config.snapshot.enabled,
            storage_bytes_per_s=config.cluster.storage_bytes_per_s,
        ),
        step.total_s,
    )


def _cost(
    config: Config, layout: Layout, step: StepTime, steps: int | None, offer: Offer, like: Likeness | None
) -> Cost:
    assert steps is not None
    run = _whole_run(config, layout, step, steps, offer.kind)
    usd = cost_range(
        run, offer.mean_usd_per_gpu_hour, config.planner.step_time_error if like is None else 0.0
    )
    capital_usd = None
    if offer.kind is PriceKind.owned:
        owned = ownership(config.cluster.price, config.gpu)
        capital_usd = owned.capex_usd * layout.nodes * config.cluster.gpus_per_node
    return Cost(
        kind=offer.kind.value,
        paid=offer.paid,
        usd_per_gpu_hour=offer.mean_usd_per_gpu_hour(run.wall_hours),
        gpu_hours=run.gpu_hours,
        usd=usd.expected_usd,
        low_usd=usd.low_usd * (like.low if like else 1.0),
        high_usd=usd.high_usd * (like.high if like else 1.0),
        source=offer.source,
        capital_usd=capital_usd,
    )
