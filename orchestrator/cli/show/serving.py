"""What serving a model takes, as a person reads it and for programs."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, TypedDict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.show.owning import SAID_WITHOUT
from orchestrator.cli.show.tables import GAP, Column, fitting, left_out, table_of
from orchestrator.config.schema import ModelConfig
from orchestrator.plan.perf.transformer import parameters
from orchestrator.plan.serving.request import Load, Replica, Software
from orchestrator.planner.serving import ServingAnswer, ServingOption
from orchestrator.text import bytes_in_words, count, plural, seconds_in_words, usd

MOST_ROWS = 10


class ServingOptionJson(TypedDict):
    """The load on one cluster."""

    cluster: str  # name of the cluster
    gpu: str  # name of the GPU
    nodes: int  # whole ones, which are paid for
    gpus: int  # of all these nodes
    replicas: int  # copies of the model that the nodes hold
    replica: Annotated[dict[str, Any], Replica]  # one of them at the busiest time
    most_requests_per_s: float  # that all replicas answer in time
    busy_share: float  # the day's mean over that, 0 to 1
    usd_per_day: float  # of the whole nodes, day and night
    usd_per_million_tokens: float  # of prompts and answers
    usd_per_million_tokens_out: float  # of answers alone, which bear all of it
    price_kind: str  # how it is paid: `list`, `reserved`, `spot` or `owned`
    price_quality: str  # what the price is worth: `list`, `quote`, `estimate` or `assumption`
    price_usd_per_gpu_hour: float  # of one accelerator; of an owned one that serves all day long
    price_source: str  # where the price comes from
    capital_usd: float | None  # that buys the nodes where they are owned; null where they are rented


class ServingAnswerJson(TypedDict):
    """What ``plan serve=… --json`` prints."""

    model: Annotated[dict[str, Any], ModelConfig]  # its shape, by the keys of the configuration
    load: Annotated[dict[str, Any], Load]  # requests, and how long each may take
    software: Annotated[dict[str, Any], Software]  # how it holds model and requests
    # on each cluster that is for rent, the cheapest first; of a cluster that was named, or where none is for
    # rent, of what there is
    options: list[ServingOptionJson]
    owned: list[ServingOptionJson]  # on each that has to be bought first, the cheapest first
    clusters_left_out: dict[str, str]  # why, by cluster


def serving_json(found: ServingAnswer) -> ServingAnswerJson:
    """The same for programs."""
    return {
        "model": dataclasses.asdict(found.model),
        "load": dataclasses.asdict(found.load),
        "software": dataclasses.asdict(found.software),
        "options": [_option_json(option) for option in found.options],
        "owned": [_option_json(option) for option in found.owned],
        "clusters_left_out": dict(found.left_out),
    }


def _option_json(option: ServingOption) -> ServingOptionJson:
    result, config = option.result, option.config
    return {
        "cluster": config.cluster.name,
        "gpu": config.gpu.name,
        "nodes": result.nodes,
        "gpus": result.gpus,
        "replicas": result.replicas,
        "replica": dataclasses.asdict(result.replica),
        "most_requests_per_s": result.most_requests_per_s,
        "busy_share": result.busy_share,
        "usd_per_day": result.usd_per_day,
        "usd_per_million_tokens": result.usd_per_million_tokens,
        "usd_per_million_tokens_out": result.usd_per_million_tokens_out,
        "price_kind": option.price_kind.value,
        "price_quality": config.cluster.price.quality.value,
        "price_usd_per_gpu_hour": option.usd_per_gpu_hour,
        "price_source": option.price_source,
        "capital_usd": option.capital_usd,
    }


_COLUMNS: tuple[Column[ServingOption], ...] = (
    Column("cluster", lambda o: o.config.cluster.name, 0, text=True),
    Column("GPUs", lambda o: f"{o.result.gpus:,}", 0),
    Column("replicas", lambda o: f"{o.result.replicas:,} × {o.result.replica.gpus}", 2),
    Column("batch", lambda o: f"{o.result.replica.batch:,.0f}", 4),
    Column("first token", lambda o: seconds_in_words(o.result.replica.ttft_s), 5),
    Column("per token", lambda o: seconds_in_words(o.result.replica.tpot_s), 3),
    Column("USD a day", lambda o: usd(o.result.usd_per_day), 0),
    Column("per M tokens", lambda o: usd(o.result.usd_per_million_tokens), 1),
    Column("per M out", lambda o: usd(o.result.usd_per_million_tokens_out), 6),
    Column("paid", lambda o: o.paid, 0, text=True),
)
_CAPITAL: Column[ServingOption] = Column("capital", lambda o: usd(o.capital_usd), 0)


def show_serving(found: ServingAnswer, console: Console) -> None:
    """The cheapest in a few lines, each cluster below, and what the figures rest on."""
    best = found.options[0]
    console.print(_title(found))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, GAP, 0, 0))
    table.add_column(style="dim", no_wrap=True, min_width=10)
    table.add_column(overflow="fold")
    for label, value in serving_rows(best, found.load, found.software):
        table.add_row(f"  {label}", Text(value))
    console.print(table)
    notes = []
    others = [option for option in found.options if option not in found.owned]
    if len(found.options) > 1:
        console.print(Text("\nOn each cluster", style="bold"))
        notes.append(_show_table(found.options[:MOST_ROWS], _COLUMNS, console))
    if len(others) > MOST_ROWS:
        notes.append(f"{len(others) - MOST_ROWS} more clusters are in --json.")
    if found.owned:
        console.print(Text("\nOwned: to be bought first", style="bold"))
        hidden = _show_table(found.owned, (*_COLUMNS[:-1], _CAPITAL), console)
        notes.append(f"Of owned ones {hidden[0].lower()}{hidden[1:]}" if hidden else "")
        notes.append(f"Owned machines serve day and night. {SAID_WITHOUT}")
    notes += _notes(found)
    for note in filter(None, notes):
        console.print(Text(note, style="dim"))


def serving_rows(option: ServingOption, load: Load, software: Software) -> list[tuple[str, str]]:
    """Label and text of one cluster's serving."""
    result, replica, config = option.result, option.result.replica, option.config
    parallel = f"expert parallel {replica.ep}" if replica.ep > 1 else f"tensor parallel {replica.tp}"
    stages = f", {replica.pp} pipeline stages" if replica.pp > 1 else ""
    capital = "" if option.capital_usd is None else f", on machines for {usd(option.capital_usd)}"
    return [
        (
            "cluster",
            f"{config.cluster.name}, {result.nodes:,} × {config.cluster.gpus_per_node} {config.gpu.name}",
        ),
        (
            "replicas",
            f"{plural(result.replicas, 'replica')} of {plural(replica.gpus, 'GPU')} ({parallel}{stages}),"
            f" {result.busy_share:.0%} busy over the day",
        ),
        (
            "memory",
            f"of a GPU: weights {bytes_in_words(replica.weights_bytes)}, cache"
            f" {bytes_in_words(replica.kv_bytes)}, free {bytes_in_words(replica.free_bytes)} of the"
            f" {software.memory_share:.0%} that they may have of {bytes_in_words(config.gpu.memory_bytes)}",
        ),
        (
            "batch",
            f"{replica.batch:,.1f} requests at once in each at the busiest time; more are kept from it by"
            f" {replica.limited_by}",
        ),
        (
            "latency",
            f"first token after {seconds_in_words(replica.ttft_s)}{_target(load.ttft_s)}, then"
            f" {seconds_in_words(replica.tpot_s)} a token{_target(load.tpot_s)}; means at the busiest time",
        ),
        ("bound by", replica.bound_by),
        (
            "cost",
            f"{usd(result.usd_per_day)} a day {option.paid}, {usd(result.usd_per_million_tokens)} per million"
            f" tokens ({usd(result.usd_per_million_tokens_out)} of answers alone); "
            f"${option.usd_per_gpu_hour:,.3f} per GPU-hour{capital}; {option.price_source}",
        ),
    ]


def _show_table(
    options: tuple[ServingOption, ...], columns: tuple[Column[ServingOption], ...], console: Console
) -> str:
    shown = fitting(columns, options, console.width)
    console.print(table_of(shown, options))
    return left_out(columns, shown)


def _title(found: ServingAnswer) -> Text:
    load, software, size = found.load, found.software, parameters(found.model)
    return Text.assemble(
        ("Serving  ", "bold"),
        (found.model.name, "bold cyan"),
        f": {count(size.total)} parameters in {software.precision}, cache in {software.kv_precision}; "
        f"{count(load.requests_per_day)} requests a day of {count(load.tokens_in)} tokens in and "
        f"{count(load.tokens_out)} out; {load.peak_to_mean:g} times the mean at the busiest time",
    )


def _target(seconds: float | None) -> str:
    return "" if seconds is None else f" (target {seconds_in_words(seconds)})"


def _notes(found: ServingAnswer) -> list[str]:
    notes = [
        f"Roofline of compute, memory and all-reduces, of whose speed software reaches"
        f" {found.software.share:.0%} (serve.software_share: median of published tables, which lie between"
        " 40% and 95%; docs/serving.md). Whole nodes are paid for day and night."
    ]
    longest = found.load.tokens_in + found.load.tokens_out
    if longest > found.model.seq_len:
        notes.append(
            f"A request of {longest:,.0f} tokens is longer than model.seq_len={found.model.seq_len:,}, for"
            f" which {found.model.name} is described."
        )
    by_reason: dict[str, list[str]] = {}
    for name, why in found.left_out.items():
        by_reason.setdefault(why, []).append(name)
    return notes + [f"Left out, as {why}: {', '.join(names)}" for why, names in by_reason.items()]
