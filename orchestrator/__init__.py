"""orchestrator: turns scarce, expensive GPUs into trained models, and accounts for every dollar.

In a program::

    import orchestrator as orc

    config = orc.compose("job=tiny_gpt", "job.steps=50")
    print(orc.make_plan(config))
    run = orc.start(config)
    for record in run.follow():
        ...
    print(run.result().cost_usd)

What stands in ``__all__`` is the public API; see ``docs/python_api.md``. Nothing of it is imported before it
is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS = {
    "compose": "orchestrator.config.composing",
    "make_plan": "orchestrator.driver.planning",
    "search_layout": "orchestrator.driver.planning",
    "plan_budget": "orchestrator.driver.planning",
    "plan_serving": "orchestrator.driver.planning",
    "sweep": "orchestrator.driver.planning",
    "runs": "orchestrator.ledger.mlflow.run_table",
    "list_runs": "orchestrator.driver.run_list",
    "ListedRun": "orchestrator.driver.run_list",
    "calibrate": "orchestrator.driver.handle",
    "warm_cluster": "orchestrator.driver.warm_handle",
    "start": "orchestrator.driver.handle",
    "run": "orchestrator.driver.handle",
    "resume": "orchestrator.driver.handle",
    "open_run": "orchestrator.driver.handle",
    "queue": "orchestrator.dispatch.queue",
    "submit": "orchestrator.dispatch.queue",
    "Queue": "orchestrator.dispatch.queue",
    "Submission": "orchestrator.dispatch.queue_answers",
    "QueuedJob": "orchestrator.dispatch.queue_view",
    "Outlook": "orchestrator.dispatch.queue_view",
    "Run": "orchestrator.driver.handle",
    "Config": "orchestrator.config.schema",
    "Plan": "orchestrator.plan.plan",
    "LayoutSearch": "orchestrator.driver.planning",
    "BudgetResult": "orchestrator.planner.budget",
    "ServingAnswer": "orchestrator.planner.serving",
    "Sweep": "orchestrator.planner.sweep",
    "Calibrated": "orchestrator.planner.calibrate",
    "RunTable": "orchestrator.ledger.mlflow.run_table",
    "WarmCluster": "orchestrator.driver.warm_handle",
    "Observer": "orchestrator.driver.observer",
    "WorkerGroup": "orchestrator.supervise.worker_group",
    "Bill": "orchestrator.ledger.bill",
    "Incident": "orchestrator.ledger.incident",
    "Record": "orchestrator.events",
    "OrchestratorError": "orchestrator.errors",
    "ConfigError": "orchestrator.errors",
    "ClusterError": "orchestrator.errors",
    "RunDirectoryError": "orchestrator.errors",
    "TrackingError": "orchestrator.errors",
    "TrainingFailed": "orchestrator.errors",
    "JournalError": "orchestrator.errors",
}
__all__ = [*sorted(_ROOMS), "__version__"]

if TYPE_CHECKING:  # what __getattr__ gives
    from orchestrator.config.composing import compose as compose
    from orchestrator.config.schema import Config as Config
    from orchestrator.dispatch.queue import Queue as Queue
    from orchestrator.dispatch.queue import queue as queue
    from orchestrator.dispatch.queue import submit as submit
    from orchestrator.dispatch.queue_answers import Submission as Submission
    from orchestrator.dispatch.queue_view import Outlook as Outlook
    from orchestrator.dispatch.queue_view import QueuedJob as QueuedJob
    from orchestrator.driver.handle import Run as Run
    from orchestrator.driver.handle import calibrate as calibrate
    from orchestrator.driver.handle import open_run as open_run
    from orchestrator.driver.handle import resume as resume
    from orchestrator.driver.handle import run as run
    from orchestrator.driver.handle import start as start
    from orchestrator.driver.observer import Observer as Observer
    from orchestrator.driver.planning import LayoutSearch as LayoutSearch
    from orchestrator.driver.planning import make_plan as make_plan
    from orchestrator.driver.planning import plan_budget as plan_budget
    from orchestrator.driver.planning import plan_serving as plan_serving
    from orchestrator.driver.planning import search_layout as search_layout
    from orchestrator.driver.planning import sweep as sweep
    from orchestrator.driver.run_list import ListedRun as ListedRun
    from orchestrator.driver.run_list import list_runs as list_runs
    from orchestrator.driver.warm_handle import WarmCluster as WarmCluster
    from orchestrator.driver.warm_handle import warm_cluster as warm_cluster
    from orchestrator.errors import ClusterError as ClusterError
    from orchestrator.errors import ConfigError as ConfigError
    from orchestrator.errors import JournalError as JournalError
    from orchestrator.errors import OrchestratorError as OrchestratorError
    from orchestrator.errors import RunDirectoryError as RunDirectoryError
    from orchestrator.errors import TrackingError as TrackingError
    from orchestrator.errors import TrainingFailed as TrainingFailed
    from orchestrator.events import Record as Record
    from orchestrator.ledger.bill import Bill as Bill
    from orchestrator.ledger.incident import Incident as Incident
    from orchestrator.ledger.mlflow.run_table import RunTable as RunTable
    from orchestrator.ledger.mlflow.run_table import runs as runs
    from orchestrator.plan.plan import Plan as Plan
    from orchestrator.planner.budget import BudgetResult as BudgetResult
    from orchestrator.planner.calibrate import Calibrated as Calibrated
    from orchestrator.planner.serving import ServingAnswer as ServingAnswer
    from orchestrator.planner.sweep import Sweep as Sweep
    from orchestrator.supervise.worker_group import WorkerGroup as WorkerGroup


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(importlib.import_module(_ROOMS[name]), name)
    raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
