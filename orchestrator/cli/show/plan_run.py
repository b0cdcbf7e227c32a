"""The predicted run as a person reads it: where memory and time go, how long, how many dollars."""

from __future__ import annotations

import dataclasses

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.plan.forecast.prediction import Cost
from orchestrator.plan.plan import Plan
from orchestrator.text import (
    bytes_in_words,
    count,
    energy_in_words,
    hours_in_words,
    power_in_words,
    seconds_in_words,
    usd,
)

_UNKNOWN = "not predicted"
_PAID = {"list": "on demand", "reserved": "reserved", "spot": "spot", "owned": "owned"}
_BAR = 12


def parts_of(plan: Plan) -> RenderableType:
    """Memory and time by part, side by side, largest first."""
    grid = Table.grid(padding=(0, 4, 0, 2))
    tables = []
    if plan.memory is not None:
        total = plan.memory.total_bytes
        kept = {k: v for k, v in dataclasses.asdict(plan.memory).items() if k != "host_bytes" and v}
        tables.append(_parts(f"Memory per {plan.unit}", kept, total, bytes_in_words))
    step = plan.prediction.step
    if step is not None:
        shown = {name: s for name, s in step.parts().items() if s > step.total_s / 1000}
        tables.append(_parts("Time of a step", shown, step.total_s, seconds_in_words))
    grid.add_row(*tables)
    return grid


def _parts(title: str, parts: dict[str, float], total: float, words: object) -> Table:
    assert callable(words)
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        show_header=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(style="cyan", no_wrap=True)
    for name, value in sorted(parts.items(), key=lambda item: -item[1]):
        share = value / total if total else 0.0
        bar = "━" * round(share * _BAR)
        table.add_row(_NAMES.get(name, name), words(value), "<1%" if share < 0.005 else f"{share:.0%}", bar)
    table.add_row(Text("total", style="bold"), words(total), "", "")
    return table


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
}


def money_rows(plan: Plan, brief: bool) -> list[tuple[str, str]]:
    """Speed, length, interruptions, energy, cost."""
    predicted, unit = plan.prediction, plan.unit
    length = [f"{predicted.steps:,} steps"] if predicted.steps else ["as long as the script runs"]
    if predicted.tokens:
        length.append(f"{count(predicted.tokens)} tokens")
    rows = [("length", ", ".join(length))]
    if predicted.step_time_s is None:
        rows.append(("time, cost", f"{_UNKNOWN}: {predicted.basis}"))
        return [*rows, _price(plan)]
    assert predicted.tokens_per_s is not None
    speed = f"{seconds_in_words(predicted.step_time_s)} a step, {predicted.tokens_per_s:,.0f} tokens/s"
    if predicted.mfu is not None and plan.device == "cuda":
        speed += (
            f", {predicted.tokens_per_s_per_gpu:,.0f} per {unit}; MFU {predicted.mfu:.1%}, HFU"
            f" {predicted.hfu:.1%}"
        )
    rows.append(("speed", speed))
    rows.append(("bound by", str(predicted.bound_by)))
    rows += _run_rows(plan, brief)
    basis = predicted.basis
    if predicted.step_time_error is not None:
        basis += f"; {predicted.step_time_error:.0%} mean error on published runs left out"
    return [*rows, ("basis", basis)]


def _run_rows(plan: Plan, brief: bool) -> list[tuple[str, str]]:
    predicted, unit = plan.prediction, plan.unit
    run, energy = predicted.forecast, predicted.energy
    if run is None or predicted.gpu_hours is None:
        return [_price(plan)]
    rows = [
        (
            "run",
            (
                f"{hours_in_words(run.wall_hours)}, "
                f"{predicted.gpu_hours:,.{0 if predicted.gpu_hours > 100 else 2}f} {unit}-hours"
            ),
        )
    ]
    if not brief and run.interruptions >= 0.005:
        rows.append(("faults", f"{run.interruptions:,.3g} interruptions expected ({run.interruptions_low} to "
                     f"{run.interruptions_high}), a checkpoint every {_span(run.checkpoint_every_s)}: "
                     f"goodput {run.goodput:.1%}"))  # fmt: skip
    if not brief and energy is not None and energy.energy_kwh is not None:
        limit = f" of {energy.site_limit_w / 1e6:,.3g} MW" if energy.site_limit_w else ""
        peak, mean = power_in_words(energy.peak_power_w), power_in_words(energy.mean_power_w)
        rows.append(("energy", f"{energy_in_words(energy.energy_kwh)}; peak {peak}{limit}, {mean} at work"))
    for place, cost in enumerate(predicted.costs):
        if place and brief:
            break
        rows.append(("cost" if not place else "", _cost(cost, unit)))
    return rows


def _cost(cost: Cost, unit: str) -> str:
    each = f"${cost.usd_per_gpu_hour:,.3f} per {unit}-hour"
    return (
        f"{usd(cost.usd)} {_PAID[cost.kind]} ({usd(cost.low_usd)} to {usd(cost.high_usd)}), {each};"
        f" {cost.source}"
    )


def _price(plan: Plan) -> tuple[str, str]:
    each, all_ranks = plan.price.usd_per_gpu_hour, plan.price.usd_per_gpu_hour * plan.layout.ranks
    whole = f"${all_ranks:,.{3 if all_ranks < 10 else 2}f} per hour for {plan.layout.ranks}"
    return "price", f"${each:.3f} per {plan.unit}-hour, {whole}; {plan.price.source}"


def _span(value_s: float) -> str:
    return f"{value_s:.0f} s" if value_s < 120 else f"{value_s / 60:.0f} min"
