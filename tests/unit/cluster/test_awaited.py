"""Whom the others wait for, from what their process groups and stacks tell."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agent.messages import RankSeen
from orchestrator.agent.waits import Wait
from orchestrator.cluster.awaited import Awaited, awaited
from orchestrator.rank.messages import GroupSeen

IDLE = {"node": "n0", "gpu": "GPU 0", "endable": True, "still_s": 0.0, "same_place_s": 0.0, "cpu_share": 0.0}


def rank(
    number: int, *, wait: Wait = Wait.LOCK, entered: bool | None = None, **groups: GroupSeen
) -> RankSeen:
    return RankSeen(number, wait=wait, entered=entered, groups=groups, **IDLE)  # type: ignore[arg-type]


def in_(entered: int, operation: str = "", peer: bool = False) -> GroupSeen:
    return GroupSeen(entered, operation, peer)


def test_those_that_have_entered_fewer_collectives_than_others_wait_in() -> None:
    seen = [
        rank(0, w=in_(8, "all_reduce")),
        rank(1, w=in_(7)),
        rank(2, w=in_(8, "all_reduce")),
        rank(3, w=in_(7)),
    ]
    assert awaited(seen) == Awaited([1, 3], [1, 3], "never entered the all_reduce that 2 other ranks wait in")


def test_one_that_waits_elsewhere_is_not_the_first_cause() -> None:
    """0 waits for 1 in one group, 1 for 2 in another, and 2 for nobody."""
    seen = [
        rank(0, a=in_(5, "all_gather")),
        rank(1, a=in_(4), b=in_(3, "barrier")),
        rank(2, b=in_(2)),
    ]
    assert awaited(seen) == Awaited([1, 2], [2], "never entered the barrier that 1 other rank waits in")


def test_ranks_that_wait_for_each_other_in_a_circle_are_all_to_blame() -> None:
    seen = [rank(0, a=in_(5, "all_gather"), b=in_(2)), rank(1, a=in_(4), b=in_(3, "barrier"))]
    found = awaited(seen)
    assert found is not None
    assert (found.ranks, found.first) == ([0, 1], [0, 1])


def test_different_operations_under_one_number() -> None:
    found = awaited(
        [rank(0, w=in_(8, "all_reduce")), rank(1, w=in_(8, "broadcast")), rank(2, w=in_(8, "all_reduce"))]
    )
    assert found is not None
    assert found.ranks == [0, 1, 2]
    assert found.why.endswith("all_reduce on 2 ranks (0 first) and broadcast on rank 1")


def test_all_in_one_that_does_not_end() -> None:
    found = awaited([rank(0, w=in_(8, "all_reduce")), rank(1, w=in_(8, "all_reduce"))])
    assert found is not None
    assert found.ranks == [0, 1]
    assert "nothing moves" in found.why


def test_one_that_is_still_in_what_others_have_left() -> None:
    found = awaited([rank(0, w=in_(8)), rank(1, w=in_(8, "reduce"))])
    assert found == Awaited([1], [1], "is still in the reduce that others have left")


def test_between_two_ranks_those_are_awaited_that_do_not_wait() -> None:
    seen = [rank(0, p=in_(0, "recv 0<-1", peer=True)), rank(1, p=in_(0))]
    assert awaited(seen) == Awaited([1], [1], "has not come to where the others wait")


def test_one_that_cannot_tell_is_awaited_by_those_that_can() -> None:
    assert awaited([rank(0, w=in_(8, "all_reduce")), rank(1)]) == Awaited(
        [1], [1], "has not come to where the others wait"
    )


def test_stacks_tell_where_no_group_does() -> None:
    assert awaited([rank(0, entered=True), rank(1, entered=False)]) == Awaited(
        [1], [1], "never entered the collective that the others wait in"
    )
    assert awaited([rank(0, entered=True), rank(1, entered=True)]) is None


def test_stopped_ranks_come_first() -> None:
    seen = [rank(0, w=in_(8, "all_reduce")), rank(1, w=in_(7)), rank(2, wait=Wait.STOPPED)]
    assert awaited(seen) == Awaited([2], [2], "has not come to where the others wait")
    assert awaited(seen[1:]) == Awaited([2], [2], "")


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("abc"),
            st.builds(
                GroupSeen, st.integers(0, 3), st.sampled_from(["", "all_reduce", "barrier"]), st.booleans()
            ),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_nobody_is_awaited_unless_somebody_waits(groups: list[dict[str, GroupSeen]]) -> None:
    seen = [rank(number, **one) for number, one in enumerate(groups)]
    found = awaited(seen)
    if found is not None:
        assert any(one.waits_in for one in seen)
        assert set(found.first) <= set(found.ranks)
        assert found.why
