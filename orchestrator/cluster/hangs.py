"""No rank makes progress: look at all of them again and again, name those that keep the others waiting, and
end the attempt only where the evidence says that it cannot go on. Pure but for the question, which it asks
through a port.

Naming and ending are two things. A false alarm that ends a healthy run costs more than a late one, so an
attempt is ended when some ranks wait for others (:mod:`~orchestrator.cluster.awaited`), and nothing has
changed about any of those for `recovery.hang_evidence_s`, and none of them waits for something that may come
from elsewhere: a child, a timer, a terminal, a connection, a lock on a file. The same holds of ranks that
are left when all others of the attempt have ended well, and that nobody outside can reach: whom they could
wait for is gone. All else is named and left, until `recovery.hang_after_s` if that is set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.agent.hang_stacks import ANSWER_S
from orchestrator.agent.messages import RankSeen, RanksOverdue, RanksSeen
from orchestrator.agent.waits import Wait
from orchestrator.cluster.awaited import Awaited, awaited, left_behind
from orchestrator.events import Event, Fault, RankLost, StallNamed

# Nodes answer within seconds; a look that one does not take part in proves nothing.
_NODE_ANSWER_S = ANSWER_S + 5.0
_MOST_BETWEEN_LOOKS_S = 10.0
_LOOKS_TO_NAME = 3
SPINNING_AFTER_S = 1800.0
_BUSY_SHARE = 0.5
_MOST_DOUBLINGS = 10
_MOST_NAMED = 8


def all_overdue(overdue: Mapping[int, RanksOverdue], nodes: int) -> bool:
    """Whether no rank that is left makes progress; a node without ranks waits for nobody."""
    return (
        len(overdue) == nodes
        and all(one.all for one in overdue.values())
        and any(one.ranks for one in overdue.values())
    )


@dataclass
class _Stall:
    """From the moment that no rank makes progress to the moment that one does."""

    phase: str
    since_s: float
    limit_s: float
    named: bool = False
    spinning_named: bool = False


@dataclass
class HangWatch:
    """Follows one attempt. ``nodes`` are their names by index; ``ask`` has all of them look at their
    ranks."""

    attempt: int
    nodes: list[str]
    evidence_s: float
    after_s: float | None
    ask: Callable[[], object]
    _stall: _Stall | None = None
    _asked_s: float | None = None
    _next_s: float = 0.0
    _answers: dict[int, RanksSeen] = field(default_factory=dict)
    # by place: named there, and then went on by itself
    _went_on: Counter[str] = field(default_factory=Counter)
    _named_at: list[str] = field(default_factory=list)

    def receive(self, node_index: int, part: RanksSeen) -> None:
        """A node says where its ranks are."""
        self._answers[node_index] = part

    def poll(
        self, overdue: Mapping[int, RanksOverdue], step: int, now_s: float, left: int = 0
    ) -> list[Event]:
        """What follows now: a rank is named, or the attempt is to end because of it (:class:`RankLost`).
        ``left``: so many of its ranks have ended by themselves with status 0."""
        if not all_overdue(overdue, len(self.nodes)):
            self._moves_on()
            return []
        if self._stall is None:
            latest = min(
                (one for part in overdue.values() for one in part.ranks), key=lambda one: one.silent_s
            )
            self._stall = _Stall(latest.phase, now_s - latest.silent_s, latest.limit_s)
        if self._asked_s is None and now_s >= self._next_s:
            self._asked_s, self._answers = now_s, {}
            self.ask()
        if self._asked_s is None:
            return []
        if len(self._answers) < len(self.nodes):
            if now_s - self._asked_s >= _NODE_ANSWER_S:
                self._asked_s = None
            return []
        self._asked_s, self._next_s = None, now_s + self._between_s
        return self._judge(self._stall, ranks_seen(self.nodes, self._answers), step, now_s, left)

    @property
    def _between_s(self) -> float:
        return min(_MOST_BETWEEN_LOOKS_S, self.evidence_s / 6)

    def _moves_on(self) -> None:
        if self._stall is not None:
            self._went_on.update(self._named_at)
            self._stall, self._named_at, self._asked_s, self._next_s = None, [], None, 0.0

    def _judge(self, stall: _Stall, seen: list[RankSeen], step: int, now_s: float, left: int) -> list[Event]:
        if not seen or any(one.wait is Wait.GONE for one in seen):
            return []  # that is told by itself
        silent_s = now_s - stall.since_s
        cause = awaited(seen) or left_behind(seen, left)
        by_rank = {one.rank: one for one in seen}
        to_blame = [by_rank[rank] for rank in (cause.first if cause else by_rank)]
        if self._must_end(cause, by_rank, to_blame, silent_s):
            return [self._lost(stall, to_blame, len(seen), cause, step, silent_s)]
        if self._is_to_be_named(stall, to_blame, silent_s):
            stall.named = True
            self._named_at = [one.where for one in to_blame]
            return [self._named(stall, to_blame, len(seen), cause, step, silent_s)]
        if not stall.spinning_named and all(_spins(one) for one in to_blame):
            stall.spinning_named = True
            return [self._named(stall, to_blame, len(seen), cause, step, silent_s)]
        return []

    def _must_end(
        self,
        cause: Awaited | None,
        by_rank: Mapping[int, RankSeen],
        to_blame: Iterable[RankSeen],
        silent_s: float,
    ) -> bool:
        proven = cause is not None and all(
            by_rank[rank].endable and by_rank[rank].still_s >= self.evidence_s for rank in cause.ranks
        )
        given_up = (
            self.after_s is not None and silent_s >= self.after_s and all(_rests(one) for one in to_blame)
        )
        return proven or given_up

    def _is_to_be_named(self, stall: _Stall, to_blame: Iterable[RankSeen], silent_s: float) -> bool:
        """Not as long as it is seen in different places; and later where it was named before and then went
        on."""
        same_place_s = (_LOOKS_TO_NAME - 1) * self._between_s
        if stall.named or any(one.same_place_s < same_place_s for one in to_blame):
            return False
        before = max((self._went_on[one.where] for one in to_blame), default=0)
        return silent_s >= stall.limit_s * (1 << min(before, _MOST_DOUBLINGS))

    def _named(
        self,
        stall: _Stall,
        to_blame: list[RankSeen],
        ranks: int,
        cause: Awaited | None,
        step: int,
        silent_s: float,
    ) -> StallNamed:
        one = to_blame[0]
        return StallNamed(
            attempt=self.attempt,
            rank=one.rank,
            node=one.node,
            gpu=one.gpu,
            step=step,
            phase=stall.phase,
            silent_s=round(silent_s, 3),
            doing=f"has computed in the same place for {one.same_place_s:.0f} s"
            if _spins(one)
            else str(one.wait),
            where=one.where,
            awaited=_why(cause, to_blame, ranks),
            stack=list(one.stack),
            log_path=one.path,
        )

    def _lost(
        self,
        stall: _Stall,
        to_blame: list[RankSeen],
        ranks: int,
        cause: Awaited | None,
        step: int,
        silent_s: float,
    ) -> RankLost:
        one = to_blame[0]
        why = _why(cause, to_blame, ranks)
        place = f"rank {one.rank} {one.wait}{f' at {one.where}' if one.where else ''}"
        error = f"no progress for {silent_s:.0f} s in phase {stall.phase}{f'; {why}' if why else ''}; {place}"
        return RankLost(
            attempt=self.attempt,
            rank=one.rank,
            node=one.node,
            gpu=one.gpu,
            exit_status=0,
            step=step,
            reason=f"no rank made progress for {silent_s:.0f} s",
            error=error,
            log_tail=list(one.stack),
            log_path=one.path,
            alike=len(to_blame) if len(to_blame) < ranks else 1,
            fault=Fault.HANG,
            detected_s=round(silent_s, 3),
        )


def ranks_seen(nodes: list[str], answers: Mapping[int, RanksSeen]) -> list[RankSeen]:
    """All ranks that are left, in their order."""
    found = [replace(one, node=nodes[index]) for index, part in answers.items() for one in part.ranks]
    return sorted(found, key=lambda one: one.rank)


def _spins(one: RankSeen) -> bool:
    return one.same_place_s >= SPINNING_AFTER_S and one.cpu_share >= _BUSY_SHARE


def _rests(one: RankSeen) -> bool:
    return one.cpu_share < _BUSY_SHARE and one.wait is not Wait.DEBUGGER


def _why(cause: Awaited | None, to_blame: list[RankSeen], ranks: int) -> str:
    """Why these and not others: "ranks 1, 3 never entered the all_reduce that 6 other ranks wait in"."""
    if cause is None or not cause.why:
        return ""
    named = ", ".join(str(one.rank) for one in to_blame[:_MOST_NAMED])
    more = f" and {len(to_blame) - _MOST_NAMED} more" if len(to_blame) > _MOST_NAMED else ""
    if len(to_blame) == ranks > 1:
        return f"each rank {cause.why}"
    return f"rank {named} {cause.why}" if len(to_blame) == 1 else f"ranks {named}{more}: each {cause.why}"
