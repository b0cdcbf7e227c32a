"""A slot of memory that a rank stages its checkpoints in: its script may write there too, by mistake or
not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given

from orchestrator.checkpoint.arena import HEADER_BYTES, Slot
from tests.fuzz.inputs import bounded, damaged, files_of, fuzzed

ABOUT = {"attempt": 1, "tag": "t", "step": 3, "dir": "/c", "save_latest": True}
ENTRY = {
    "path": "a.pt",
    "skeleton_offset": HEADER_BYTES,
    "skeleton_bytes": 10,
    "data_offset": HEADER_BYTES,
    "data_bytes": 0,
    "zipfile": True,
}
TABLE = json.dumps([ENTRY]).encode()
AT = HEADER_BYTES + 10
HEADER: dict[str, Any] = {
    "state": "staged",
    **ABOUT,
    "table_offset": AT,
    "table_bytes": len(TABLE),
    "staged_unix_s": 1.8e9,
}
WRITTEN = {"attempt": 1, "tag": "t", "dir": "/c", "given_up": True}


@pytest.fixture
def fd() -> Iterator[int]:
    found = os.memfd_create("slot")
    yield found
    os.close(found)


def held(fd: int, header: bytes, written: bytes, table: bytes) -> Slot:
    os.ftruncate(fd, 0)
    os.pwrite(fd, header[:2047].ljust(2048, b"\0"), 0)
    os.pwrite(fd, written[:2047].ljust(2048, b"\0"), 2048)
    os.pwrite(fd, table, AT)
    os.ftruncate(fd, max(AT + len(table), HEADER_BYTES + 4096))
    return Slot(os.dup(fd))


def looked_at(slot: Slot) -> None:
    """What the agent reads of it, as `NodeSnapshots` does."""
    header, written = slot.header(), slot.written()
    assert written is None or all(name in written for name in ("attempt", "tag", "dir"))
    if header is not None:
        assert int(header["step"]) >= 0
        assert {name: header[name] for name in ("attempt", "tag", "dir")}
    for name in slot.entries():
        offset, length = slot.extent(name)
        assert isinstance(offset + length, int)
    slot.forget()


def test_what_was_staged_is_held(fd: int) -> None:
    slot = held(fd, json.dumps(HEADER).encode(), json.dumps(WRITTEN).encode(), TABLE)
    assert slot.header() == HEADER
    assert slot.written() == WRITTEN
    assert slot.entries() == {"a.pt": ENTRY}
    slot.close()


@fuzzed(100)
@given(header=files_of(HEADER), written=files_of(WRITTEN))
@example(header=b'{"state": "staged"}', written=b"{}")
@example(header=json.dumps(HEADER | {"step": "x"}).encode(), written=b"[]")
@example(header=json.dumps(HEADER | {"table_bytes": 1 << 40}).encode(), written=b"")
@example(header=json.dumps(HEADER | {"table_offset": -1}).encode(), written=b"")
@example(header=b"[" * 2000, written=b"[" * 2000)
def test_any_header(fd: int, header: bytes, written: bytes) -> None:
    slot = held(fd, header, written, TABLE)
    with bounded():
        looked_at(slot)
    slot.close()


@fuzzed(60)
@given(table=files_of([ENTRY]) | damaged(TABLE))
@example(table=b"[5]")
@example(table=json.dumps([ENTRY | {"data_offset": "x"}]).encode())
def test_any_table(fd: int, table: bytes) -> None:
    header = json.dumps(HEADER | {"table_bytes": len(table)}).encode()
    slot = held(fd, header, b"", table)
    with bounded():
        looked_at(slot)
    slot.close()
