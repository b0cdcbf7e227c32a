"""Questions to Prometheus: each a gauge by its name, so that one that is not there cannot be asked for."""

from __future__ import annotations

from orchestrator.ledger.monitoring.gauges import EXPORTED, GAUGES, LABELS, RUN_GAUGES

_OF_RUNS = frozenset(gauge.name for gauge in RUN_GAUGES)
# What a dashboard's reader has chosen; all of it, unless told otherwise.
CHOSEN = 'run=~"$run",cluster=~"$cluster"'


def exported(name: str) -> str:
    """As Prometheus has it. Raises :class:`KeyError` for a gauge that is not there."""
    return f"{EXPORTED}{GAUGES[name].name}"


def one_each(name: str, chosen: str = "") -> str:
    """One series for each run, or for each line of the queue: the export also says which process tells it,
    and a run that was just taken up is told by two."""
    return f"max{_by(name)} ({_asked(name, chosen)})"


def gained(name: str, over: str, chosen: str = "") -> str:
    """By how much a run's has grown in a stretch of time, told by however many processes."""
    return f"sum by ({', '.join(LABELS)}) (delta({_asked(name, chosen)}[{over}]))"


def in_all(name: str, by: str = "", chosen: str = "") -> str:
    """Their sum, for each value of a label."""
    return f"sum{f' by ({by})' if by else ''} ({one_each(name, chosen)})"


def goodput_of_late(over: str, chosen: str = "") -> str:
    """Training share of what each run held in this stretch, for those that have held anything in it."""
    comma = "," if chosen else ""
    trained = gained("orchestrator_bucket_s", over, f'{chosen}{comma}bucket="training"')
    held = gained("orchestrator_bucket_s", over, f'{chosen}{comma}bucket!="waiting"')
    return f"{trained} / ({held} > 0)"


def _asked(name: str, chosen: str) -> str:
    return f"{exported(name)}{{{chosen}}}" if chosen else exported(name)


def _by(name: str) -> str:
    labels = ", ".join((*(LABELS if name in _OF_RUNS else ()), *GAUGES[name].more))
    return f" by ({labels})" if labels else ""
