"""What a node's writer is asked and answers, as lines."""

from __future__ import annotations

import json

import pytest

from orchestrator.checkpoint.manifest import FilePart
from orchestrator.checkpoint.writer_messages import ANSWERS, REQUESTS, Failed, Freed, Held, Request, Written
from orchestrator.message_lines import UnknownKindError
from orchestrator.papers import PaperError

WRITTEN = Written(3, {"a/b.pt": FilePart("00ff", 12, 1), "ü\n": FilePart("", 0, 0)}, 0.25)


def test_what_is_asked_and_answered_is_heard_as_it_was_said() -> None:
    request = Request(1, 2, "step-3", "/c", 0, "/c/.attempts/x", None, ["a", "b"])
    assert REQUESTS.decode(REQUESTS.encode(request)) == request
    for answer in (WRITTEN, Held(1, "no space"), Freed(1, 2), Failed(1, "it is gone")):
        line = ANSWERS.encode(answer)
        assert line.index(b"\n") == len(line) - 1
        heard = ANSWERS.decode(line)
        assert heard == answer
        assert type(heard) is type(answer)


def test_what_is_no_answer_says_why() -> None:
    body = json.loads(ANSWERS.encode(WRITTEN))
    for files, why in (
        ([], "files is a list of 0"),
        ({"a": 1}, "1 is no object"),
        ({"a": {"sha256": "0", "bytes": "12", "rank": 0}}, "bytes is '12'"),
        ({"a": {"sha256": "0", "bytes": 12}}, "missing"),
    ):
        with pytest.raises(PaperError, match=why):
            ANSWERS.decode(json.dumps(body | {"files": files}).encode())
    with pytest.raises(UnknownKindError, match="'burnt'"):
        ANSWERS.decode(json.dumps(body | {"kind": "burnt"}).encode())
    with pytest.raises(PaperError, match="no object with a kind"):
        ANSWERS.decode(b"[]")
