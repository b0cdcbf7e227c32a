"""What the dashboard shows: every gauge, in rows of panels."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.ledger.monitoring.queries import CHOSEN, goodput_of_late, in_all, one_each

RUN = "{{run}}"


class Unit(StrEnum):
    """Of Grafana's."""

    PLAIN = "short"
    SECONDS = "s"
    SHARE = "percentunit"
    USD = "currencyUSD"
    RATE = "cps"


class Form(StrEnum):
    """How a panel shows its figures."""

    LINES = "timeseries"
    STACKED = "stacked"
    NUMBER = "stat"


@dataclass(frozen=True)
class Asked:
    """A question, and what its series are called: text with ``{{label}}``."""

    query: str
    legend: str = RUN


@dataclass(frozen=True)
class Panel:
    """``says`` is read where the mouse rests on it."""

    title: str
    says: str
    asked: tuple[Asked, ...]
    unit: Unit = Unit.PLAIN
    form: Form = Form.LINES
    smallest: float | None = 0.0  # the end of its axis; None leaves that to the figures


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...] = field(default_factory=tuple)


def _each(name: str, legend: str = RUN) -> tuple[Asked, ...]:
    return (Asked(one_each(name, CHOSEN), legend),)


def _number(title: str, says: str, query: str, unit: Unit = Unit.PLAIN) -> Panel:
    return Panel(title, says, (Asked(query, title.lower()),), unit, Form.NUMBER)


def _share_of(part: str, whole: str) -> str:
    return f"{part} / {whole}"


_TRAINING = f'{CHOSEN},bucket="training"'
_TRAINED_USD = f"sum({one_each('orchestrator_bucket_usd', _TRAINING)})"
_SPENT_USD = f"(sum({one_each('orchestrator_bucket_usd', CHOSEN)}) > 0)"

ROWS = (
    Row(
        "At this moment",
        (
            _number(
                "Runs",
                "Runs whose driver tells figures now.",
                f"count({one_each('orchestrator_step', CHOSEN)})",
            ),
            _number(
                "Accelerators held",
                "Of all these runs together.",
                in_all("orchestrator_gpus_held", chosen=CHOSEN),
            ),
            _number(
                "Dollars an hour",
                "What is held now, at its price.",
                in_all("orchestrator_cost_usd_per_hour", chosen=CHOSEN),
                Unit.USD,
            ),
            _number(
                "Dollars so far",
                "What these runs have cost since each began.",
                in_all("orchestrator_cost_usd", chosen=CHOSEN),
                Unit.USD,
            ),
            _number(
                "Dollars spent on training",
                "Share of all dollars of these runs that went to steps that count.",
                _share_of(_TRAINED_USD, _SPENT_USD),
                Unit.SHARE,
            ),
            _number(
                "Restarts",
                "Attempts after the first one, of these runs together.",
                in_all("orchestrator_restarts", chosen=CHOSEN),
            ),
        ),
    ),
    Row(
        "Progress",
        (
            Panel(
                "Steps done",
                "The highest global step that all ranks have finished, and how many there are to be.",
                (
                    *_each("orchestrator_step"),
                    *_each("orchestrator_steps", f"{RUN}, to be"),
                ),
            ),
            Panel("Loss", "Of the last step, mean over ranks.", _each("orchestrator_loss"), smallest=None),
            Panel(
                "Step time",
                "What the last step took, of its slowest rank.",
                _each("orchestrator_step_time_s"),
                Unit.SECONDS,
            ),
            Panel(
                "Since the last step",
                "Grows while a run holds accelerators and does no step; its alert is NoStep.",
                (Asked(f"time() - {one_each('orchestrator_last_step_unix_s', CHOSEN)}"),),
                Unit.SECONDS,
            ),
            Panel(
                "Tokens a second",
                "Trained in the steady state.",
                _each("orchestrator_tokens_per_s"),
                Unit.RATE,
            ),
            Panel(
                "MFU",
                "Model FLOP/s over the accelerators' dense peak.",
                _each("orchestrator_mfu"),
                Unit.SHARE,
            ),
        ),
    ),
    Row(
        "Time and money",
        (
            Panel(
                "Goodput",
                "Share of the time that accelerators were held which trained: since the run began, and of the"
                " last hour.",
                (
                    *_each("orchestrator_goodput"),
                    Asked(goodput_of_late("1h", CHOSEN), f"{RUN}, last hour"),
                ),
                Unit.SHARE,
            ),
            Panel(
                "What runs do",
                "How many of them spend their time on what.",
                (Asked(in_all("orchestrator_in_bucket", "bucket", CHOSEN), "{{bucket}}"),),
                form=Form.STACKED,
            ),
            Panel(
                "Where time went",
                "Of all these runs, since each began.",
                (Asked(in_all("orchestrator_bucket_s", "bucket", CHOSEN), "{{bucket}}"),),
                Unit.SECONDS,
                Form.STACKED,
            ),
            Panel(
                "Where dollars went",
                "Of all these runs, since each began.",
                (Asked(in_all("orchestrator_bucket_usd", "bucket", CHOSEN), "{{bucket}}"),),
                Unit.USD,
                Form.STACKED,
            ),
            Panel("Dollars so far", "Since each run began.", _each("orchestrator_cost_usd"), Unit.USD),
            Panel(
                "Dollars an hour",
                "What each run holds now, at its price.",
                _each("orchestrator_cost_usd_per_hour"),
                Unit.USD,
                Form.STACKED,
            ),
            Panel("Accelerators held", "By each run.", _each("orchestrator_gpus_held"), form=Form.STACKED),
            Panel("Accelerator-hours", "Held so far, by each run.", _each("orchestrator_gpu_hours")),
            Panel(
                "Spent of budgets",
                "Share of each cap that is set: dollars, accelerator-hours and time until the deadline.",
                _each("orchestrator_budget_share", f"{RUN}, {{{{cap}}}}"),
                Unit.SHARE,
            ),
        ),
    ),
    Row(
        "Faults",
        (
            Panel(
                "Restarts of each run",
                "Attempts after the first one; `report RUN` says what broke.",
                _each("orchestrator_restarts"),
            ),
            Panel(
                "Stragglers",
                "Ranks that the others were found to wait for, in this attempt.",
                _each("orchestrator_stragglers"),
            ),
            Panel(
                "Nodes avoided",
                "Nodes that a run takes no more GPUs of; the `nodes` verb says which and why.",
                _each("orchestrator_nodes_avoided"),
            ),
        ),
    ),
    Row(
        "The queue",
        (
            Panel(
                "Jobs by state",
                "That have not ended.",
                (Asked(in_all("orchestrator_queue_jobs", "state"), "{{state}}"),),
                form=Form.STACKED,
            ),
            Panel(
                "Jobs by team",
                "That have not ended.",
                (Asked(in_all("orchestrator_queue_jobs", "team"), "{{team}}"),),
                form=Form.STACKED,
            ),
            Panel(
                "Longest wait",
                "Of all jobs that are queued now.",
                (Asked(one_each("orchestrator_queue_longest_wait_s"), "longest wait"),),
                Unit.SECONDS,
            ),
            Panel(
                "GPUs by team",
                "That jobs have, and how many there are in nodes that are up.",
                (
                    Asked(in_all("orchestrator_queue_gpus", "team"), "{{team}}"),
                    Asked(in_all("orchestrator_queue_pool_gpus"), "all that are up"),
                ),
            ),
            Panel(
                "GPUs waited for",
                "By the team's queued jobs.",
                (Asked(in_all("orchestrator_queue_gpus_waiting", "team"), "{{team}}"),),
                form=Form.STACKED,
            ),
            Panel(
                "Quota in use",
                "GPUs that a team's jobs have over what it gets before anybody borrows; above 1 it has"
                " borrowed.",
                (
                    Asked(
                        _share_of(
                            in_all("orchestrator_queue_gpus", "team"),
                            f"({in_all('orchestrator_queue_quota_gpus', 'team')} > 0)",
                        ),
                        "{{team}}",
                    ),
                ),
                Unit.SHARE,
            ),
            Panel(
                "Nodes",
                "Of each pool.",
                (Asked(one_each("orchestrator_queue_nodes"), "{{pool}}, {{state}}"),),
            ),
            Panel(
                "Dollars an hour, by team",
                "Of the GPUs that jobs have, at the pool's price.",
                (Asked(in_all("orchestrator_queue_cost_usd_per_hour", "team"), "{{team}}"),),
                Unit.USD,
                Form.STACKED,
            ),
            Panel(
                "Dollars of this month",
                "Spent by each team, and what it may spend.",
                (
                    Asked(one_each("orchestrator_queue_month_usd"), "{{team}}"),
                    Asked(one_each("orchestrator_queue_month_limit_usd"), "{{team}}, at most"),
                ),
                Unit.USD,
            ),
        ),
    ),
)
