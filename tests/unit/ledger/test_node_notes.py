"""What is remembered of nodes across runs, and when one is avoided."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import RunDirectoryError
from orchestrator.ledger.node_notes import (
    FILE,
    AvoidedNodes,
    NodeNote,
    NoteKind,
    add,
    avoided,
    forgiven,
    histories,
)


def note(node: str, kind: NoteKind, at_s: float = 1.0, by: str = "check", what: str = "XID") -> NodeNote:
    return NodeNote(node, at_s, kind, by, what, "79")


def test_nothing_is_known_where_nothing_was_found(tmp_path: Path) -> None:
    assert histories(tmp_path) == {}
    add(tmp_path, [])
    assert list(tmp_path.iterdir()) == []


def test_a_bad_node_is_avoided_until_it_is_forgiven_or_found_well(tmp_path: Path) -> None:
    add(tmp_path / "runs", [note("a", NoteKind.BAD), note("b", NoteKind.ODD), note("c", NoteKind.LOST, 2.0)])
    assert avoided(tmp_path / "runs") == {"a": "XID: 79"}
    assert list(histories(tmp_path / "runs")) == ["c", "a", "b"]
    add(tmp_path / "runs", [forgiven("a", "ada")])
    assert avoided(tmp_path / "runs") == {}
    add(tmp_path / "runs", [note("a", NoteKind.BAD)])
    assert list(avoided(tmp_path / "runs")) == ["a"]
    add(tmp_path / "runs", [note("a", NoteKind.WELL, what="")])
    assert avoided(tmp_path / "runs") == {}
    assert [one.effect for one in histories(tmp_path / "runs")["a"].notes] == [
        "bad",
        "forgiven",
        "bad",
        "well",
    ]


def test_what_a_run_found_no_check_forgives(tmp_path: Path) -> None:
    add(tmp_path, [note("a", NoteKind.BAD, by="night-1"), note("a", NoteKind.WELL)])
    assert list(avoided(tmp_path)) == ["a"]


def test_torn_and_strange_lines_are_passed_over(tmp_path: Path) -> None:
    add(tmp_path, [note("a", NoteKind.BAD)])
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"kind": "later", "node": "b"}\n\xff\xfe\n{"kind": "node", "no')
    assert list(avoided(tmp_path)) == ["a"]


KINDS = st.sampled_from(NoteKind)
WRITTEN = st.lists(
    st.one_of(
        st.builds(note, st.sampled_from("ab"), KINDS, by=st.sampled_from(["check", "night-1"])),
        st.sampled_from([b"\xff\n", b'{"kind": "node", "no', b"\n"]),
    ),
    max_size=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(WRITTEN, st.integers(1, 5))
def test_notes_that_are_read_on_say_what_all_together_say(
    tmp_path: Path, written: list[NodeNote | bytes], every: int
) -> None:
    (tmp_path / FILE).unlink(missing_ok=True)
    reader = AvoidedNodes(tmp_path)
    for number, one in enumerate(written):
        if isinstance(one, bytes):
            with (tmp_path / FILE).open("ab") as file:
                file.write(one)
        else:
            add(tmp_path, [one])
        if number % every == 0:
            assert reader.look() == by_histories(tmp_path)
    assert reader.look() == avoided(tmp_path) == by_histories(tmp_path)


def by_histories(folder: Path) -> dict[str, str]:
    return {name: "; ".join(one.why) for name, one in histories(folder).items() if one.avoided}


def test_notes_that_are_read_on_begin_anew_with_another_file(tmp_path: Path) -> None:
    reader = AvoidedNodes(tmp_path)
    assert reader.look() == {}
    add(tmp_path, [note("a", NoteKind.BAD)])
    assert reader.look() == {"a": "XID: 79"}
    (tmp_path / "other").mkdir()
    add(tmp_path / "other", [note("b", NoteKind.BAD), note("c", NoteKind.BAD)])
    (tmp_path / "other" / FILE).replace(tmp_path / FILE)
    assert list(reader.look()) == ["b", "c"]
    (tmp_path / FILE).write_bytes(b"")
    assert reader.look() == {}
    add(tmp_path, [note("d", NoteKind.BAD)])
    assert list(reader.look()) == ["d"]
    (tmp_path / FILE).unlink()
    assert reader.look() == {}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink(path, path)])
def test_what_cannot_be_read_is_told_with_a_remedy(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / FILE)
    for ask in (histories, avoided):
        with pytest.raises(RunDirectoryError, match=r"nodes.jsonl: what is known of nodes cannot be read \("):
            ask(tmp_path)
