"""A look at a cluster: nodes, zygotes and runs with their cost so far, as data and as tables."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator import papers
from orchestrator.cluster.kept import KeptCluster
from orchestrator.errors import JournalError
from orchestrator.events import Record, RunEnded, RunStarted, Status
from orchestrator.folded import Folded
from orchestrator.journal_fold import JournalFold
from orchestrator.ledger.wording import UNKNOWN, duration, plural, usd
from orchestrator.rundir import holder
from orchestrator.tracking import command

if TYPE_CHECKING:
    from orchestrator.cluster.session import Session

LOST = "lost"
ENDED = frozenset([LOST, *Status])
_MOST_ENDED = 10
_FIRST_LINE_BYTES = 1 << 20


def seen_by(session: Session, cluster: KeptCluster | None, run_root: str) -> dict[str, Any]:
    """The cluster as JSON values; ``ray`` is initialised. Runs that ended, or hold nothing at this moment, are those
    with a journal in ``run_root``."""
    from orchestrator.cluster import overview

    kept_here = cluster if cluster is not None and cluster.address == session.address else None
    seen, now_s = overview.look(), time.time()
    runs = [_live(dataclasses.asdict(run), now_s) for run in seen.runs]
    since_s = kept_here.since_unix_s if kept_here else 0.0
    others = other_runs(Path(run_root), session.address, since_s, {run["name"] for run in runs})
    runs += [run for run in others if run["status"] not in ENDED]
    ended = [run for run in others if run["status"] in ENDED]
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


def other_runs(run_root: Path, address: str, since_s: float, live: set[str]) -> list[dict[str, Any]]:
    """What the journals below ``run_root`` say of runs on a cluster since a moment but for the ``live`` ones, oldest
    first. Of a finished one nothing is read but its first line and its fold, however long it was."""
    found = []
    for path in run_root.glob("*/journal.jsonl"):
        if path.parent.name in live:
            continue
        try:
            first = _first(path) if path.stat().st_mtime >= since_s else None
            here = first is not None and first.time_unix_s >= since_s
            if first is None or not here or getattr(first.event, "ray_address", None) != address:
                continue
            fold = JournalFold(path.parent, stamp_is_enough=True)
            told = _told(path.parent, fold.catch_up())
            fold.keep_if_worth_it()
        except (JournalError, OSError):
            continue
        found.append(told)
    return sorted(found, key=lambda run: float(run["since_unix_s"]))


def _first(path: Path) -> Record | None:
    """The first record of a journal, None where it is no beginning of a run."""
    try:
        with papers.open_plain(path) as file:
            line = file.readline(_FIRST_LINE_BYTES)
        first = Record.from_json(line.decode()) if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None
    return first if first is not None and isinstance(first.event, RunStarted) else None


def _told(run_dir: Path, folded: Folded) -> dict[str, Any]:
    """A run by its journal. One whose last record is not its end waits or starts while a driver holds its directory,
    and has lost its driver where none does."""
    run, started, last = folded.run, folded.started, folded.last
    assert run is not None
    assert started is not None
    assert last is not None
    bill = folded.meter.bill()
    if isinstance(last.event, RunEnded):
        status = last.event.status.value
    else:
        status = bill.bucket.value if holder(run_dir) is not None else LOST
    return {
        "name": run.run,
        "ranks": run.gpus,
        "unit": run.unit,
        "since_unix_s": started.time_unix_s,
        "held_s": sum(bill.gpu_seconds.values()) / max(1, run.gpus),
        "status": status,
        "step": bill.step,
        "cost_usd": bill.cost_usd,
        "run_dir": str(run_dir.resolve()),
    }


def show_status(seen: dict[str, Any], console: Console) -> None:
    """Print a look at a cluster."""
    since = f", up for {duration(time.time() - seen['since_unix_s'])}" if seen["since_unix_s"] else ""
    by = "started by 'up'" if seen["started_by_up"] else "joined by 'up'" if seen["kept"] else "not kept by 'up'"
    console.print(Text.assemble(("Cluster", "bold"), "  ", (str(seen["address"]), "bold cyan"), f"  {by}{since}"))
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
