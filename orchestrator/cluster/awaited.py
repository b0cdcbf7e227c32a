"""Which ranks do the others wait for, and in what: from their process groups and, where these are not known,
from their stacks. Pure.

A collective ends when all ranks of its group have entered it. A rank that has entered fewer of a group's
collectives than others that wait there is *awaited*; so is one that waits in another operation than they do,
one that is stopped, and one that the kernel does not let go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.agent.hang_stacks import StackVerdict, name_culprits
from orchestrator.agent.messages import RankSeen
from orchestrator.agent.waits import Wait
from orchestrator.rank.messages import GroupSeen

_HELD = (Wait.STOPPED, Wait.DISK, Wait.GONE)


@dataclass(frozen=True)
class Awaited:
    """``ranks``: those that the others wait for; ``first``: those of them that do not themselves wait for one
    of the others, all where there is none. ``why`` completes the sentence "rank 3 …", "" where it is stopped
    and nobody waits for it yet."""

    ranks: list[int]
    first: list[int]
    why: str


def awaited(seen: Sequence[RankSeen]) -> Awaited | None:
    """None where nobody is known to wait for another."""
    reasons = _by_groups(seen) or _by_stacks(seen)
    held = [one.rank for one in seen if one.wait in _HELD]
    if held:
        return Awaited(held, held, reasons.get(held[0], ""))
    if not reasons:
        return None
    waits = {one.rank: bool(one.waits_in) or one.entered is True for one in seen}
    first = sorted(rank for rank in reasons if not waits[rank]) or sorted(reasons)
    return Awaited(sorted(reasons), first, reasons[first[0]])


def left_behind(seen: Sequence[RankSeen], left: int) -> Awaited | None:
    """The ranks that are there still while ``left`` others have ended with status 0: nobody of the run brings
    them back. None where nobody has ended, or where one of them may be reached from outside."""
    if not left or any(one.listens for one in seen):
        return None
    others = "the other rank, which has" if left == 1 else f"the {left} other ranks, which have"
    ranks = [one.rank for one in seen]
    return Awaited(ranks, ranks, f"is left behind by {others} ended with status 0")


def _by_groups(seen: Sequence[RankSeen]) -> dict[int, str]:
    reasons: dict[int, str] = {}
    for name in sorted({name for one in seen for name in one.groups}):
        members = {one.rank: one.groups[name] for one in seen if name in one.groups}
        if len(members) > 1:
            for rank, why in _in_group(members).items():
                reasons.setdefault(rank, why)
    if any(one.waits_in for one in seen):
        absent = [one for one in seen if not one.waits_in and one.entered is not True]
        # Of some nothing is known. And a message between two ranks is not numbered: one does not wait for it.
        silent = [one for one in absent if not one.groups] or (
            [] if reasons or not _between_two(seen) else absent
        )
        for one in silent:
            reasons.setdefault(one.rank, "has not come to where the others wait")
    return reasons


def _between_two(seen: Sequence[RankSeen]) -> bool:
    return any(group.peer and group.operation for one in seen for group in one.groups.values())


def _in_group(members: Mapping[int, GroupSeen]) -> dict[int, str]:
    """The ranks of one group that the others in it wait for."""
    most = max(group.entered for group in members.values())
    ahead = {rank: group for rank, group in members.items() if group.entered == most}
    waiting = {rank: group.operation for rank, group in ahead.items() if group.operation and not group.peer}
    if not waiting:
        return {}
    operations = Counter(waiting.values())
    operation = operations.most_common(1)[0][0]
    behind = sorted(set(members) - set(ahead))
    if behind:
        return dict.fromkeys(behind, f"never entered the {operation} that {_count(len(waiting))} in")
    if len(waiting) < len(members):  # some are through with it and go on
        return dict.fromkeys(waiting, f"is still in the {operation} that others have left")
    if len(operations) > 1:
        wanted = " and ".join(f"{one} on {_ranks(waiting, one)}" for one in sorted(operations))
        return dict.fromkeys(members, f"is in another collective than others: {wanted}")
    return dict.fromkeys(members, f"is in the same {operation} as all ranks of its group, and nothing moves")


def _by_stacks(seen: Sequence[RankSeen]) -> dict[int, str]:
    if any(one.groups for one in seen) or not any(one.entered for one in seen):
        return {}
    culprits = name_culprits([(one.rank, StackVerdict(one.entered, one.where, one.state)) for one in seen])
    if len(culprits) == len(seen):
        return {}
    return dict.fromkeys(culprits, "never entered the collective that the others wait in")


def _count(ranks: int) -> str:
    return "1 other rank waits" if ranks == 1 else f"{ranks} other ranks wait"


def _ranks(waiting: Mapping[int, str], operation: str) -> str:
    ranks = sorted(rank for rank, one in waiting.items() if one == operation)
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"{len(ranks)} ranks ({ranks[0]} first)"
