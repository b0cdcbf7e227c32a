"""When somebody is called: each alert a figure, where it begins, and for how long it has to last."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.export_schema import MonitoringConfig
from orchestrator.ledger.monitoring.queries import exported, gained, goodput_of_late, in_all, one_each

WARNING, INFO = "warning", "info"
_RUN = "{{ $labels.run }}"
_REPORT = f"python -m orchestrator report {_RUN}"


@dataclass(frozen=True)
class Alert:
    """``figure`` has a value whether or not it is too high or too low, ``too`` is what it must not be. A
    reader of Prometheus' own text fills in what is in double braces."""

    name: str
    figure: str
    too: str
    for_: str
    says: str
    then: str
    severity: str = WARNING

    @property
    def query(self) -> str:
        """What there is an answer to as long as it fires."""
        return f"{self.figure} {self.too}"


def alerts(limits: MonitoringConfig) -> list[Alert]:
    """All of them, with where each begins."""
    return [*_of_runs(limits), *_of_the_queue(limits)]


def _of_runs(limits: MonitoringConfig) -> list[Alert]:
    held = f"({one_each('orchestrator_gpus_held')} > 0)"
    since_step = f"(time() - {one_each('orchestrator_last_step_unix_s')}) and {held}"
    return [
        Alert(
            "NoStep",
            f"({since_step})",
            f"> {limits.no_step_s:.15g}",
            "0m",
            f"Run {_RUN} holds accelerators, and has done no step for {{{{ $value | humanizeDuration }}}}",
            f"python -m orchestrator logs {_RUN} shows what it does",
            "critical",
        ),
        Alert(
            "GoodputLow",
            f"({goodput_of_late('1h')})",
            f"< {limits.goodput:.15g}",
            "15m",
            f"Run {_RUN}: {{{{ $value | humanizePercentage }}}} of what it held in the last hour trained",
            f"{_REPORT} shows where its time goes",
        ),
        Alert(
            "CostRateHigh",
            in_all("orchestrator_cost_usd_per_hour"),
            f"> {limits.cost_usd_per_hour:.15g}",
            "5m",
            'All runs together cost ${{ $value | printf "%.0f" }} an hour',
            "python -m orchestrator runs --state running lists them",
        ),
        Alert(
            "BudgetMostlySpent",
            one_each("orchestrator_budget_share"),
            f"> {limits.budget:.15g}",
            "0m",
            f"Run {_RUN} has spent {{{{ $value | humanizePercentage }}}} of its {{{{ $labels.cap }}}}",
            f"{_REPORT}; it saves and stops before all is spent, resume with a higher one goes on",
        ),
        Alert(
            "RestartsOften",
            gained("orchestrator_restarts", "1h"),
            "> 2.5",
            "0m",
            f'Run {_RUN} was restarted {{{{ $value | printf "%.0f" }}}} times in the last hour',
            f"python -m orchestrator incidents {_RUN} says what broke",
        ),
        Alert(
            "NodeAvoided",
            one_each("orchestrator_nodes_avoided"),
            "> 0",
            "0m",
            f"Run {_RUN} takes no more GPUs of {{{{ $value }}}} nodes",
            "python -m orchestrator nodes says which and why",
        ),
        Alert(
            "StragglerNamed",
            one_each("orchestrator_stragglers"),
            "> 0",
            "10m",
            f"Run {_RUN} waits for {{{{ $value }}}} of its ranks",
            f"{_REPORT} names them, python -m orchestrator check measures their nodes",
            INFO,
        ),
    ]


def _of_the_queue(limits: MonitoringConfig) -> list[Alert]:
    wait_s = limits.wait_hours * 3600.0
    spent = one_each("orchestrator_queue_month_usd")
    jobs = exported("orchestrator_queue_jobs")
    return [
        Alert(
            "JobsWaitLong",
            one_each("orchestrator_queue_longest_wait_s"),
            f"> {wait_s:.15g}",
            "0m",
            "A job of the queue has waited for {{ $value | humanizeDuration }}",
            "python -m orchestrator queue says which, and what for",
        ),
        Alert(
            "TeamBudgetMostlySpent",
            f"({spent} / ({one_each('orchestrator_queue_month_limit_usd')} > 0))",
            f"> {limits.budget:.15g}",
            "0m",
            "Team {{ $labels.team }} has spent {{ $value | humanizePercentage }} of what it may in a month",
            "python -m orchestrator quota shows it",
        ),
        Alert(
            "NodesDown",
            one_each("orchestrator_queue_nodes", 'state="down"'),
            "> 0",
            "10m",
            "Pool {{ $labels.pool }}: {{ $value }} nodes are down",
            "python -m orchestrator nodes says what was found of them",
        ),
        Alert(
            "QueueSilent",
            f"(count({jobs} offset 10m) unless count({jobs}))",
            "> 0",
            "2m",
            "Nobody tells how the queue stands: its daemon or its Ray does not run",
            "python -m orchestrator queue says whether a daemon leads; python -m orchestrator up starts both",
            "critical",
        ),
    ]
