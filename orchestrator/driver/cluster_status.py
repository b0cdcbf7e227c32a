"""A look at a cluster as data: nodes, zygotes and runs with their cost so far."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypedDict

from orchestrator import papers
from orchestrator.cluster.warm.record import WarmCluster
from orchestrator.driver.folded import Folded
from orchestrator.driver.journal_fold import JournalFold
from orchestrator.errors import JournalError
from orchestrator.events import Record, RunEnded, RunStarted, Status
from orchestrator.ledger.bill import Bill
from orchestrator.ledger.charge import cost_usd
from orchestrator.ledger.run_directory import LOST, holder
from orchestrator.records import record_from_json
from orchestrator.trust import whose

if TYPE_CHECKING:
    from orchestrator.cluster.overview import LiveRun, Node
    from orchestrator.cluster.session import Session

ENDED = frozenset([LOST, *Status])
_FIRST_LINE_BYTES = 1 << 20


class RunSeen(TypedDict):
    """A run of the cluster. What holds nodes is told by its agent, all else by its journal in
    ``run_root``."""

    name: str  # of the run
    nodes: NotRequired[int]  # that it holds; left out where it holds none
    ranks: int  # of the whole run, which are its GPUs
    unit: str  # what an hour is counted of: `GPU` or `CPU core`
    since_unix_s: float  # when it began, or took its nodes
    held_s: float  # for how long, which is paid
    # `running` while it holds nodes; `lost` where its driver is gone; how it ended; else what it spends its
    # time on
    status: str
    step: int  # the last one that is done
    cost_usd: float  # so far
    run_dir: str  # its directory


class ClusterSeen(TypedDict):
    """A look at a cluster: what ``status --json`` prints."""

    address: str  # of its Ray
    dashboard_url: str | None  # of Ray's dashboard; null where it has none
    kept: bool  # whether `up` keeps it, from this machine
    started_by_up: bool  # whether `up` started it, so that `down` ends it
    since_unix_s: float | None  # when `up` took it; null where it is not kept
    idle_timeout_s: float | None  # after which a zygote ends that nobody uses; null where it is not kept
    nodes: list[Annotated[dict[str, Any], Node]]  # by host and address
    runs: list[RunSeen]  # that go on
    ended_runs: list[RunSeen]  # since it is kept, oldest first
    cost_usd: float  # of all these runs


def seen_by(session: Session, cluster: WarmCluster | None, run_root: str) -> ClusterSeen:
    """The cluster as JSON values; ``ray`` is initialised. Runs that ended, or hold nothing at this moment,
    are those with a journal in ``run_root``."""
    from orchestrator.cluster import overview

    kept_here = cluster if cluster is not None and cluster.address == session.address else None
    seen, now_s = overview.inspect_cluster(), time.time()
    runs = [live(run, now_s) for run in seen.runs]
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


def other_runs(run_root: Path, address: str, since_s: float, live: set[str]) -> list[RunSeen]:
    """What the journals below ``run_root`` say of runs on a cluster since a moment but for the ``live`` ones,
    oldest first. Of a finished one nothing is read but its first line and its fold, however long it was."""
    found = []
    for path in run_root.glob("*/journal.jsonl"):
        # Another user could have written anything there, or have put a pipe there that is never read to its
        # end.
        if path.parent.name in live or whose(path.parent) or whose(path) or not path.is_file():
            continue
        try:
            first = _first(path) if path.stat().st_mtime >= since_s else None
            here = first is not None and first.time_unix_s >= since_s
            if first is None or not here or getattr(first.event, "ray_address", None) != address:
                continue
            fold = JournalFold(path.parent, stamp_is_enough=True)
            run_seen = _run_seen(path.parent, fold.catch_up())
            fold.keep_if_worth_it()
        except (JournalError, OSError):
            continue
        found.append(run_seen)
    return sorted(found, key=lambda run: run["since_unix_s"])


def _first(path: Path) -> Record | None:
    """The first record of a journal, None where it is no beginning of a run."""
    try:
        with papers.open_plain(path) as file:
            line = file.readline(_FIRST_LINE_BYTES)
        first = record_from_json(line.decode()) if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None
    return first if first is not None and isinstance(first.event, RunStarted) else None


def _run_seen(run_dir: Path, folded: Folded) -> RunSeen:
    """A run by its journal. One whose last record is not its end waits or starts while a driver holds its
    directory, and has lost its driver where none does."""
    run, started, last = folded.run, folded.started, folded.last
    assert run is not None
    assert started is not None
    assert last is not None
    bill = folded.ledger.bill()
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


def live(run: LiveRun, now_s: float) -> RunSeen:
    """Nodes are paid for from the moment they are held. What its journal says counts where that is to be
    had: it knows of earlier drivers, and of prices that have changed since; else the price of its plan
    does."""
    held_s = max(0.0, now_s - run.since_unix_s)
    seen: RunSeen = {
        "name": run.name,
        "nodes": run.nodes,
        "ranks": run.ranks,
        "unit": run.unit,
        "since_unix_s": run.since_unix_s,
        "step": run.step,
        "run_dir": run.run_dir,
        "status": "running",
        "held_s": held_s,
        "cost_usd": cost_usd(held_s * run.ranks, run.usd_per_gpu_hour),
    }
    if (bill := _bill_of(Path(run.run_dir), now_s)) is not None:
        seen["cost_usd"] = bill.cost_usd
        seen["held_s"] = sum(bill.gpu_seconds.values()) / max(1, run.ranks)
    return seen


def _bill_of(run_dir: Path, now_s: float) -> Bill | None:
    """Up to this moment; None where the journal is not here, or somebody else's."""
    path = run_dir / "journal.jsonl"
    try:
        if whose(run_dir) or whose(path) or not path.is_file():
            return None
        folded = JournalFold(run_dir).catch_up()
    except (JournalError, OSError):
        return None
    if folded.run is None or folded.last is None:
        return None
    since_s = max(0.0, now_s - folded.last.time_unix_s)
    return folded.ledger.bill(folded.last.elapsed_s + since_s)
