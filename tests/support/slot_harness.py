"""What the tests of slots and their writer share: states of every kind, whether two are the same, and
requests."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from orchestrator.checkpoint.arena import Slot, open_slot_file
from orchestrator.checkpoint.manifest import FilePart
from orchestrator.checkpoint.writer import Writer
from orchestrator.checkpoint.writer_messages import ANSWERS, Answer, Request, Written

DTYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint64),
    *(torch.complex64, torch.complex128, torch.complex32),
]
ABOUT = {"attempt": 1, "tag": "global_step7", "step": 7, "dir": "/checkpoints", "save_latest": True}


@contextmanager
def new_slot(folder: Path) -> Iterator[Slot]:
    slot = Slot(open_slot_file(folder))
    try:
        yield slot
    finally:
        slot.close()


@contextmanager
def small_tmpfs(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system that is soon full; the test is skipped where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        # Lazily: a failed test's traceback may hold a descriptor in it.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def stage(slot: Slot, files: dict[str, Any], zipfile: bool = True, **about: Any) -> int:
    slot.begin(**{**ABOUT, **about})
    for name, state in files.items():
        slot.add(name, state, zipfile)
    return slot.finish()


def tensor_of(dtype: torch.dtype, count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.randint(0, 2, (count,), generator=generator).bool()
    size = count * torch.empty(0, dtype=dtype).element_size()  # any bits: NaN must keep its own, too
    return torch.randint(0, 256, (size,), generator=generator, dtype=torch.uint8).view(dtype)


@st.composite
def tensors(draw: st.DrawFn) -> list[torch.Tensor]:
    """A buffer and some tensors that look into it."""
    dtype = draw(st.sampled_from(DTYPES))
    flat = tensor_of(dtype, 24, draw(st.integers(0, 1000)))
    views = {
        "all": lambda: flat,
        "the same memory": lambda: flat.view(24),
        "part": lambda: flat[3:11],
        "other part": lambda: flat[11:12].reshape(()),
        "nothing": lambda: flat[5:5].view(0, 3),
        "transposed": lambda: flat.view(4, 6).t(),
        "steps": lambda: flat.view(4, 6)[:, ::2],
        "permuted with gaps": lambda: flat.view(2, 3, 4).permute(2, 0, 1)[1:],
        "expanded": lambda: flat[:3].view(3, 1).expand(3, 5),
        "overlapping": lambda: flat.as_strided((4, 3), (1, 1)),
        "attributes": lambda: _with_attributes(flat[:6], note="kept", inner=flat[2:4]),
    }
    if dtype.is_floating_point:
        views["parameter"] = lambda: torch.nn.Parameter(flat[:6])
        views["frozen parameter"] = lambda: torch.nn.Parameter(flat[:6], requires_grad=False)
        if dtype.itemsize > 1:  # torch.load itself fails on plain float8 tensors that require a gradient
            views["leaf with gradient"] = lambda: flat[2:4].detach().requires_grad_()
    if dtype.is_complex and dtype is not torch.complex32:
        views["conjugate"] = lambda: flat.conj()
    return [views[name]() for name in draw(st.lists(st.sampled_from(sorted(views)), min_size=1, max_size=6))]


def _with_attributes(tensor: torch.Tensor, **attributes: Any) -> torch.Tensor:
    tensor = tensor.detach()
    tensor.__dict__.update(attributes)
    return tensor


@st.composite
def states(draw: st.DrawFn) -> dict[str, Any]:
    pool = [tensor for group in draw(st.lists(tensors(), min_size=1, max_size=3)) for tensor in group]
    leaves = (
        st.integers(0, len(pool) - 1).map(pool.__getitem__) | st.none() | st.integers() | st.text(max_size=4)
    )
    nested = st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.tuples(inner, inner)
            | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=4)
            | st.dictionaries(st.text(max_size=3), inner, max_size=4).map(OrderedDict)
        ),
        max_leaves=12,
    )
    return {"drawn": draw(nested), "pool": pool}


def leaves_of(value: Any) -> Iterator[Any]:
    """In a fixed order, with the types of what holds them."""
    yield type(value)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from leaves_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from leaves_of(inner)
    else:
        yield value
        if isinstance(value, torch.Tensor):
            yield from leaves_of(value.__dict__)


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().resolve_conj().reshape(-1).contiguous().view(torch.uint8).tolist())


def assert_same(found: Any, expected: Any) -> None:
    """Equal in types, values, bits and strides, and tensors share memory where they did."""
    ours, theirs = list(leaves_of(found)), list(leaves_of(expected))
    assert len(ours) == len(theirs)
    pairs = []
    for mine, other in zip(ours, theirs, strict=True):
        if not isinstance(other, torch.Tensor):
            assert mine == other
            continue
        assert mine.device.type == "cpu"
        assert (mine.dtype, mine.shape, mine.requires_grad) == (other.dtype, other.shape, other.requires_grad)
        assert bits(mine) == bits(other)
        if other.is_contiguous() or (other.dim() == 2 and other.t().is_contiguous()):
            assert mine.stride() == other.stride()
        pairs.append((mine, other))
    for mine, other in pairs:
        for mine_too, other_too in pairs:
            if other.numel() and _place(other) == _place(other_too):
                assert mine.data_ptr() == mine_too.data_ptr()
            if other is other_too:
                assert mine is mine_too


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.is_conj()


# --- the writer

STATE = {"w": torch.arange(100_000.0), "step": torch.tensor(7), "names": ["a", "b"]}


def path_of(slot: Slot) -> str:
    return f"/proc/{os.getpid()}/fd/{slot._fd}"


def request(slot: Slot | None, to: Path, *files: str, number: int = 5) -> Request:
    """To the writer, for the generation that `stage` makes."""
    path = path_of(slot) if slot is not None else None
    return Request(number, ABOUT["attempt"], ABOUT["tag"], ABOUT["dir"], 0, str(to), path, list(files))


def never(_seconds: float) -> bool:
    raise AssertionError("nothing was to be waited for")


def write(wanted: Request, wait: Callable[[float], bool] = never, **seams: Any) -> list[Answer]:
    answers: list[Answer] = []
    Writer(answers.append, wait, **seams).handle(wanted)
    assert all(answer.id == 5 for answer in answers)
    assert [ANSWERS.decode(ANSWERS.encode(answer)) for answer in answers] == answers, (
        "what is answered is heard"
    )
    return answers


def assert_told_truly(answer: Answer, folder: Path) -> None:
    assert isinstance(answer, Written), answer
    for name, told in answer.files.items():
        data = (folder / name).read_bytes()
        assert told == FilePart(hashlib.sha256(data).hexdigest(), len(data), 0)
