"""The plan as a person reads it: what, on what, how much, for how many dollars."""

from __future__ import annotations

import dataclasses
import io

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.plan.plan import Plan
from orchestrator.redact import HIDDEN, is_secret, redact

_UNKNOWN = "not predicted"


def show_plan(plan: Plan, console: Console, brief: bool = False) -> None:
    """Print the plan; ``brief`` leaves out what only an engineer asks for, command and environment."""
    console.print(_title(plan))
    console.print(_facts(plan, brief))
    if not brief:
        console.print(_environment(plan))


def plan_json(plan: Plan) -> dict[str, object]:
    """The plan for programs, secrets hidden."""
    body = plan.to_json()
    for name, setting in body["environment"].items():
        if is_secret(name):
            setting["value"] = HIDDEN
    hidden: dict[str, object] = redact({k: v for k, v in body.items() if k != "environment"})
    return {**hidden, "environment": body["environment"]}


def plan_text(plan: Plan) -> str:
    """The whole plan as plain text, 110 columns wide."""
    console = Console(width=110, force_terminal=False, color_system=None, record=True, file=io.StringIO())
    show_plan(plan, console)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"


def _title(plan: Plan) -> Text:
    return Text.assemble(
        ("Plan  ", "bold"), (plan.job, "bold cyan"), " on ", (plan.cluster, "bold cyan"), style="default"
    )


def _facts(plan: Plan, brief: bool) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _rows(plan) + ([] if brief else [("command", plan.command())]):
        table.add_row(f"  {label}", Text(value))
    return Group(table, Text(""))


def _rows(plan: Plan) -> list[tuple[str, str]]:
    layout, unit = plan.layout, plan.unit
    rows = []
    if plan.model is not None:
        flops = plan.model.training_flops_per_token
        size_of = f"{count(plan.model.parameters)} parameters"
        if plan.model.active_parameters < plan.model.parameters:
            size_of += f" ({count(plan.model.active_parameters)} active per token)"
        rows.append(("model", f"{plan.model.name}, {size_of}, {si(flops)}FLOP per token"))
    else:
        rows.append(("model", "not described, so memory and time are not predicted"))
    rows += [
        ("cluster", f"{layout.nodes} × {plan.node_type}, {layout.ranks_per_node} × {plan.gpu_type} each, "
         f"fabric {plan.fabric}"),
        ("layout", f"{layout.ranks} ranks: {degrees(plan)}, {zero(plan)}, {layout.precision}"
         + (", recompute" if layout.recompute else "")),
        ("batch", f"{layout.global_batch} sequences a step = {layout.micro_batch} micro-batch × "
         f"{layout.accumulation} accumulation × {layout.dp} data parallel"
         + (f" ({plan.model.tokens_per_step:,} tokens)" if plan.model else "")),
    ]  # fmt: skip
    if plan.memory is not None:
        share = plan.memory.total_bytes / plan.gpu_memory_bytes
        rows.append(("memory", f"{size(plan.memory.total_bytes)} of {size(plan.gpu_memory_bytes)} per {unit} "
                     f"({share:.0%}) predicted: {memory_parts(plan)}"))  # fmt: skip
    return rows + _money_rows(plan)


def _money_rows(plan: Plan) -> list[tuple[str, str]]:
    predicted, unit = plan.prediction, plan.unit
    each, all_ranks = plan.price.usd_per_gpu_hour, plan.price.usd_per_gpu_hour * plan.layout.ranks
    price = (
        f"${each:.3f} per {unit}-hour, ${all_ranks:,.{3 if all_ranks < 10 else 2}f} per hour for {plan.layout.ranks}"
    )
    rows = [("price", f"{price}; {plan.price.source}")]
    length = [f"{predicted.steps:,} steps"] if predicted.steps else ["as long as the script runs"]
    if predicted.tokens:
        length.append(f"{count(predicted.tokens)} tokens")
    rows.append(("length", ", ".join(length)))
    if predicted.step_time_s is None:
        rows.append(("time, cost", f"{_UNKNOWN}: {predicted.basis} for a {plan.gpu_type}"))
        return rows
    rows.append(("step", f"{predicted.step_time_s:.3g} s, {predicted.tokens_per_s:,.0f} tokens/s"))
    if predicted.hours is not None:
        rows.append(("run", f"{hours(predicted.hours)}, {predicted.gpu_hours:,.1f} {unit}-hours, "
                     f"${predicted.cost_usd:,.0f}"))  # fmt: skip
    rows.append(("basis", predicted.basis))
    return rows


def _environment(plan: Plan) -> RenderableType:
    table = Table(title="Environment of every rank", title_justify="left", title_style="bold", box=None,
                  pad_edge=False, padding=(0, 2, 0, 2), header_style="dim")  # fmt: skip
    table.add_column("variable", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", overflow="fold", style="dim")
    for name, setting in plan.environment.items():
        table.add_row(name, Text(HIDDEN if is_secret(name) else str(redact(setting.value))), Text(setting.source))
    return table


def memory_parts(plan: Plan) -> str:
    """The parts of the memory prediction, largest first, those of no weight left out."""
    assert plan.memory is not None
    parts = {k.removesuffix("_bytes"): v for k, v in dataclasses.asdict(plan.memory).items() if k != "total_bytes"}
    shown = sorted(((v, k) for k, v in parts.items() if v), reverse=True)
    return ", ".join(f"{name} {size(value)}" for value, name in shown)


def degrees(plan: Plan) -> str:
    """``dp 8 × tp 2``: the degrees above 1."""
    named = {"dp": plan.layout.dp, "tp": plan.layout.tp, "pp": plan.layout.pp, "sp": plan.layout.sp}
    named["ep"] = plan.layout.ep
    return " × ".join(f"{k} {v}" for k, v in named.items() if v > 1 or k == "dp")


def zero(plan: Plan) -> str:
    """ZeRO stage in words."""
    return f"ZeRO-{plan.layout.zero_stage}" + (" with offload" if plan.layout.offload else "")


def size(size_bytes: float) -> str:
    """Decimal bytes: ``81.2 GB``."""
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:,.1f} MB"


def count(value: float) -> str:
    """``1.87M``, ``70.6B``, ``15.0T``."""
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:g}"


def si(value: float) -> str:
    """A figure with its SI prefix and a space: ``11.2 M``."""
    for limit, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= limit:
            return f"{value / limit:.3g} {letter}"
    return f"{value:g} "


def hours(value: float) -> str:
    """Hours, or days where there are many."""
    return f"{value:.2f} hours" if value < 48 else f"{value / 24:.1f} days"
