"""What an agent says comes to the driver as it was said."""

from __future__ import annotations

import pickle
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agent.messages import Part, RankPhases, Unknown, decode, encode

KINDS = get_args(Part)


def test_every_kind_of_message_is_one_type_of_its_own() -> None:
    assert len({kind.__name__ for kind in KINDS}) == len(KINDS) > 15


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_message_comes_as_it_was_said(kind: type[Any], data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.from_type(kind), max_size=3))
    heard = decode(pickle.loads(pickle.dumps(encode(parts))))
    assert repr(heard) == repr(parts), "NaN is not equal to itself, but reads the same"


def test_what_this_version_does_not_know_is_told_by_its_kind_alone() -> None:
    assert decode([("Weather", ("blue",)), *encode([RankPhases(["step"])])]) == [
        Unknown("Weather"),
        RankPhases(["step"]),
    ]
