"""What a run is wired of before its first event, a part at a time: its books, what its ranks are handed, a
zygote ahead of time, Ray, the workers on it, and who is told.

Each part that has to be given back is handed to the run's ``ExitStack``, in the order in which it was taken.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.agent.assignment import Assignment, zygote_environment
from orchestrator.agent.launchers import FixedLease, early_zygote, zygote_preload
from orchestrator.agent.localize import leave_mark, remove_mark
from orchestrator.checkpoint.commits import Earlier
from orchestrator.config.schema import Config
from orchestrator.driver.assignment import assignment_of
from orchestrator.driver.budget import caps_of
from orchestrator.driver.journal_fold import JournalFold
from orchestrator.driver.kueue import KueueBoost
from orchestrator.driver.launch_check import working_dir
from orchestrator.driver.node_notes import RunNotes
from orchestrator.driver.notifying import Notifier
from orchestrator.driver.observer import Observer, RunObserver
from orchestrator.driver.preflight import Planned, Target
from orchestrator.driver.resume import Unfinished, resume_command
from orchestrator.driver.shared_budgets import SharedBudgets, shared_budgets
from orchestrator.driver.stopping import take
from orchestrator.driver.tracking import DASHBOARD, MlflowSink
from orchestrator.ledger.journal import Journal
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.monitoring.figures import Figures
from orchestrator.ledger.run_directory import RunDirectory, number_of_run
from orchestrator.ledger.spend import SpendNote
from orchestrator.plan.layout.units import nodes_of_unit
from orchestrator.plan.plan import Plan
from orchestrator.supervise.loop import ResumeState, StopRequest
from orchestrator.topology.levels import levels_of

if TYPE_CHECKING:  # Ray takes a second to import, which a zygote needs not wait for
    from orchestrator.cluster.domains import PlacementRules
    from orchestrator.cluster.gauges import Gauges
    from orchestrator.cluster.group import RayWorkerGroup
    from orchestrator.cluster.session import Session

# The one node of a cluster that we started does not come back.
_OWN_NODE_S = 5.0


@dataclass(frozen=True)
class Wired:
    """A run whose directory is held and that may start."""

    config: Config
    planned: Planned
    name: str
    directory: RunDirectory
    target: Target
    stop: StopRequest
    sink: MlflowSink
    view: RunObserver
    takes_up: Unfinished | None
    typed_in: Path  # the folder in which its command was given

    @property
    def plan(self) -> Plan:
        return self.planned.plan

    @property
    def began_unix_s(self) -> float | None:
        """When the first driver began it; None where that is this one."""
        return began_unix_s(self.takes_up) if self.takes_up else None


@dataclass(frozen=True)
class Books:
    """What a run is written into, with what an earlier driver has left in it."""

    fold: JournalFold
    journal: Journal
    ledger: Ledger
    resume_state: ResumeState
    shared: SharedBudgets | None


def began_unix_s(takes_up: Unfinished) -> float:
    """When the run's first driver began it."""
    first = takes_up.fold.folded.started
    return first.time_unix_s if first else time.time()


def open_books(run: Wired, stack: ExitStack) -> Books:
    """The view is told what an earlier driver of the run has written."""
    if run.takes_up is None:
        fold, ledger, resume_state = JournalFold(run.directory.path), Ledger(), ResumeState()
    else:
        fold, folded = run.takes_up.fold, run.takes_up.folded()
        ledger, resume_state = folded.ledger, folded.resume_state
        run.view.remember(folded)
    shared = shared_budgets(run.config, run.name, run.plan, ledger, run.view.notice)
    if shared is not None:
        stack.callback(shared.give_back)
    journal = stack.enter_context(Journal(run.directory.path / "journal.jsonl", after=fold.mark))
    return Books(fold, journal, ledger, resume_state, shared)


def assigned(run: Wired, stack: ExitStack) -> Assignment:
    """What agents and ranks are handed, with a mark in the run directory by which nodes see that they share
    it."""
    mark = leave_mark(run.directory.path)
    stack.callback(remove_mark, run.directory.path, mark)
    warm = run.target.warm_cluster
    return assignment_of(
        run.config,
        run.planned,
        run.name,
        run.directory.path,
        mark,
        warm.idle_timeout_s if warm else None,
        run.began_unix_s,
    )


def zygote_ahead(run: Wired, assignment: Assignment, stack: ExitStack) -> FixedLease | None:
    """Importing takes as long as Ray takes to start, so where Ray starts here both do so at once."""
    if run.target.address is not None or not run.config.launch.zygote:
        return None
    log_path = run.directory.path / "logs" / "zygote.node-0.log"
    environment = zygote_environment(assignment, outlives=False)
    return stack.enter_context(early_zygote(environment, log_path, zygote_preload(assignment)))


def connected(run: Wired, stack: ExitStack) -> Session:
    """Ray, started or joined; signals that asked the run to stop meanwhile are taken from it."""
    from orchestrator.cluster.session import connect

    address = run.target.address
    with run.view.busy("starting Ray" if address is None else "connecting to Ray"):
        session = stack.enter_context(
            connect(
                address,
                _local_cpus(run.plan),
                run.config.launch.dashboard,
                working_dir(run.config),
                Path(run.config.run_root).resolve(),
                run.stop.signals,
                shown_by_ray(run),
            )
        )
    take(run.stop, run.stop.signals)
    return session


def shown_by_ray(run: Wired) -> dict[str, str]:
    """What Ray's dashboard says of the run, beside the command that started it. Whoever sees it has the
    cluster's token."""
    return {
        "run": run.name,
        "job": run.plan.job,
        "cluster": run.plan.cluster,
        "accelerators": f"{run.plan.layout.ranks} × {run.plan.gpu_type}",
        "run directory": str(run.directory.path),
    }


def tell_dashboard(run: Wired, session: Session) -> dict[str, str]:
    """Tell people and programs where Ray's dashboard is; what the summary says of it."""
    if not session.dashboard_url:
        return {}
    run.view.dashboard(session.dashboard_url, session.token_path)
    run.directory.write_json(DASHBOARD, {"url": session.dashboard_url}, mode=0o600)
    ends = " (ended with the run)" if session.local else ""
    return {"Ray dashboard": f"{session.dashboard_url}{ends}"}


def workers_of(
    run: Wired,
    assignment: Assignment,
    resume_state: ResumeState,
    session: Session,
    lent: FixedLease | None,
    stack: ExitStack,
) -> RayWorkerGroup:
    """The ranks' side of the run, which takes no node yet."""
    from orchestrator.cluster.group import RayWorkerGroup

    config = run.config
    own_node_s = min(config.recovery.wait_for_node_s, _OWN_NODE_S)
    workers = RayWorkerGroup(
        assignment,
        run.plan.layout.nodes,
        wait_for_resources_s=config.launch.wait_for_resources_s,
        start_timeout_s=config.launch.start_timeout_s,
        notice=run.view.notice,
        lent=lent,
        wait_for_node_s=own_node_s if session.local else config.recovery.wait_for_node_s,
        taken_up=f" after attempt {resume_state.attempts}" if run.takes_up else "",
        rules=placement_rules(config, run.planned),
        earlier=Earlier(resume_state.went_on_from, resume_state.heard),
    )
    stack.callback(workers.close)
    return workers


def placement_rules(config: Config, planned: Planned) -> PlacementRules:
    """Where the run's nodes are to be, with what a file says of the cluster's."""
    from orchestrator.cluster.domains import PlacementRules

    return PlacementRules(
        config.placement.topology,
        config.placement.level,
        levels_of(config.cluster.topology.levels),
        config.cluster.topology.file,
        tuple(planned.places),
        nodes_of_unit(planned.plan.layout),
        config.fabric.oversubscription,
    )


def gauges_of(run: Wired, books: Books, session: Session, stack: ExitStack) -> Gauges:
    """Ray's metrics of the run, which go with it."""
    from orchestrator.cluster.gauges import Gauges

    names = labels(run.config, run.plan, run.name, run.directory.path, session.address)
    caps = caps_of(run.config, run.plan, run.began_unix_s or time.time()).limits
    avoided = set(books.resume_state.history.quarantined)
    gauges = Gauges(*names, Figures(books.ledger, caps, run.began_unix_s, avoided))
    stack.enter_context(gauges.kept())
    return gauges


def notifier_of(run: Wired, books: Books) -> Notifier:
    """Tells people from here on, and nothing of what an earlier driver has told."""
    earlier_seq = books.fold.mark.last.seq if books.fold.mark else -1
    go_on = resume_command(run.directory.path, run.typed_in)
    notifier = Notifier(run.config, run.directory.path, go_on, earlier_seq)
    notifier.begin(run.view.notice)
    return notifier


def observers_of(
    run: Wired, books: Books, session: Session, notifier: Notifier, stack: ExitStack
) -> tuple[Observer, ...]:
    """Whoever is told what happens, in this order."""
    config, notice = run.config, run.view.notice
    kueue = KueueBoost(config.kueue, notice)
    stack.enter_context(kueue.told())
    return (
        run.view,
        gauges_of(run, books, session, stack),
        SpendNote(config, run.name, run.plan.unit, books.ledger, notice),
        notifier,
        kueue,
        RunNotes(config.run_root, notice),
    )


def labels(config: Config, plan: Plan, name: str, path: Path, address: str) -> tuple[str, str]:
    """Of the gauges: Ray's metrics are for everybody who reaches the node, so only loopback has names
    unasked."""
    if config.metrics.names or address.startswith("127."):
        return name, plan.cluster
    return number_of_run(path), ""


def _local_cpus(plan: Plan) -> int:
    """Logical CPUs of a cluster that we start: at least one per rank, so that placement never fails."""
    return max(os.cpu_count() or 1, plan.layout.ranks)
