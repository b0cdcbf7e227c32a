"""A look at a cluster as a person reads it: nodes, zygotes, runs and what they cost so far."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cluster import tls
from orchestrator.cluster.warm import record
from orchestrator.cluster.warm.record import WarmCluster
from orchestrator.driver.tracking import command
from orchestrator.text import UNKNOWN, bytes_in_words, duration, plural, usd

if TYPE_CHECKING:
    from orchestrator.agent.zygote_pool import ZygoteReport
    from orchestrator.driver.cluster_status import ClusterSeen, RunSeen

_MOST_ENDED = 10


def show_status(seen: ClusterSeen, console: Console) -> None:
    """Print a look at a cluster."""
    since = f", up for {duration(time.time() - seen['since_unix_s'])}" if seen["since_unix_s"] else ""
    by = (
        "started by 'up'"
        if seen["started_by_up"]
        else "joined by 'up'"
        if seen["kept"]
        else "not kept by 'up'"
    )
    console.print(
        Text.assemble(("Cluster", "bold"), "  ", (str(seen["address"]), "bold cyan"), f"  {by}{since}")
    )
    if seen["dashboard_url"]:
        show_dashboard(seen["dashboard_url"], console)
    console.print(_nodes(seen))
    for line in _parked(seen):
        console.print(line, highlight=False)
    runs = [*seen["ended_runs"][-_MOST_ENDED:], *seen["runs"]]
    if runs:
        console.print(_runs(runs, seen))
    else:
        console.print("no runs on it yet" if seen["kept"] else "no runs on it")


def _nodes(seen: ClusterSeen) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("node", "address", "GPUs held", "CPUs held", "zygotes"):
        table.add_column(heading)
    for node in seen["nodes"]:
        gpus = f"{node['held_gpus']:g} of {node['gpus']:g}" if node["gpus"] else UNKNOWN
        cpus = f"{node['held_cpus']:g} of {node['cpus']:g}"
        table.add_row(
            node["host"], node["address"], gpus, cpus, _zygotes(node["zygotes"], seen["idle_timeout_s"])
        )
    return table


def _zygotes(zygotes: list[ZygoteReport] | None, idle_timeout_s: float | None) -> str:
    lines = []
    for zygote in zygotes or []:
        text = f"{zygote['state']}, {zygote['rss_bytes'] / 1e6:.0f} MB"
        if zygote["ranks"]:
            text += f", {plural(zygote['ranks'], 'rank')}"
        elif zygote["state"] == "ready" and idle_timeout_s is not None:
            text += f", ends in {duration(max(0.0, idle_timeout_s - zygote['idle_s']))} unused"
        lines.append(text)
    return "\n".join(lines) or "none: the next run warms one"


def _parked(seen: ClusterSeen) -> list[str]:
    """What runs that have ended could go on from; what those on their nodes have in memory is theirs."""
    return [
        f"on {node['host']} {one['run']} has left {bytes_in_words(one['bytes'])} in memory,"
        f" to go on from within {duration(one['left_s'])}"
        for node in seen["nodes"]
        for one in node["parked"]
        if one["left_s"] is not None
    ]


def _runs(runs: list[RunSeen], seen: ClusterSeen) -> Table:
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


def show_how_to_join(cluster: WarmCluster, console: Console) -> None:
    """What can be done with a cluster that ``up`` started."""
    text = "Runs attach by themselves; 'orchestrator down' stops it. "
    if cluster.address.startswith("127."):
        text += "Other machines cannot join a loopback address: for that, 'up launch.node_address=ADDRESS'."
    else:
        text += (
            f"Another machine joins with a copy of this user's\n{_token_named()} as its ~/.ray/auth_token and"
            f" 'RAY_AUTH_MODE=token ray start --address={cluster.address}'; then 'orchestrator up' again"
            " warms it."
        )
        text += (
            f" There, too, {tls.SWITCH} and a certificate of its own are to be set." if tls.is_on() else ""
        )
    console.print(text, highlight=False, soft_wrap=True)


def _token_named() -> str:
    path = record.token_path()
    home = record.home()
    return (
        f"~/{path.relative_to(home)}"
        if path and home and path.is_relative_to(home)
        else str(path or "RAY_AUTH_TOKEN")
    )
