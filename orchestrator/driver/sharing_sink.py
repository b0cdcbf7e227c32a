"""Whether this driver's run is told to MLflow by a process that it shares with others.

A process that tells MLflow of a run takes 200 MB, most of it MLflow. Those drivers that a queue starts share
one (`ledger/mlflow/shared_process.py`); a run that somebody starts by hand has one of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.agent.facts import OWN
from orchestrator.config.schema import Config
from orchestrator.ledger.mlflow.shared_process import Place, place_of
from orchestrator.ledger.mlflow.uri import absolute_uri
from orchestrator.plan.plan import Plan

_folder: Path | None = None


def share_in(folder: Path) -> None:
    """This process's runs share with all others that were told the same folder, which has to be on a disk of
    this machine."""
    global _folder
    _folder = folder


def shared_place(config: Config, plan: Plan) -> Place | None:
    """Where this run's sink is to be found; None for one of its own."""
    if _folder is None:
        return None
    try:
        return place_of(_folder, absolute_uri(config.tracking.uri), plan.facts.get(OWN, ""), os.environ)
    except OSError:  # a disk that is full, say; one of its own needs nothing there
        return None
