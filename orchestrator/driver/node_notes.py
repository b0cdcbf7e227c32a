"""What a check, or a run, remembers of nodes for later runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.check.findings import Finding, Grave, in_words
from orchestrator.check.verdict import evidence_in_words
from orchestrator.driver.check import CheckSeen
from orchestrator.events import NodeQuarantined, RankLost, Record, RunResumed, RunStarted
from orchestrator.ledger import node_notes
from orchestrator.ledger.bill import Bill
from orchestrator.ledger.node_notes import NodeNote, NoteKind
from orchestrator.vocabulary import Fault, Verdict

CHECK = "check"


def finding_in_words(one: Finding) -> str:
    """Without the node: the figure, what is expected, and what it means."""
    gpu = f"GPU {one.gpu}: " if one.gpu is not None else ""
    measured = in_words(one.what, one.measured)
    expected = f", expected {in_words(one.what, one.expected)}" if measured and one.expected else ""
    detail = ", ".join(filter(None, (f"{measured}{expected}", one.detail)))
    return f"{gpu}{detail}"


def remember_check(run_root: str, seen: CheckSeen, warn: Callable[[str], None]) -> None:
    """One note for each finding, and one for each node that is well. Both ends of a slow link are suspects
    and nobody is avoided for it."""
    now_s, found = time.time(), []
    for one in seen.findings:
        alone = len(one.nodes) == 1
        kind = NoteKind.BAD if one.grave is Grave.BAD and alone else NoteKind.ODD
        found += [
            NodeNote(node, now_s, kind, CHECK, str(one.what), finding_in_words(one)) for node in one.nodes
        ]
    ill = {note.node for note in found if note.effect == NoteKind.BAD}
    found += [NodeNote(node, now_s, NoteKind.WELL, CHECK, "", "") for node in seen.nodes if node not in ill]
    _add(run_root, found, warn)


class RunNotes:
    """An observer of a run: nodes that it lost, or does not use any more, are remembered."""

    def __init__(self, run_root: str, notice: Callable[[str], None]) -> None:
        self._run_root, self._notice, self._run = str(Path(run_root).resolve()), notice, "a run"

    def observe(self, record: Record, bill: Bill) -> None:
        match record.event:
            case RunStarted(run=name) | RunResumed(run=name):
                self._run = name
            case RankLost(fault=Fault.NODE) as lost:
                self._note(record, lost.node, NoteKind.LOST, str(lost.fault), lost.error or lost.reason)
            case RankLost(verdict=Verdict.HARDWARE) as lost:
                detail = f"{lost.gpu}: {evidence_in_words(lost.evidence)}"
                self._note(record, lost.node, NoteKind.BAD, str(lost.verdict), detail)
            case NodeQuarantined(node, reason):
                self._note(record, node, NoteKind.LOST, "quarantined", reason)

    def _note(self, record: Record, node: str, kind: NoteKind, what: str, detail: str) -> None:
        _add(
            self._run_root, [NodeNote(node, record.time_unix_s, kind, self._run, what, detail)], self._notice
        )


def _add(run_root: str, notes: list[NodeNote], warn: Callable[[str], None]) -> None:
    try:
        node_notes.add(run_root, notes)
    except OSError as error:
        path = Path(run_root) / node_notes.FILE
        warn(f"{path}: what was found of nodes is not remembered ({error.strerror})")
