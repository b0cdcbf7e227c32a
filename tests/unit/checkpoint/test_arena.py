"""Slots: any state comes back as it was, and a generation is there whole or not at all."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.checkpoint.arena import Slot, load_extent
from tests.support.slot_harness import ABOUT, assert_same, new_slot, stage, states


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@given(state=states(), zipfile=st.booleans())
@settings(max_examples=80)
def test_any_state_comes_back_as_it_was(state: dict[str, Any], zipfile: bool) -> None:
    with new_slot(Path("/dev/shm")) as slot:
        stage(slot, {"a.pt": state}, zipfile)
        found = slot.load("a.pt")
        stage(slot, {"a.pt": torch.full((4096,), 7, dtype=torch.uint8)})  # what was loaded is no view of this
        assert_same(found, state)


def test_what_is_no_plain_tensor_comes_back_too(tmp_path: Path) -> None:
    class_of_torch = torch.nn.Buffer(torch.arange(3.0))
    sparse = torch.eye(3).to_sparse()
    meta = torch.empty(5, 2, device="meta")
    state = {
        "sparse": sparse,
        "meta": meta,
        "buffer": class_of_torch,
        "size": torch.Size([1, 2]),
        "type": torch.int8,
    }
    with new_slot(tmp_path) as slot:
        stage(slot, {"a.pt": state})
        found = slot.load("a.pt")
    assert torch.equal(found["sparse"].to_dense(), torch.eye(3))
    assert (found["meta"].device.type, found["meta"].shape) == ("meta", (5, 2))
    assert torch.equal(found["buffer"], torch.arange(3.0))
    assert (found["size"], found["type"]) == (torch.Size([1, 2]), torch.int8)


def test_views_and_expanded_tensors_take_no_more_than_their_own(tmp_path: Path) -> None:
    buffer = torch.zeros(1 << 20)
    with new_slot(tmp_path) as slot:
        assert stage(slot, {"a.pt": {"view": buffer[5:15], "many": buffer[:1].expand(1 << 40)}}) < 2000
        assert slot.load("a.pt")["many"].shape == (1 << 40,)


def test_a_temporary_tensor_is_not_taken_for_the_next_at_its_address(tmp_path: Path) -> None:
    with new_slot(tmp_path) as slot:
        stage(slot, {"a.pt": [_MadeInPickling(number) for number in range(50)]})
        assert [found.item() for found in slot.load("a.pt")] == list(range(50))


class _MadeInPickling:
    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return torch.clone, (torch.tensor(self.number),)


def test_an_entry_is_loaded_from_a_copy_of_its_bytes_in_another_file(tmp_path: Path) -> None:
    state = {"weights": torch.arange(3000.0), "step": 3}
    with new_slot(tmp_path) as slot:
        stage(slot, {"first.pt": {"x": torch.ones(5)}, "second.pt": state})
        offset, length = slot.extent("second.pt")
        entry = slot.entries()["second.pt"]
        data = os.pread(slot._fd, length, offset)
    for start in (0, 64, 3 * 4096 + 128):
        copy = tmp_path / "copy"
        copy.write_bytes(b"\xff" * start + data)
        assert_same(load_extent(str(copy), start, entry), state)
    copy.write_bytes(data[:-1])
    with pytest.raises(EOFError, match=r"second\.pt"):
        load_extent(str(copy), 0, entry)


# --- generations


def test_a_new_slot_holds_nothing_and_nobody_sees_its_file(tmp_path: Path) -> None:
    with new_slot(tmp_path) as slot:
        assert slot.header() is None
        assert slot.written() is None
        assert slot.entries() == {}
        assert list(tmp_path.iterdir()) == []
        assert os.fstat(slot._fd).st_mode & 0o777 == 0o600
        slot.forget()
        assert slot.header() is None


def test_a_generation_is_there_from_finish_to_the_next_begin(tmp_path: Path) -> None:
    with new_slot(tmp_path) as slot:
        other = Slot.open(f"/proc/{os.getpid()}/fd/{slot._fd}")
        slot.begin(**ABOUT)
        slot.add("a.pt", {"x": torch.ones(4)}, True)
        assert other.header() == {"state": "staging", **ABOUT}
        assert other.entries() == {}
        assert list(slot.entries()) == ["a.pt"]  # who stages may still take it back
        assert slot.load("a.pt")["x"].sum() == 4
        slot.finish()
        header = other.header()
        assert header is not None
        assert header["state"] == "staged"
        assert abs(header["staged_unix_s"] - time.time()) < 60
        assert list(other.entries()) == ["a.pt"]
        with pytest.raises(FileNotFoundError, match=r"a\.pt.*b\.pt"):
            other.load("b.pt")
        other.mark_written(1, "global_step7", "/checkpoints")
        assert slot.written() == {"attempt": 1, "tag": "global_step7", "dir": "/checkpoints"}
        other.forget()
        assert (slot.header() or {})["state"] == "empty"
        assert (slot.header() or {})["step"] == 7
        assert slot.entries() == {}
        slot.begin(**{**ABOUT, "step": 8})
        assert other.entries() == {}
        other.close()


def test_the_old_generation_stays_while_the_other_slot_is_staged(tmp_path: Path) -> None:
    with new_slot(tmp_path) as old, new_slot(tmp_path) as new:
        stage(old, {"a.pt": {"step": 1, "w": torch.ones(1000)}}, step=1)
        new.begin(**{**ABOUT, "step": 2})
        new.add("a.pt", {"step": 2, "w": torch.zeros(1000)}, True)
        assert_same(old.load("a.pt"), {"step": 1, "w": torch.ones(1000)})


def test_memory_is_taken_once_and_used_again(tmp_path: Path) -> None:
    with new_slot(tmp_path) as slot:
        slot.reserve((1 << 20) + 4096)
        before, mapping = os.fstat(slot._fd).st_blocks, slot._mapping
        for step in range(3):
            stage(slot, {"a.pt": {"w": torch.full((1 << 18,), float(step))}}, step=step)
        assert slot.load("a.pt")["w"][0] == 2
        assert before * 512 >= 1 << 20
        assert os.fstat(slot._fd).st_blocks == before
        assert slot._mapping is mapping


def test_a_generation_that_lacks_a_file_is_not_finished(tmp_path: Path) -> None:
    with new_slot(tmp_path) as slot:
        with pytest.raises(RuntimeError, match="begin"):
            slot.add("a.pt", {}, True)
        slot.begin(**ABOUT)
        slot.add("a.pt", {}, True)
        with pytest.raises(AttributeError, match="pickle"):
            slot.add("b.pt", {"f": lambda: None}, True)
        slot.add("c.pt", {}, True)
        with pytest.raises(RuntimeError, match=r"every add\(\) succeeds"):
            slot.finish()
        assert (slot.header() or {})["state"] == "staging"
        stage(slot, {"a.pt": 1})
        assert slot.load("a.pt") == 1


def test_names_that_no_header_holds_are_refused(tmp_path: Path) -> None:
    with new_slot(tmp_path) as slot, pytest.raises(OSError, match="folder and tag") as caught:
        slot.begin(**{**ABOUT, "dir": "/" + "x" * 2000})
    assert caught.value.errno == errno.ENAMETOOLONG
