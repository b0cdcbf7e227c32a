"""The part of the schema that says who is told of a run: MLflow, and Ray's metrics."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.choices import MISSING, TrackedRanks
from orchestrator.config.ranges import Seconds, SecondsAbove0


@dataclass
class TrackingConfig:
    """Where MLflow records runs. Nothing here is on the path of a step."""

    uri: str = MISSING  # sqlite:///FILE or http(s)://HOST:PORT
    experiment: str = "orchestrator"  # the MLflow experiment of the runs
    required: bool = False  # refuse a run that MLflow cannot record, before it costs anything
    # of which ranks the script's own calls of MLflow arrive in the run: the first one's, or all with a prefix
    ranks: TrackedRanks = TrackedRanks.first
    flush_s: SecondsAbove0 = 2.0  # between two batches of metrics
    finish_timeout_s: Seconds = 60.0  # for what MLflow has not taken when the run ends
    connect_timeout_s: SecondsAbove0 = 3.0  # for MLflow to answer before a run
    system_metrics_every_s: SecondsAbove0 = 10.0  # between samples of a node's GPUs and processors


@dataclass
class MetricsConfig:
    """Gauges in Ray's metrics export, which everybody who reaches a node of several machines can read."""

    names: bool = False  # label them with run and cluster by name there too, and not by a number of the run
