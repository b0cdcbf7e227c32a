"""The plan as a person reads it: what, on what, how much, for how many dollars."""

from __future__ import annotations

import dataclasses
import io

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orchestrator.cli.show.plan_run import money_rows, parts_of
from orchestrator.cli.show.screen import Screen
from orchestrator.config.deepspeed_keys import deprecated_keys
from orchestrator.plan.plan import Plan
from orchestrator.redact import HIDDEN, is_secret, redact, redact_text
from orchestrator.text import bytes_in_words, count, with_prefix


def show_plan(plan: Plan, console: Console, brief: bool = False) -> None:
    """Print the plan; ``brief`` leaves out what only an engineer asks for, command and environment."""
    console.print(_title(plan))
    console.print(_table(_rows(plan, brief)))
    if not brief and (plan.memory is not None or plan.prediction.step is not None):
        console.print(Padding(parts_of(plan), (1, 0)))
    console.print(_table(money_rows(plan, brief)))
    if not brief:
        console.print(Padding(_table([("command", redact_text(plan.command()))]), (0, 0, 1, 0)))
        console.print(_environment(plan))
    console.print()


def plan_text(plan: Plan) -> str:
    """The whole plan as plain text, 110 columns wide."""
    console = Screen(width=110, force_terminal=False, color_system=None, record=True, file=io.StringIO())
    show_plan(plan, console)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"


def _title(plan: Plan) -> Text:
    return Text.assemble(
        ("Plan  ", "bold"), (plan.job, "bold cyan"), " on ", (plan.cluster, "bold cyan"), style="default"
    )


def _table(rows: list[tuple[str, str]]) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True, min_width=12)
    table.add_column(overflow="fold")
    for label, value in rows:
        table.add_row(f"  {label}", Text(value))
    return table


def _rows(plan: Plan, brief: bool) -> list[tuple[str, str]]:
    layout, unit = plan.layout, plan.unit
    rows = []
    if plan.model is not None:
        flops = plan.model.training_flops_per_token
        size_of = f"{count(plan.model.parameters)} parameters"
        if plan.model.active_parameters < plan.model.parameters:
            size_of += f" ({count(plan.model.active_parameters)} active per token)"
        rows.append(("model", f"{plan.model.name}, {size_of}, {with_prefix(flops)}FLOP per token"))
    else:
        rows.append(("model", "not described, so memory and time are not predicted"))
    rows += [
        ("cluster", f"{layout.nodes} × {plan.node_type}, {layout.ranks_per_node} × {plan.gpu_type} each, "
         f"fabric {plan.fabric}"),
        ("layout", f"{layout.ranks} ranks: {layout.degrees}, {zero(plan)}, {layout.precision}"
         + (", recompute" if layout.recompute else "")),
        ("batch", f"{layout.global_batch} sequences a step = {layout.micro_batch} micro-batch × "
         f"{layout.accumulation} accumulation × {layout.dp} data parallel"
         + (f" ({plan.model.tokens_per_step:,} tokens)" if plan.model else "")),
    ]  # fmt: skip
    if plan.memory is not None:
        share = plan.memory.total_bytes / plan.gpu_memory_bytes
        parts = f": {memory_parts(plan)}" if brief else ""
        used, there = bytes_in_words(plan.memory.total_bytes), bytes_in_words(plan.gpu_memory_bytes)
        rows.append(("memory", f"{used} of {there} per {unit} ({share:.0%}) predicted{parts}"))
    for key, name in deprecated_keys(plan.deepspeed).items():
        rows.append(
            ("deepspeed", f"{key} is an old name, which DeepSpeed takes for now; write {name} instead")
        )
    return rows


def _environment(plan: Plan) -> RenderableType:
    table = Table(title="Environment of every rank", title_justify="left", title_style="bold", box=None,
                  pad_edge=False, padding=(0, 2, 0, 2), header_style="dim")  # fmt: skip
    table.add_column("variable", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", overflow="fold", style="dim")
    for name, setting in plan.environment.items():
        table.add_row(
            name, Text(HIDDEN if is_secret(name) else str(redact(setting.value))), Text(setting.source)
        )
    return table


def memory_parts(plan: Plan) -> str:
    """The parts of the memory prediction, largest first, those of no weight left out."""
    assert plan.memory is not None
    parts = {
        k.removesuffix("_bytes"): v for k, v in dataclasses.asdict(plan.memory).items() if k != "total_bytes"
    }
    shown = sorted(((v, k) for k, v in parts.items() if v), reverse=True)
    return ", ".join(f"{name} {bytes_in_words(value)}" for value, name in shown)


def zero(plan: Plan) -> str:
    """ZeRO stage in words."""
    return f"ZeRO-{plan.layout.zero_stage}" + (" with offload" if plan.layout.offload else "")
