"""Every gauge there is: its name, what it says and its labels. Whoever sets one, draws one or explains one
takes it from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

# Ray puts this before the name of each.
EXPORTED = "ray_"
# What every gauge of a run is labelled with. On a cluster of several machines everybody reads them, so that
# names are left out.
LABELS = {
    "run": (
        "Name of the run; its number where `metrics.names` is not true and the cluster is of several machines"
    ),
    "cluster": "Name of the cluster, empty where the run is told by its number",
}
MORE_LABELS = {
    "bucket": "What time goes to, as in the bill",
    "cap": "Which cap, by its key: `budget.usd`, `budget.gpu_hours` or `budget.deadline`",
    "team": (
        "Name of the team, `everybody` where `fleet.yaml` has none; its place in that file where"
        " `metrics_names` there is not true and the cluster is of several machines"
    ),
    "pool": "Name of the pool, or its place, likewise",
    "state": "Of a job: queued, held, starting, running or stopping; of a node: up, down or draining",
}
ALL_LABELS = LABELS | MORE_LABELS


@dataclass(frozen=True)
class Gauge:
    """``more`` are labels beside those that all of its kind have."""

    name: str
    says: str
    more: tuple[str, ...] = ()


RUN_GAUGES = (
    Gauge("orchestrator_step", "Highest global step that all ranks have finished"),
    Gauge("orchestrator_steps", "Steps that there are to be"),
    Gauge("orchestrator_loss", "Training loss of the last step, mean over ranks"),
    Gauge("orchestrator_step_time_s", "What the last step took, of its slowest rank"),
    Gauge(
        "orchestrator_last_step_unix_s",
        "When the last step was done; when accelerators were granted, where none has been done with them",
    ),
    Gauge("orchestrator_tokens_per_s", "Tokens trained per second in the steady state"),
    Gauge("orchestrator_mfu", "Model FLOP/s over the GPUs' dense peak"),
    Gauge("orchestrator_goodput", "Share of the allocated GPU time spent on training"),
    Gauge("orchestrator_gpus_held", "Accelerators held now"),
    Gauge("orchestrator_gpu_hours", "GPU-hours held so far"),
    Gauge("orchestrator_cost_usd", "Dollars spent so far"),
    Gauge("orchestrator_cost_usd_per_hour", "Dollars that an hour costs now: what is held, at its price"),
    Gauge("orchestrator_restarts", "Attempts after the first one"),
    Gauge("orchestrator_in_bucket", "1 for what time goes to now, else 0", ("bucket",)),
    Gauge("orchestrator_bucket_s", "Time so far, by what it went to", ("bucket",)),
    Gauge("orchestrator_bucket_usd", "Dollars spent so far, by what their time went to", ("bucket",)),
    Gauge("orchestrator_budget_share", "Share of a cap that is spent, 1 for all of it", ("cap",)),
    Gauge("orchestrator_stragglers", "Ranks of this attempt that the others were found to wait for"),
    Gauge("orchestrator_nodes_avoided", "Nodes that the run takes no more GPUs of"),
)
QUEUE_GAUGES = (
    Gauge("orchestrator_queue_jobs", "Jobs that have not ended", ("team", "state")),
    Gauge("orchestrator_queue_gpus", "GPUs that jobs have", ("team", "pool")),
    Gauge("orchestrator_queue_gpus_waiting", "GPUs that queued jobs wait for", ("team", "pool")),
    Gauge("orchestrator_queue_quota_gpus", "GPUs that a team gets before anybody borrows", ("team", "pool")),
    Gauge(
        "orchestrator_queue_cost_usd_per_hour",
        "Dollars that an hour of the GPUs that jobs have costs, at the pool's price",
        ("team", "pool"),
    ),
    Gauge("orchestrator_queue_month_usd", "Dollars spent in this month", ("team",)),
    Gauge("orchestrator_queue_month_limit_usd", "Dollars that a team may spend in a month", ("team",)),
    Gauge("orchestrator_queue_nodes", "Nodes of a pool", ("pool", "state")),
    Gauge("orchestrator_queue_pool_gpus", "GPUs of a pool's nodes that are up", ("pool",)),
    Gauge("orchestrator_queue_longest_wait_s", "So long the job has waited that has waited longest"),
)
GAUGES = {gauge.name: gauge for gauge in (*RUN_GAUGES, *QUEUE_GAUGES)}


class Series(NamedTuple):
    """One line of a gauge: its name, and the values of the labels beside those that all of its kind have."""

    name: str
    more: tuple[str, ...] = ()


Values = Mapping[Series, float | None]
