"""Records <-> lines of the journal.

A run of months has millions of steps and few of anything else, so a step has a short form of its own:

    {"type":"StepDone","t":206.123,"step":400,"s":0.49987,"loss":2.345679,"lr":0.0003,"grad_norm":0.81204}

``t`` is the record's ``elapsed_s``, ``s`` the ``step_time_s``; what is not known is left out. So is what
follows from the line above: ``seq``, which is one more; ``try``, the attempt, where it is the same; and the
wall clock where it is as far from the one above as ``t`` is (after it was set, for instance, ``at`` gives
it). All other events, and the steps of older journals, are written in full
(:meth:`~orchestrator.records.record_to_json`).
"""

from __future__ import annotations

import json
from typing import Any

from orchestrator import papers
from orchestrator.events import Record, StepDone
from orchestrator.records import checked_record, record_from_body, record_to_json

_TYPE = StepDone.__name__
# What a step's short line may hold; all but the first four may be missing.
STEP_LINE = {
    "type": "`StepDone`",
    "t": "`elapsed_s` of the record",
    "step": "the step",
    "s": "its `step_time_s`",
    "seq": "of the record; left out where it is one more than that of the line above",
    "at": "`time_unix_s` of the record; left out where it is as far from that of the line above as `t` is",
    "try": "the `attempt`; left out where the line above is a step of the same one",
    "loss": "left out where it is not known",
    "lr": "left out where it is not known",
    "grad_norm": "left out where it is not known",
    "skipped": "true where the loss scale skipped the step; left out where it did not",
}
_KNOWN = ("loss", "lr", "grad_norm")


def line_of(record: Record, before: Record | None) -> str:
    """One line of JSON without newline; ``before`` is the record in the line above."""
    event = record.event
    if not isinstance(event, StepDone):
        return record_to_json(record)
    body: dict[str, Any] = {"type": _TYPE}
    if before is None:
        body["seq"] = record.seq
    body["t"] = record.elapsed_s
    if before is None or record.time_unix_s != time_after(before, record.elapsed_s):
        body["at"] = record.time_unix_s
    if _attempt_of(before) != event.attempt:
        body["try"] = event.attempt
    body |= {"step": event.step, "s": event.step_time_s}
    body |= {name: value for name in _KNOWN if (value := getattr(event, name)) is not None}
    body |= {"skipped": True} if event.skipped else {}
    return json.dumps(body, allow_nan=True, separators=(",", ":"))


def record_of(body: dict[str, Any], before: Record | None) -> Record:
    """Inverse of :func:`line_of`, from the line's JSON; ``ValueError``, ``KeyError`` or ``TypeError`` on all
    else."""
    if "t" not in body or body.pop("type") != _TYPE:
        return record_from_body(body)
    elapsed_s, time_unix_s = body.pop("t"), body.pop("at", None)
    seq = body.pop("seq") if before is None else body.pop("seq", before.seq + 1)
    attempt = body.pop("try", None) or _attempt_of(before)
    if attempt is None:
        raise KeyError("try")
    body["attempt"], body["step_time_s"] = attempt, body.pop("s")
    event = papers.made(StepDone, body)
    if time_unix_s is None:
        if before is None:
            raise KeyError("at")
        time_unix_s = time_after(before, elapsed_s)
    return checked_record(seq, elapsed_s, time_unix_s, event)


def _attempt_of(record: Record | None) -> int | None:
    return record.event.attempt if record is not None and isinstance(record.event, StepDone) else None


def time_after(before: Record, elapsed_s: float) -> float:
    """The wall clock at a later moment of the run, if nobody has set it meanwhile; to the millisecond."""
    return round(before.time_unix_s + (elapsed_s - before.elapsed_s), 3)
