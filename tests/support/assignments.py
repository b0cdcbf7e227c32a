"""An assignment as a driver would make it, of which a test says only what it is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from orchestrator.agent.assignment import NO_SECRETS, Assignment, Places, Program, Ranks, ScriptTracking
from orchestrator.config.schema import LaunchConfig, RecoveryConfig, SnapshotConfig, TrackedRanks
from orchestrator.vocabulary import ProgramKind

_USUAL = Assignment(
    run="r",
    number="0123456789ab",
    began_unix_s=0.0,
    places=Places("/home/me/project/runs/r", None, "/home/me/project/runs/r/checkpoints"),
    program=Program(
        script="/home/me/project/train/main.py",
        args=["--data=/home/me/project/books,stdlib", "--dir={run_dir}", "--lr=1e-3", "plain"],
        resume_args=[],
        cwd="/home/me/project",
        corpus=["/home/me/project/books", "relative", "/data/all"],
        environment={},
        deepspeed={},
        deepspeed_assumed=[],
        kind=ProgramKind.SCRIPT,
        module=None,
        preload=[],
    ),
    ranks=Ranks(
        per_node=2, world_size=4, device="cpu", unit="CPU core", product_names=[], usd_per_gpu_hour=0.0
    ),
    secrets=NO_SECRETS,
    recovery=RecoveryConfig(kill_grace_s=1.0, stop_signals=[]),
    snapshot=SnapshotConfig(enabled=False, dirs=[]),
    launch=LaunchConfig(zygote=False, log_max_bytes=None),
    tracking=ScriptTracking(experiment="orchestrator", ranks=TrackedRanks.first),
    expected={},
    system_metrics_every_s=1.0,
    last_step=None,
    mtbf_s=0.0,
    snapshot_bytes=None,
    warm_idle_timeout_s=None,
)
_PARTS = ("places", "program", "ranks", "secrets", "recovery", "snapshot", "launch", "tracking")


def assignment(**changes: Any) -> Assignment:
    """Two nodes of two ranks on processor cores, changed. A change names a field of :class:`Assignment`, a
    field that one of its parts alone has (``cwd``), or a part and its field (``snapshot_dirs``)."""
    return changed(_USUAL, changes)


def changed(usual: Assignment, changes: Mapping[str, Any]) -> Assignment:
    """The assignment with these values in it. Raises ``ValueError`` for a name that is no field, or of two
    parts."""
    for name, value in changes.items():
        owner, field = _where(usual, name)
        part = replace(getattr(usual, owner), **{field: value}) if owner else value
        usual = replace(usual, **{owner or field: part})
    return usual


def _where(usual: Assignment, name: str) -> tuple[str, str]:
    """Part and field; the part is empty for a field of the assignment itself."""
    if name in (each.name for each in fields(usual)):
        return "", name
    all_fields = [(part, each.name) for part in _PARTS for each in fields(getattr(usual, part))]
    named = [(part, field) for part, field in all_fields if name == f"{part}_{field}"]
    found = named or [(part, field) for part, field in all_fields if name == field]
    if len(found) != 1:
        raise ValueError(f"{name}: the field of {len(found)} parts of an assignment")
    return found[0]
