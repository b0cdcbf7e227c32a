"""What a plan says to a person, as sections that a page of text, a terminal and a notebook lay out each in
its way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.config.choices import Framework
from orchestrator.config.deepspeed_argument import as_typed
from orchestrator.config.deepspeed_keys import deprecated_keys
from orchestrator.plan.forecast.prediction import Cost
from orchestrator.plan.forecast.price import Currency
from orchestrator.plan.layout.framework_rules import sharding_in_words
from orchestrator.plan.search.space import TIGHT_SHARE
from orchestrator.plan.split_words import placement_rows
from orchestrator.redact import HIDDEN, is_secret, redact, redact_text
from orchestrator.text import (
    bytes_in_words,
    count,
    energy_in_words,
    figure,
    hours_in_words,
    plural,
    power_in_words,
    seconds_in_words,
    usd,
    with_prefix,
)
from orchestrator.vocabulary import StateSharing

if TYPE_CHECKING:
    from orchestrator.plan.layout.layout import Layout
    from orchestrator.plan.plan import Plan

_UNKNOWN = "not predicted"
_NAMES = {
    "matmul_s": "matrix products",
    "attention_s": "attention",
    "memory_bound_s": "memory-bound kernels",
    "recompute_s": "recomputation",
    "host_s": "waiting for the host",
    "optimizer_s": "optimizer",
    "offload_s": "offload",
    "tp_s": "tensor parallel",
    "sp_s": "sequence parallel",
    "ep_s": "expert parallel",
    "pp_s": "between stages",
    "dp_s": "data parallel",
    "bubble_s": "pipeline bubble",
    "data_s": "data",
    "framework": "buffers, context",
    "transient": "backward pass of a layer",
}


@dataclass(frozen=True)
class Title:
    """Whose plan it is."""

    job: str
    cluster: str


@dataclass(frozen=True)
class Pairs:
    """Labels, each with what is to be said; an empty label goes on with the one above."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Part:
    """A part of a whole, ``share`` of which it is."""

    name: str
    amount: str
    share: float


@dataclass(frozen=True)
class Parts:
    """A whole by its parts, largest first."""

    title: str
    parts: tuple[Part, ...]
    total: str


@dataclass(frozen=True)
class SideBySide:
    """Wholes that are read beside each other."""

    tables: tuple[Parts, ...]


@dataclass(frozen=True)
class Grid:
    """A table with a title and a heading above each column."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Section = Title | Pairs | SideBySide | Grid


def sections(plan: Plan, brief: bool = False) -> Iterator[Section]:
    """All that is said of a plan; ``brief`` leaves out what only an engineer asks for, command and
    environment."""
    yield Title(plan.job, plan.cluster)
    yield Pairs(tuple(_shape_rows(plan, brief)))
    if not brief and (tables := tuple(_wholes(plan))):
        yield SideBySide(tables)
    yield Pairs(tuple(_run_rows(plan, brief)))
    if not brief:
        yield Pairs((("command", redact_text(plan.command())),))
        rows = tuple(
            (name, HIDDEN if is_secret(name) else str(redact(setting.value)), setting.source)
            for name, setting in plan.environment.items()
        )
        yield Grid("Environment of every rank", ("variable", "value", "from"), rows)


def _shape_rows(plan: Plan, brief: bool) -> Iterator[tuple[str, str]]:
    """Model, machines and how the ranks share the work."""
    layout, unit = plan.layout, plan.unit
    if plan.model is not None:
        size_of = f"{count(plan.model.parameters)} parameters"
        if (with_embedding := plan.model.active_parameters_with_embedding) < plan.model.parameters:
            active = count(plan.model.active_parameters)
            size_of += f" ({active} active per token, {count(with_embedding)} with the embedding)"
        flops = with_prefix(plan.model.training_flops_per_token)
        yield "model", f"{plan.model.name}, {size_of}, {flops}FLOP per token"
    else:
        yield "model", "not described, so memory and time are not predicted"
    nodes = f"{layout.nodes} × {plan.node_type}, {layout.ranks_per_node} × {plan.gpu_type} each"
    yield "cluster", f"{nodes}, fabric {plan.fabric}"
    if plan.network is not None and (not brief or plan.network.why):
        yield "network", plan.network.in_words(layout.ranks_per_node, unit)
    precision = f"{layout.precision}{' assumed' if 'precision' in plan.assumed else ''}"
    how = f"{layout.degrees}, {_states(plan)}, {precision}{_again(layout)}"
    yield "layout", f"{plural(layout.ranks, 'rank')}: {how}"
    yield "batch", _batch(plan)
    by_deepspeed = layout.framework == Framework.deepspeed.value
    if plan.deepspeed_in_source:
        yield "deepspeed", "as the script's source hands it to deepspeed.initialize"
    elif plan.states in (StateSharing.DDP, StateSharing.FSDP):
        yield "deepspeed", "not used by the script, as its source says: batch and precision are its own"
    elif by_deepspeed and not plan.hands_deepspeed and plan.deepspeed_argument is None:
        yield (
            "deepspeed",
            "no argument has {deepspeed_config}: batch, precision and ZeRO are the script's own; what it"
            " runs with is said when DeepSpeed has made its engine",
        )
    if plan.memory is not None:
        share = plan.memory.total_bytes / plan.gpu_memory_bytes
        parts = f": {_memory_parts(plan)}" if brief else ""
        used, there = bytes_in_words(plan.memory.total_bytes), bytes_in_words(plan.gpu_memory_bytes)
        yield "memory", f"{used} of {there} per {unit} ({share:.0%}) predicted{parts}"
        if share > TIGHT_SHARE and plan.memory_error is not None:
            yield (
                "",
                f"tight: published runs were {plan.memory_error:.0%} off in the mean; measure a step first",
            )
    if plan.deepspeed_file is not None:
        argument = plan.deepspeed_argument
        by_itself = f", which the script reads by itself ({as_typed(argument)})" if argument else ""
        yield "deepspeed", f"{plan.deepspeed_file}{by_itself}"
    if plan.deepspeed_auto:
        yield "auto", f"left to the script to fill in: {', '.join(plan.deepspeed_auto)}"
    for key, name in deprecated_keys(plan.deepspeed).items():
        yield "deepspeed", f"{key} is an old name, which DeepSpeed takes for now; write {name} instead"


def _batch(plan: Plan) -> str:
    """Sequences of a step, where somebody has said how many."""
    layout, per_step = plan.layout, plan.prediction.tokens_per_step
    factors = (
        f"{layout.micro_batch} micro-batch",
        f"{layout.accumulation} accumulation",
        f"{layout.dp} data parallel",
    )
    whole = plural(layout.global_batch, "sequence")
    tokens = f" ({per_step:,} tokens)" if per_step else ""
    if "micro_batch" not in plan.assumed:
        return f"{whole} a step = {' × '.join(factors)}{tokens}"
    said = (
        'the script\'s own: it is "auto" in the DeepSpeed file, and neither an argument'
        " per_device_train_batch_size nor job.micro_batch says it; what it runs with is told when DeepSpeed"
        " has made its engine"
    )
    return f"{said}; predicted with {whole} a step{tokens}" if per_step or plan.memory else said


def _states(plan: Plan) -> str:
    """How weights, gradients and optimizer states are shared."""
    shards = sharding_in_words(plan.layout) + (" with offload" if plan.layout.offload else "")
    match plan.states:
        case StateSharing.DDP:
            return f"every rank holds all states ({plan.states_by})"
        case StateSharing.FSDP:
            return f"states shared by FSDP ({plan.states_by})"
        case StateSharing.UNKNOWN:
            why = f"its source has {plan.states_by}" if plan.states_by else "its source does not say"
            return f"{shards} assumed ({why})"
    return shards


def _again(layout: Layout) -> str:
    return ", recompute" if layout.recompute else ", selective recompute" if layout.selective else ""


def _memory_parts(plan: Plan) -> str:
    """The parts of the memory prediction, largest first, those of no weight left out."""
    assert plan.memory is not None
    parts = {name.removesuffix("_bytes"): value for name, value in dataclasses.asdict(plan.memory).items()}
    shown = sorted(((value, name) for name, value in parts.items() if value), reverse=True)
    return ", ".join(f"{name} {bytes_in_words(value)}" for value, name in shown)


def _wholes(plan: Plan) -> Iterator[Parts]:
    """Memory and the time of a step, where they are predicted. What lies on the host is none of the
    accelerator's."""
    if plan.memory is not None:
        parts = {k: v for k, v in dataclasses.asdict(plan.memory).items() if k != "host_bytes" and v}
        yield _whole(f"Memory per {plan.unit}", parts, plan.memory.total_bytes, bytes_in_words)
    step = plan.prediction.step
    if step is not None:
        shown = {name: s for name, s in step.parts().items() if s > step.total_s / 1000}
        yield _whole("Time of a step", shown, step.total_s, seconds_in_words)


def _whole(title: str, parts: Mapping[str, float], total: float, words: Callable[[float], str]) -> Parts:
    largest_first = sorted(parts.items(), key=lambda item: -item[1])
    listed = tuple(
        Part(_NAMES.get(name, name), words(value), value / total if total else 0.0)
        for name, value in largest_first
    )
    return Parts(title, listed, words(total))


def _run_rows(plan: Plan, brief: bool) -> Iterator[tuple[str, str]]:
    """Speed, length, interruptions, energy, cost."""
    predicted, unit = plan.prediction, plan.unit
    length = [plural(predicted.steps, "step")] if predicted.steps else ["as long as the script runs"]
    if predicted.tokens:
        length.append(f"{count(predicted.tokens)} tokens")
    yield "length", ", ".join(length)
    if plan.resume and not brief:
        yield "resume", plan.resume
    if predicted.step_time_s is None:
        yield "time, cost", f"{_UNKNOWN}: {predicted.basis}"
        yield _price(plan)
        yield from _remarks(plan)
        return
    assert predicted.tokens_per_s is not None
    speed = f"{seconds_in_words(predicted.step_time_s)} a step, {predicted.tokens_per_s:,.0f} tokens/s"
    if predicted.mfu is not None and plan.device == "cuda":
        speed += f", {predicted.tokens_per_s_per_gpu:,.0f} per {unit}"
        speed += f"; MFU {predicted.mfu:.1%}, HFU {predicted.hfu:.1%}"
    yield "speed", speed
    if predicted.best_published_mfu is not None:
        best = f"{predicted.best_published_mfu:.0%}"
        yield (
            "",
            f"that MFU is above the best published of models about as wide on such a {unit} in this"
            f" precision, {best}: expect less",
        )
    if predicted.step_time_low_s is not None and predicted.step_time_high_s is not None:
        low, high = predicted.step_time_low_s, predicted.step_time_high_s
        spread = f"{seconds_in_words(low)} to {seconds_in_words(high)} a step"
        yield "range", f"{spread}, {predicted.likeness}" if predicted.likeness else spread
    yield "bound by", str(predicted.bound_by)
    yield from placement_rows(plan)
    yield from _forecast_rows(plan, brief)
    basis = predicted.basis
    yield "basis", basis
    yield from _remarks(plan)


def _remarks(plan: Plan) -> Iterator[tuple[str, str]]:
    for place, remark in enumerate(plan.remarks):
        yield "" if place else "remarks", remark


def _forecast_rows(plan: Plan, brief: bool) -> Iterator[tuple[str, str]]:
    predicted, unit = plan.prediction, plan.unit
    run, energy = predicted.forecast, predicted.energy
    if run is None or predicted.gpu_hours is None:
        yield _price(plan)
        return
    held = f"{predicted.gpu_hours:,.{0 if predicted.gpu_hours > 100 else 2}f} {unit}-hours"
    yield "run", f"{hours_in_words(run.wall_hours)}, {held}"
    if not brief and run.interruptions >= 0.005:
        spread = f"{run.interruptions_low} to {run.interruptions_high}"
        every = f"a checkpoint every {_span(run.checkpoint_every_s)}: goodput {run.goodput:.1%}"
        yield "faults", f"{plural(run.interruptions, 'interruption')} expected ({spread}), {every}"
    yield from _storage_rows(plan, brief)
    if not brief and energy is not None and energy.energy_kwh is not None:
        limit = f" of {figure(energy.site_limit_w / 1e6)} MW" if energy.site_limit_w else ""
        peak, mean = power_in_words(energy.peak_power_w), power_in_words(energy.mean_power_w)
        each = f"peak {peak}{limit}, {mean} at work; PUE {figure(energy.pue)}"
        yield "energy", f"{energy_in_words(energy.energy_kwh)}; {each}"
    if not predicted.costs:
        yield _price(plan)
    for place, cost in enumerate(predicted.costs[:1] if brief else predicted.costs):
        yield "" if place else "cost", _cost(cost, unit)
    currency = plan.price.currency if plan.price is not None else None
    if predicted.costs and currency is not None:
        yield f"in {currency.code}", _in_currency(predicted.costs[0], currency)


def _storage_rows(plan: Plan, brief: bool) -> Iterator[tuple[str, str]]:
    """What checkpoints ask of the storage that several nodes share."""
    run, limit = plan.prediction.forecast, plan.storage_limit_bytes_per_s
    if brief or run is None or plan.layout.nodes == 1 or not run.checkpoint_bytes:
        return
    takes = f"a checkpoint of {bytes_in_words(run.checkpoint_bytes)} every {_span(run.checkpoint_every_s)}"
    key = "cluster.storage_bytes_per_s"
    of_limit = f"{key} is not set" if limit is None else f"of {bytes_in_words(limit)}/s, {key}"
    yield "storage", f"{takes}: {bytes_in_words(run.storage_bytes_per_s)}/s ({of_limit})"


def _cost(cost: Cost, unit: str) -> str:
    each = f"${cost.usd_per_gpu_hour:,.3f} per {unit}-hour"
    spread = f"{usd(cost.low_usd)} to {usd(cost.high_usd)}"
    bought = "" if cost.capital_usd is None else f", of machines for {usd(cost.capital_usd)}"
    return f"{usd(cost.usd)} {cost.paid} ({spread}), {each}{bought}; {cost.source}"


def _in_currency(cost: Cost, currency: Currency) -> str:
    each, low, high = (
        f"{usd / currency.usd_per_unit:,.0f}" for usd in (cost.usd, cost.low_usd, cost.high_usd)
    )
    rate = f"at {currency.usd_per_unit:g} USD each, {currency.source}; date: {currency.as_of}"
    return f"{each} {currency.code} ({low} to {high}), {rate}"


def _price(plan: Plan) -> tuple[str, str]:
    if plan.price is None:
        return "price", "not known: nobody sells such a node; cluster.price.usd_per_gpu_hour=… gives one"
    each, all_ranks = plan.price.usd_per_gpu_hour, plan.price.usd_per_gpu_hour * plan.layout.ranks
    whole = f"${all_ranks:,.{3 if all_ranks < 10 else 2}f} per hour for {plan.layout.ranks}"
    return "price", f"${each:.3f} per {plan.unit}-hour, {whole}; {plan.price.source}"


def _span(value_s: float) -> str:
    return f"{value_s:.0f} s" if value_s < 120 else f"{value_s / 60:.0f} min"
