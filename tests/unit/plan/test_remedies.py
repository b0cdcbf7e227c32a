"""What a change costs is known from what it is, and not from how its overrides are spelt."""

from __future__ import annotations

from orchestrator.plan.search.remedies import _Change


def test_offload_is_dear_whatever_the_words_are() -> None:
    turns = (1, 0, 0, 0)
    plain, offloaded = (
        _Change(turns, ("deepspeed=offloaded_by_name",), False),
        _Change(turns, ("deepspeed=z",), True),
    )
    assert offloaded.cost == plain.cost + 20
