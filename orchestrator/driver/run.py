"""One run, wired: run directory, plan, journal, MLflow process, Ray, supervise loop, summary."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.agent.assignment import zygote_environment
from orchestrator.agent.launchers import early_zygote, zygote_preload
from orchestrator.agent.localize import leave_mark, remove_mark
from orchestrator.cluster import ray_env
from orchestrator.config.placeholders import SKIP_BATCHES, asks_for
from orchestrator.config.resume_changes import wishes_of
from orchestrator.config.schema import Config, Preflight
from orchestrator.config.signals import stop_numbers
from orchestrator.driver.assignment import assignment_of, working_dir
from orchestrator.driver.budget import (
    budget_of,
    caps_of,
    check_against_plan,
    check_budget,
    check_resumed,
    write_money,
)
from orchestrator.driver.journal_fold import JournalFold
from orchestrator.driver.node_notes import RunNotes
from orchestrator.driver.notifying import Notifier
from orchestrator.driver.observer import Observer, RunObserver
from orchestrator.driver.preflight import (
    Planned,
    Target,
    check_script_builds,
    find_target,
    planned,
)
from orchestrator.driver.preflight_check import nodes_to_leave_out
from orchestrator.driver.prices import Prices, with_prices
from orchestrator.driver.resume import (
    Unfinished,
    how_to_go_on,
    missing_names,
    remember,
    resumable,
    resume_command,
    to_take_up,
)
from orchestrator.driver.script_preload import check_preload
from orchestrator.driver.shared_budgets import shared_budgets
from orchestrator.driver.stop_file import asked_by_file
from orchestrator.driver.stopping import asked_by_signals, exit_code, take
from orchestrator.driver.tracking import (
    DASHBOARD,
    MlflowSink,
    shell_address_remark,
    tracking_places,
    tracking_problem,
    write_run_metadata,
)
from orchestrator.errors import EXIT_BUDGET_REACHED, RunDirectoryError, TrainingFailed
from orchestrator.events import BudgetSettled, Event, Record, RunEnded, RunResumed, RunStarted, Status
from orchestrator.ledger.charge import cost_usd
from orchestrator.ledger.journal import Journal, disk_is_full
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run_directory import RunDirectory, check_run_name, new_run_name, number_of_run
from orchestrator.ledger.spend import SpendNote
from orchestrator.output import outlive_full_disks
from orchestrator.plan.plan import Plan
from orchestrator.redact import redact, redact_fields
from orchestrator.supervise.budget_words import going_on
from orchestrator.supervise.clock import SystemClock
from orchestrator.supervise.loop import ResumeState, StopRequest, SupervisorOptions, supervise
from orchestrator.trust import check_nobody_elses

_SPACE_S = 1.0
# The one node of a cluster that we started does not come back.
_OWN_NODE_S = 5.0


def run(config: Config, view: RunObserver, takes_up: Unfinished | None = None, trust: bool = False) -> int:
    """Plan, launch, supervise, account; returns the exit code. ``takes_up``: the run that is gone on with;
    with ``trust`` one that ``job.resume=auto`` finds may be somebody else's, as may the folder of a new one.

    Raises :class:`~orchestrator.errors.OrchestratorError` for everything that a person can fix.
    """
    if takes_up is None and (found := to_take_up(config, trust)) is not None:
        config, takes_up = resumable(found.path, wishes_of(config))
    check_budget(config.budget)
    made = planned(config)
    plan = made.plan
    _ = plan.billed_by
    if takes_up is None:
        check_against_plan(config, plan, caps_of(config, plan, time.time()), view.warn)
    check_script_builds(config)
    target = find_target(config)
    signals = stop_numbers(config.recovery.stop_signals)
    check_preload(config, target.address is None)
    problem = tracking_problem(config)
    name = takes_up.name if takes_up else config.run_name or new_run_name(plan.job)
    check_run_name(name)
    directory = RunDirectory(Path(config.run_dir or Path(config.run_root) / name), config.run_group_reads)
    if takes_up is None and not trust:
        check_nobody_elses(directory.path)
    with ExitStack() as stack:
        directory.hold(resume=takes_up is not None)
        stack.callback(directory.release)
        if takes_up is not None:
            check_resumed(config, plan, caps_of(config, plan, _began_unix_s(takes_up)), takes_up.fold.folded)
        view.planned(plan)
        if target.remark:
            view.warn(target.remark)
        if problem:
            view.warn(
                f"MLflow: {problem}; going on without it, the journal keeps everything. It is asked again"
                " meanwhile"
            )
        if remark := shell_address_remark(config, plan, os.environ):
            view.notice(remark)
        if missing := missing_names(config, takes_up):
            view.warn(missing)
        write_papers(config, plan, name, directory, takes_up)
        outlive_full_disks()
        stop = StopRequest()
        stack.enter_context(asked_by_signals(stop, signals))
        stack.enter_context(asked_by_file(directory.path, stop, view.warn))
        sink = MlflowSink(config, directory, problem)
        stack.callback(sink.close)
        return _supervised(_Wired(config, made, name, directory, target, stop, sink, view, takes_up))


def write_papers(
    config: Config, plan: Plan, name: str, directory: RunDirectory, takes_up: Unfinished | None = None
) -> None:
    """What the next driver and people read of a run, before anything of it is started. Raises
    :class:`RunDirectoryError` where there is no room for that."""
    try:
        if takes_up is None:
            write_run_metadata(config, plan, name, directory)
            remember(config, directory)
        elif takes_up.changed:
            remember(config, directory, takes_up)
    except OSError as error:
        raise RunDirectoryError(
            f"run directory {directory.path}: cannot be written ({error.strerror}); make room there, or set"
            " run_root or run_dir to a folder that has some"
        ) from None


@dataclass(frozen=True)
class _Wired:
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

    @property
    def plan(self) -> Plan:
        return self.planned.plan


def _supervised(run: _Wired) -> int:
    config, plan, target, view, takes_up = run.config, run.plan, run.target, run.view, run.takes_up
    directory, stop = run.directory, run.stop
    ray_env.prepare() if target.address is None else ray_env.prepare_to_attach(target.address)
    last: Record | None = None
    settled: BudgetSettled | None = None
    ledger = Ledger()
    where = {"run directory": str(directory.path)}
    with ExitStack() as stack:
        # Before Ray, so that the seconds Ray takes to start are on record (and cost nothing).
        fold, resume_state = takes_up.fold if takes_up else JournalFold(directory.path), ResumeState()
        if takes_up is not None:
            folded = takes_up.folded()
            resume_state, ledger = folded.resume_state, folded.ledger
            view.remember(folded)
        shared = shared_budgets(config, run.name, plan, ledger, view.notice)
        if shared is not None:
            stack.callback(shared.give_back)
        journal = stack.enter_context(Journal(directory.path / "journal.jsonl", after=fold.mark))
        mark = leave_mark(directory.path)
        stack.callback(remove_mark, directory.path, mark)
        idle_timeout_s = target.warm_cluster.idle_timeout_s if target.warm_cluster else None
        began_unix_s = _began_unix_s(takes_up) if takes_up else None
        assignment = assignment_of(
            config, run.planned, run.name, directory.path, mark, idle_timeout_s, began_unix_s
        )
        early = None
        if target.address is None and config.launch.zygote:
            # Importing takes as long as Ray takes to start.
            log_path = directory.path / "logs" / "zygote.node-0.log"
            environment = zygote_environment(assignment, outlives=False)
            early = stack.enter_context(early_zygote(environment, log_path, zygote_preload(assignment)))
        run.sink.begin(view.notice)
        earlier_seq = fold.mark.last.seq if fold.mark else -1
        typed_in = takes_up.typed_in if takes_up else Path.cwd()
        notifier = Notifier(
            config,
            directory.path,
            resume_command(directory.path, typed_in),
            earlier_seq,
        )
        notifier.begin(view.notice)
        from orchestrator.cluster.gauges import Gauges
        from orchestrator.cluster.group import RayWorkerGroup
        from orchestrator.cluster.session import connect

        with view.busy("starting Ray" if target.address is None else "connecting to Ray"):
            shipped, run_root = working_dir(config), Path(config.run_root).resolve()
            session = stack.enter_context(
                connect(
                    target.address,
                    _local_cpus(plan),
                    config.launch.dashboard,
                    shipped,
                    run_root,
                    stop.signals,
                )
            )
        take(stop, stop.signals)
        if session.dashboard_url:
            ends = " (ended with the run)" if session.local else ""
            where["Ray dashboard"] = f"{session.dashboard_url}{ends}"
            view.dashboard(session.dashboard_url, session.token_path)
            directory.write_json(DASHBOARD, {"url": session.dashboard_url}, mode=0o600)
        leave_out: Mapping[str, str] = {}
        if config.preflight is not Preflight.off:
            leave_out = nodes_to_leave_out(config, plan.layout.nodes, session.address, view)
        own_node_s = min(config.recovery.wait_for_node_s, _OWN_NODE_S)
        workers = RayWorkerGroup(
            assignment,
            plan.layout.nodes,
            wait_for_resources_s=config.launch.wait_for_resources_s,
            start_timeout_s=config.launch.start_timeout_s,
            notice=view.notice,
            lent=early,
            wait_for_node_s=own_node_s if session.local else config.recovery.wait_for_node_s,
            taken_up=f" after attempt {resume_state.attempts}" if takes_up else "",
        )
        stack.callback(workers.close)
        gauges = Gauges(*_labels(config, plan, run.name, directory.path, session.address))
        stack.enter_context(gauges.kept())
        spend = SpendNote(config, run.name, plan.unit, ledger, view.notice)
        notes = RunNotes(config.run_root, view.notice)
        observers: tuple[Observer, ...] = (view, gauges, spend, notifier, notes)
        address = None if session.local else session.address
        started = (
            _resumed(takes_up, plan)
            if takes_up
            else run_started(plan, run.name, address, config.cluster.grid_gco2_per_kwh)
        )
        can_skip = asks_for(SKIP_BATCHES, plan.args)
        options = SupervisorOptions(config.launch.poll_s, can_skip, config.snapshot.enabled, leave_out)
        since_s = began_unix_s or time.time()
        caps = caps_of(config, plan, since_s)
        prices = Prices(config, lambda: ledger.usd_per_gpu_hour(journal.now_s), view.notice)
        stack.enter_context(prices.read_again())
        budget = budget_of(caps, plan, ledger, journal, since_s, shared, prices)
        events = supervise(
            started, workers, config.recovery, SystemClock(), stop, options, resume_state, budget
        )
        with view.live():
            for event in with_prices(events, prices):
                last = _on_record(journal, event, view.notice, stop)
                settled = event if isinstance(event, BudgetSettled) else settled
                if isinstance(event, RunEnded):
                    run.sink.run_ended()
                fold.appended(last)
                # so that what is told while it goes on is what the journal says afterwards
                if last.event.durable:
                    ledger.fold(last)
                bill = ledger.bill(last.elapsed_s)
                for observer in observers:
                    observer.observe(last, bill)
    fold.finish()
    write_money(ledger, directory, view.notice)
    view.summary(last, ledger, where | tracking_places(config, run.sink.recorded))
    if (hint := how_to_go_on(last, directory.path, typed_in)) is not None:
        view.notice(going_on(hint, settled if _has_stopped_for_budget(last) else None))
    run.sink.finish(stop, view)
    notifier.finish(stop, view)
    return _exit_code(last, stop)


def _resumed(takes_up: Unfinished, plan: Plan) -> RunResumed:
    """With what the run goes on with, where that is not what it began with."""
    if not takes_up.changed:
        return takes_up.resumed
    changed = [redact(word) for word in takes_up.changed]
    return replace(takes_up.resumed, changed=changed, steps=plan.prediction.steps, gpus=plan.layout.ranks)


def _began_unix_s(takes_up: Unfinished) -> float:
    """When the run's first driver began it."""
    first = takes_up.fold.folded.started
    return first.time_unix_s if first else time.time()


def _has_stopped_for_budget(last: Record | None) -> bool:
    return (
        last is not None and isinstance(last.event, RunEnded) and last.event.status is Status.BUDGET_REACHED
    )


def run_started(
    plan: Plan, name: str, ray_address: str | None, grid_gco2_per_kwh: float | None = None
) -> RunStarted:
    """The run's first event: all that the meter needs, and where it ran unless on a cluster of its own."""
    currency, energy = plan.billed_by.currency, plan.prediction.energy
    return RunStarted(
        run=name,
        job=plan.job,
        cluster=plan.cluster,
        gpu_type=plan.gpu_type,
        gpus=plan.layout.ranks,
        price_usd_per_gpu_hour=plan.billed_by.usd_per_gpu_hour,
        unit=plan.unit,
        steps=plan.prediction.steps,
        tokens_per_step=plan.prediction.tokens_per_step,
        model_flops_per_token=plan.model.training_flops_per_token if plan.model else None,
        peak_flops_per_gpu=plan.peak_flops_per_gpu,
        ray_address=ray_address,
        predicted_step_time_s=plan.prediction.step_time_s,
        predicted_memory_bytes=plan.memory.total_bytes if plan.memory else None,
        predicted_cost_usd_per_step=_cost_usd_per_step(plan),
        currency=currency.code if currency else "",
        usd_per_currency_unit=currency.usd_per_unit if currency else None,
        modelled_watts_per_gpu=energy.mean_power_w / plan.layout.ranks if energy else None,
        grid_gco2_per_kwh=grid_gco2_per_kwh,
    )


def _labels(config: Config, plan: Plan, name: str, path: Path, address: str) -> tuple[str, str]:
    """Of the gauges: Ray's metrics are for everybody who reaches the node, so only loopback has names
    unasked."""
    if config.metrics.names or address.startswith("127."):
        return name, plan.cluster
    return number_of_run(path), ""


def _cost_usd_per_step(plan: Plan) -> float | None:
    """Of a run of known length its share of the whole, faults and checkpoints included; else of a step
    alone."""
    predicted = plan.prediction
    if predicted.cost_usd is not None and predicted.steps:
        return predicted.cost_usd / predicted.steps
    if predicted.step_time_s is None:
        return None
    return cost_usd(predicted.step_time_s * plan.layout.ranks, plan.billed_by.usd_per_gpu_hour)


def _on_record(journal: Journal, event: Event, notice: Callable[[str], None], stop: StopRequest) -> Record:
    """Append, and while the disk is full wait for space: nothing happens that is not on record."""
    announced = False
    while True:
        try:
            return journal.append(redact_fields(event))
        except RunDirectoryError as error:
            if not disk_is_full(error) or stop.level > 1:
                raise
            if not announced:
                notice(f"{error}; waiting for space, nothing is lost meanwhile")
            announced = True
            time.sleep(_SPACE_S)


def _local_cpus(plan: Plan) -> int:
    """Logical CPUs of a cluster that we start: at least one per rank, so that placement never fails."""
    return max(os.cpu_count() or 1, plan.layout.ranks)


def _exit_code(last: Record | None, stop: StopRequest) -> int:
    assert last is not None
    assert isinstance(last.event, RunEnded), "supervise ends every run with RunEnded"
    match last.event.status:
        case Status.FINISHED:
            return 0
        case Status.INTERRUPTED:
            return exit_code(stop)
        case Status.BUDGET_REACHED:
            return EXIT_BUDGET_REACHED
        case _:
            return TrainingFailed.exit_code
