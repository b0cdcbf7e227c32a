"""What is known of nodes across runs: ``RUN_ROOT/nodes.jsonl``, a line each time something is found, or
forgiven.

A node with a note that is ``bad`` and not forgiven since is avoided by runs with ``preflight``, and a queue
starts nothing on it. Lines are only ever appended, by several runs at once, so a crash leaves a torn last
line at the most, which is passed over.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from orchestrator import papers
from orchestrator.errors import RunDirectoryError
from orchestrator.files import open_no_link
from orchestrator.message_lines import Lines

FILE = "nodes.jsonl"
_MOST_BYTES = 64 << 20
_MOST_LINE_BYTES = 1 << 20


class NoteKind(StrEnum):
    """What a note does to a node."""

    BAD = "bad"  # it is avoided from here on
    ODD = "odd"  # it is only remembered
    LOST = "lost"  # a run lost it, for whatever reason: remembered
    WELL = "well"  # a check of it has found nothing: what a check had found is over
    FORGIVEN = "forgiven"  # by somebody: all before it is over


@dataclass(frozen=True, slots=True)
class NodeNote:
    """One thing that was found of a node."""

    node: str  # its name
    time_unix_s: float  # when it was found
    effect: str  # `bad`, `odd`, `lost`, `well` or `forgiven`
    by: str  # `check`, the name of a run, or of the user who forgave
    what: str  # which figure, or what kind of fault; empty for `well` and `forgiven`
    detail: str  # in words


_LINES: Lines[NodeNote] = Lines({"node": NodeNote})


@dataclass(frozen=True)
class NodeHistory:
    """All that is known of one node."""

    node: str  # its name
    avoided: bool  # whether runs with `preflight` leave it out, and a queue starts nothing on it
    why: list[str]  # of that, in words; empty where it is not avoided
    notes: list[NodeNote]  # oldest first


def add(run_root: str | Path, notes: Iterable[NodeNote]) -> None:
    """Append notes. Raises ``OSError`` where that cannot be done."""
    lines = b"".join(_LINES.encode(note) for note in notes)
    if not lines:
        return
    Path(run_root).mkdir(parents=True, exist_ok=True)
    with open_no_link(Path(run_root) / FILE, "a") as file:
        os.write(file.fileno(), lines)  # at once, so that lines of several runs do not mix


def histories(run_root: str | Path) -> dict[str, NodeHistory]:
    """By node, those with the newest word first; of lines that cannot be read nothing is said. Raises
    :class:`RunDirectoryError` where the file cannot be read."""
    by_node: dict[str, list[NodeNote]] = {}
    for note in _read(Path(run_root) / FILE):
        by_node.setdefault(note.node, []).append(note)
    found = [_history(node, notes) for node, notes in by_node.items()]
    return {one.node: one for one in sorted(found, key=lambda one: -one.notes[-1].time_unix_s)}


def avoided(run_root: str | Path) -> Mapping[str, str]:
    """The nodes that runs leave out, each with why. Raises :class:`RunDirectoryError` as `histories` does."""
    return AvoidedNodes(run_root).look()


class AvoidedNodes:
    """The same for whoever asks all the time: notes are read on from where the last look ended."""

    def __init__(self, run_root: str | Path) -> None:
        self._path = Path(run_root) / FILE
        self._bad: dict[str, list[NodeNote]] = {}
        self._file, self._read_to = 0, 0  # which file that is, by its inode, and how far it has been read

    def look(self) -> Mapping[str, str]:
        """The nodes to leave out now, each with why. Raises :class:`RunDirectoryError` where the notes cannot
        be read; what was read before stays known."""
        with _told_if_unreadable(self._path):
            for note in self._new_notes():
                self._bad[note.node] = _bad_after(self._bad.get(note.node, []), note)
        return {name: "; ".join(_why(bad)) for name, bad in self._bad.items() if bad}

    def _new_notes(self) -> Iterator[NodeNote]:
        try:
            file = papers.open_plain(self._path)
        except FileNotFoundError:
            self._bad, self._file, self._read_to = {}, 0, 0
            return
        with file:
            seen = os.fstat(file.fileno())
            if seen.st_ino != self._file or seen.st_size < self._read_to:  # another has taken its place
                self._bad, self._file, self._read_to = {}, seen.st_ino, 0
            file.seek(self._read_to)
            for line in iter(lambda: file.readline(_MOST_LINE_BYTES), b""):
                if not line.endswith(b"\n") and len(line) < _MOST_LINE_BYTES:
                    return  # its end is still to come
                self._read_to += len(line)
                yield from _notes([line])


def forgiven(node: str, by: str) -> NodeNote:
    """The note that ends all before it."""
    return NodeNote(node, time.time(), NoteKind.FORGIVEN, by, "", "")


def _history(node: str, notes: list[NodeNote]) -> NodeHistory:
    bad: list[NodeNote] = []
    for note in notes:
        bad = _bad_after(bad, note)
    return NodeHistory(node, bool(bad), _why(bad), notes)


def _bad_after(bad: list[NodeNote], note: NodeNote) -> list[NodeNote]:
    """What is held against a node once this is known, too."""
    match note.effect:
        case NoteKind.FORGIVEN:
            return []
        case NoteKind.WELL:
            return [one for one in bad if one.by != note.by]
        case NoteKind.BAD:
            return [*bad, note]
    return bad


def _why(bad: Iterable[NodeNote]) -> list[str]:
    return list(dict.fromkeys(f"{one.what}: {one.detail}" if one.detail else one.what for one in bad))


def _read(path: Path) -> list[NodeNote]:
    with _told_if_unreadable(path):
        try:
            return list(_notes(papers.read_bytes(path, _MOST_BYTES).split(b"\n")))
        except FileNotFoundError:
            return []


@contextlib.contextmanager
def _told_if_unreadable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, papers.PaperError) as error:
        why = getattr(error, "strerror", None) or error
        raise RunDirectoryError(
            f"{path}: what is known of nodes cannot be read ({why}); mend it, or move it away: then nothing"
            " is known of any"
        ) from None


def _notes(lines: Iterable[bytes]) -> Iterator[NodeNote]:
    for line in filter(None, lines):
        with contextlib.suppress(papers.PaperError):
            yield _LINES.decode(line)
