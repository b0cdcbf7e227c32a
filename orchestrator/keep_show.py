"""A look at a cluster: nodes, zygotes and runs with their cost so far, as data and as tables."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from orchestrator.cluster.kept import KeptCluster
from orchestrator.errors import JournalError
from orchestrator.events import Record, RunEnded, RunStarted
from orchestrator.ledger.journal import replay
from orchestrator.ledger.meter import Meter
from orchestrator.ledger.wording import UNKNOWN, duration, plural, usd
from orchestrator.tracking import command

if TYPE_CHECKING:
    from orchestrator.cluster.session import Session

_MOST_ENDED = 10


def seen_by(session: Session, cluster: KeptCluster | None, run_root: str) -> dict[str, Any]:
    """The cluster as JSON values; ``ray`` is initialised. Runs that ended are those with a journal in ``run_root``."""
    from orchestrator.cluster import overview

    kept_here = cluster if cluster is not None and cluster.address == session.address else None
    seen, now_s = overview.look(), time.time()
    runs = [_live(dataclasses.asdict(run), now_s) for run in seen.runs]
    since_s = kept_here.since_unix_s if kept_here else 0.0
    ended = ended_runs(Path(run_root), session.address, since_s, {run["name"] for run in runs})
    return {
        "address": session.address,
        "dashboard_url": session.dashboard_url,
        "kept": kept_here is not None,
        "started_by_up": kept_here is not None and kept_here.ours,
        "since_unix_s": since_s or None,
        "idle_timeout_s": kept_here.idle_timeout_s if kept_here else None,
        "nodes": [dataclasses.asdict(node) for node in seen.nodes],
        "runs": runs,
        "ended_runs": ended,
        "cost_usd": sum(run["cost_usd"] for run in [*runs, *ended]),
    }


def ended_runs(run_root: Path, address: str, since_s: float, live: set[str]) -> list[dict[str, Any]]:
    """What the journals below ``run_root`` say of runs on a cluster since a moment, oldest first."""
    ended = []
    for path in run_root.glob("*/journal.jsonl"):
        if path.parent.name in live or path.stat().st_mtime < since_s:
            continue
        try:
            records = list(replay(path))
        except JournalError:
            continue
        first = records[0].event if records else None
        here = isinstance(first, RunStarted) and first.ray_address == address
        if isinstance(first, RunStarted) and here and records[0].time_unix_s >= since_s:
            ended.append(_ended(first, records))
    return sorted(ended, key=lambda run: float(run["since_unix_s"]))


def _ended(first: RunStarted, records: list[Record]) -> dict[str, Any]:
    """A run by its journal; one whose last record is not its end lost its driver."""
    meter, last = Meter(), records[-1].event
    for record in records:
        meter.fold(record)
    bill = meter.bill()
    return {
        "name": first.run,
        "ranks": first.gpus,
        "unit": first.unit,
        "since_unix_s": records[0].time_unix_s,
        "held_s": sum(bill.gpu_seconds.values()) / first.gpus,
        "status": str(last.status) if isinstance(last, RunEnded) else "lost",
        "step": bill.step,
        "cost_usd": bill.cost_usd,
    }


def show_status(seen: dict[str, Any], console: Console) -> None:
    """Print a look at a cluster."""
    since = f", up for {duration(time.time() - seen['since_unix_s'])}" if seen["since_unix_s"] else ""
    by = "started by 'up'" if seen["started_by_up"] else "joined by 'up'" if seen["kept"] else "not kept by 'up'"
    console.print(f"[bold]Cluster[/]  [bold cyan]{seen['address']}[/]  {by}{since}", highlight=False)
    if seen["dashboard_url"]:
        show_dashboard(seen["dashboard_url"], console)
    console.print(_nodes(seen))
    runs = [*seen["ended_runs"][-_MOST_ENDED:], *seen["runs"]]
    if runs:
        console.print(_runs(runs, seen))
    else:
        console.print("no runs on it yet" if seen["kept"] else "no runs on it")


def _live(run: dict[str, Any], now_s: float) -> dict[str, Any]:
    """Nodes are paid for from the moment they are held."""
    held_s = max(0.0, now_s - run["since_unix_s"])
    cost_usd = held_s / 3600 * run["ranks"] * run.pop("usd_per_gpu_hour")
    return {**run, "status": "running", "held_s": held_s, "cost_usd": cost_usd}


def _nodes(seen: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("node", "address", "GPUs held", "CPUs held", "zygotes"):
        table.add_column(heading)
    for node in seen["nodes"]:
        gpus = f"{node['held_gpus']:g} of {node['gpus']:g}" if node["gpus"] else UNKNOWN
        cpus = f"{node['held_cpus']:g} of {node['cpus']:g}"
        table.add_row(node["host"], node["address"], gpus, cpus, _zygotes(node["zygotes"], seen["idle_timeout_s"]))
    return table


def _zygotes(zygotes: list[dict[str, Any]] | None, idle_timeout_s: float | None) -> str:
    told = []
    for zygote in zygotes or []:
        text = f"{zygote['state']}, {zygote['rss_bytes'] / 1e6:.0f} MB"
        if zygote["ranks"]:
            text += f", {plural(zygote['ranks'], 'rank')}"
        elif zygote["state"] == "ready" and idle_timeout_s is not None:
            text += f", ends in {duration(max(0.0, idle_timeout_s - zygote['idle_s']))} unused"
        told.append(text)
    return "\n".join(told) or "none: the next run warms one"


def _runs(runs: list[dict[str, Any]], seen: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_footer=True)
    table.add_column("run", "all", overflow="fold")
    for heading in ("state", "ranks", "step", "held"):
        table.add_column(heading, justify="right" if heading != "state" else "left")
    table.add_column("cost", usd(seen["cost_usd"]), justify="right")
    for run in runs:
        held, step = duration(run["held_s"]), f"{run['step']:,}" if run["step"] else UNKNOWN
        table.add_row(run["name"], run["status"], str(run["ranks"]), step, held, usd(run["cost_usd"]))
    return table


def show_dashboard(url: str, console: Console, token_path: Path | None = None) -> None:
    """Where it is, and how to be let in: with the user's token, or the cluster's own."""
    asks = f"it asks for the token that '{command('ray')} get-auth-token' prints"
    if token_path is not None:
        asks = f"it asks for the token in {token_path}"
    console.print(f"Ray dashboard  {url}  ({asks})", highlight=False, soft_wrap=True)
