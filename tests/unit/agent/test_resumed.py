"""The words of a rank, in an attempt that goes on from a checkpoint and in one that does not."""

from __future__ import annotations

import pytest

from orchestrator.agent.resumed import Origin, words_of

ARGS = ["--dir={checkpoint_dir}", "--skip={skip_batches}", "--own={mine}"]
PLACES = {"{checkpoint_dir}": "/kept", "{skip_batches}": ""}
FILLED = ["--dir=/kept", "--skip=", "--own={mine}"]
TOLD = ["--from={checkpoint}", "--at={resume_step}", "--try={attempt}", "--again"]


@pytest.mark.parametrize(
    ("origin", "added"),
    [
        (Origin(1), []),
        (Origin(2), ["--try=2"]),
        (
            Origin(2, "/kept/checkpoint-15", 15),
            ["--from=/kept/checkpoint-15", "--at=15", "--try=2", "--again"],
        ),
        (Origin(1, "/earlier", 0), ["--from=/earlier", "--at=0", "--try=1", "--again"]),
        (Origin(3, "/kept/ckpt.pt"), ["--from=/kept/ckpt.pt", "--try=3", "--again"]),
    ],
)
def test_words_are_added_where_there_is_a_checkpoint_and_empty_ones_left_out(
    origin: Origin, added: list[str]
) -> None:
    assert words_of(ARGS, TOLD, origin, PLACES) == [*FILLED, *added]


def test_a_job_s_own_arguments_may_ask_for_it_and_are_left_out_as_long_as_there_is_none() -> None:
    args = ["--first", "--resume={checkpoint}", "--seed={attempt}"]
    assert words_of(args, [], Origin(1), {}) == ["--first", "--seed=1"]
    assert words_of(args, [], Origin(2, "/kept", 5), {}) == ["--first", "--resume=/kept", "--seed=2"]
