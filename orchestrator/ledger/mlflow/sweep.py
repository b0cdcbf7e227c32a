"""The runs of a sweep in MLflow: children of one run, whose description compares them.

Nobody but the runs' own processes tells MLflow. The first of a sweep makes the parent, and each that ends
writes the parent anew from what MLflow has of all of them, so that it is right whenever one of them was told
late, or again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from orchestrator.ledger.mlflow.description import placed, table
from orchestrator.ledger.mlflow.names import SWEEP_METRICS, SWEEP_TAG, SWEEP_VALUES_TAG
from orchestrator.ledger.mlflow.views import NOTE
from orchestrator.text import UNKNOWN, count, number, percent, usd

PARENT_TAG = "mlflow.parentRunId"
# Lines of the comparison: a description holds 8,000 characters.
MOST_LINES = 60
_MOST_RUNS = 1000
_HEADINGS = ("run", "status", "cost", "final loss", "tokens/s", "goodput")


@dataclass(frozen=True)
class Sweep:
    """``number`` is the same for all runs of one command, ``values`` what this one has of what is varied."""

    number: str
    values: Mapping[str, object]

    def tags(self) -> dict[str, str]:
        """Of a run of the sweep."""
        return {SWEEP_VALUES_TAG: ", ".join(f"{key}={value}" for key, value in self.values.items())}


def parent_of(client: MlflowClient, experiment_id: str, sweep: Sweep, start_ms: int | None) -> str:
    """The run of the sweep, which is made where there is none yet."""
    query = f"tags.`{SWEEP_TAG}` = '{sweep.number}'"
    found = client.search_runs([experiment_id], query, max_results=1, order_by=["attributes.start_time ASC"])
    if found:
        client.update_run(found[0].info.run_id, status="RUNNING")
        return str(found[0].info.run_id)
    tags = {SWEEP_TAG: sweep.number, "status": "running"}
    made = client.create_run(experiment_id, start_ms, tags, run_name=f"sweep {sweep.number}")
    return str(made.info.run_id)


def tell_parent(client: MlflowClient, experiment_id: str, parent: str) -> None:
    """Compare its runs in the parent, which ends with the last of them."""
    query = f"tags.`{PARENT_TAG}` = '{parent}'"
    runs = client.search_runs([experiment_id], query, max_results=_MOST_RUNS)
    runs = sorted(runs, key=lambda run: (int(run.info.start_time or 0), str(run.info.run_name)))
    ended = [int(run.info.end_time) for run in runs if run.info.end_time]
    last_ms = max(ended, default=0)
    for name, value in totals(runs).items():
        client.log_metric(parent, name, value, timestamp=last_ms, step=len(ended))
    around = client.get_run(parent).data.tags.get(NOTE, "")
    client.set_tag(parent, NOTE, placed(comparison(runs), around))
    client.set_tag(parent, "status", "finished" if len(ended) == len(runs) else "running")
    client.set_terminated(parent, "FINISHED", last_ms or None)


def totals(runs: Sequence[Run]) -> dict[str, float]:
    """What all of them took, and the best of them."""
    costs = [run.data.metrics.get("cost_usd", 0.0) for run in runs]
    losses = [run.data.metrics["final_loss"] for run in runs if "final_loss" in run.data.metrics]
    figures = {"sweep_runs": float(len(runs)), "sweep_cost_usd": sum(costs)}
    if losses:
        figures["sweep_best_final_loss"] = min(losses)
    assert set(figures) <= set(SWEEP_METRICS)
    return figures


def comparison(runs: Sequence[Run]) -> str:
    """A line for each, the lowest loss and the lowest cost in bold."""
    best = {
        name: min((run.data.metrics[name] for run in runs if name in run.data.metrics), default=None)
        for name in ("cost_usd", "final_loss")
    }

    def bold(run: Run, name: str, shown: str) -> str:
        value = run.data.metrics.get(name)
        return f"**{shown}**" if len(runs) > 1 and value is not None and value == best[name] else shown

    rows = [
        (
            f"`{run.data.tags.get(SWEEP_VALUES_TAG) or run.info.run_name}`".replace("|", " "),
            run.data.tags.get("status", UNKNOWN),
            bold(run, "cost_usd", usd(run.data.metrics.get("cost_usd"))),
            bold(run, "final_loss", number(run.data.metrics.get("final_loss"))),
            count(run.data.metrics.get("mean_tokens_per_s")),
            percent(run.data.metrics.get("goodput")),
        )
        for run in runs
    ]
    total = usd(totals(runs)["sweep_cost_usd"])
    left_out = f"\n\nand {len(rows) - MOST_LINES} more" if len(rows) > MOST_LINES else ""
    return f"**{len(runs)} runs, {total}**\n\n{table(_HEADINGS, rows[:MOST_LINES])}{left_out}"
