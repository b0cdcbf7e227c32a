"""Slots when a process is killed while it stages, and when there is no room."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from orchestrator.checkpoint import arena
from orchestrator.checkpoint.arena import Slot, room_bytes
from orchestrator.checkpoint.free_space import cgroup_left
from tests.support.folders import PROJECT
from tests.support.rank_harness import environment, is_gone, wait_until
from tests.support.slot_harness import ABOUT, assert_same, new_slot, small_tmpfs, stage

_STAGER = """
import os, sys, torch
from orchestrator.checkpoint.arena import Slot

torch.set_num_threads(1)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        slot, step = Slot.open(sys.argv[1]), int(line)
        while True:
            slot.begin(1, f"global_step{step}", step, "/checkpoints", True)
            for number in range(4):
                slot.add(f"{number}.pt", {"w": torch.full((1 << 18,), float(step)), "step": step}, True)
            slot.finish()
            step += 1
    print(pid, flush=True)
    os.waitpid(pid, 0)
"""


@pytest.mark.real
def test_sigkill_leaves_a_whole_generation_or_none(tmp_path: Path) -> None:
    chance = random.Random(7)
    states = set()
    with new_slot(Path("/dev/shm")) as slot, new_slot(Path("/dev/shm")) as old:
        stage(old, {"0.pt": {"w": torch.ones(1000)}})
        path = f"/proc/{os.getpid()}/fd/{slot._fd}"
        stager = subprocess.Popen(
            [sys.executable, "-c", _STAGER, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(PYTHONPATH=str(PROJECT)),
            start_new_session=True,
        )
        assert stager.stdin is not None
        assert stager.stdout is not None
        try:
            for first in range(1000, 41_000, 1000):
                stager.stdin.write(f"{first}\n")
                stager.stdin.flush()
                pid = int(stager.stdout.readline())
                assert wait_until(lambda first=first: ((slot.header() or {}).get("step") or 0) > first)
                time.sleep(chance.uniform(0, 0.01))
                os.kill(pid, signal.SIGKILL)
                assert wait_until(lambda pid=pid: is_gone(pid))
                states.add(_whole_or_none(slot))
        finally:
            os.killpg(stager.pid, signal.SIGKILL)
            stager.wait()
            stager.stdin.close()
            stager.stdout.close()
        assert_same(old.load("0.pt"), {"w": torch.ones(1000)})
    assert "staging" in states, "the kill never struck in the middle"


def _whole_or_none(slot: Slot) -> str:
    header = slot.header()
    assert header is not None
    if header["state"] == "staging":
        assert slot.entries() == {}
    else:
        assert list(slot.entries()) == [f"{number}.pt" for number in range(4)]
        for name in slot.entries():
            found = slot.load(name)
            assert found["step"] == header["step"]
            assert torch.equal(found["w"], torch.full((1 << 18,), float(header["step"])))
    return str(header["state"])


@pytest.mark.parametrize("blind", [False, True], ids=["seen before", "met by the file system"])
def test_a_full_tmpfs_is_an_error_and_no_sigbus(
    tmp_path: Path, blind: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if blind:  # somebody else took it after the look
        monkeypatch.setattr(arena, "room", lambda fd: (1 << 60, errno.ENOSPC))
    with small_tmpfs(tmp_path / "small", 8 << 20) as folder, new_slot(folder) as slot:
        assert 7 << 20 <= room_bytes(folder) <= 8 << 20
        stage(slot, {"a.pt": {"w": torch.ones(1 << 20)}})  # 4 MiB
        slot.begin(**{**ABOUT, "step": 8})
        slot.add("a.pt", {"w": torch.zeros(1 << 20)}, True)
        with pytest.raises(OSError, match="space") as caught:
            slot.add("b.pt", {"w": torch.ones(1 << 21)}, True)
        assert caught.value.errno == errno.ENOSPC
        assert (slot.header() or {})["state"] == "staging"
        assert slot.load("a.pt")["w"].sum() == 0
        stage(slot, {"a.pt": {"w": torch.ones(1 << 20)}})
        assert slot.load("a.pt")["w"].sum() == 1 << 20


def test_a_limit_of_memory_is_told_from_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "room", lambda fd: (100 << 10, errno.ENOMEM))
    with new_slot(tmp_path) as slot:
        slot.begin(**ABOUT)
        with pytest.raises(OSError, match="102400 are left") as caught:
            slot.add("a.pt", {"w": torch.ones(1 << 16)}, True)
        assert caught.value.errno == errno.ENOMEM


def test_room_on_a_disk_is_what_is_free_there(tmp_path: Path) -> None:
    space = os.statvfs(tmp_path)
    assert room_bytes(tmp_path) == pytest.approx(space.f_bavail * space.f_frsize, rel=0.05)


def test_every_control_group_above_has_a_say(tmp_path: Path) -> None:
    def group(path: str, limit: str, used: int, cache: int, names: tuple[str, str, str]) -> None:
        folder = tmp_path / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cache}\n")

    new = ("memory.max", "memory.current", "inactive_file")
    old = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file")
    group("pod/box", "max", 10, 0, new)
    assert cgroup_left(tmp_path, "0::/pod/box\n") is None
    group("pod", "1000", 900, 300, new)
    assert cgroup_left(tmp_path, "0::/pod/box\n") == 400
    group("", "700", 650, 0, new)
    assert cgroup_left(tmp_path, "0::/pod/box\n") == 50
    group("memory/a", "80", 90, 0, old)
    assert cgroup_left(tmp_path, "4:memory:/a/b\n3:cpu:/a\n") == 0
    group("memory", "500", 100, 20, old)  # the path of the host, which a container does not see
    assert cgroup_left(tmp_path, "4:cpu,memory:/process_api/4f57\n0::/\n") == 50
    assert cgroup_left(tmp_path, "4:cpu,memory:/process_api/4f57\n") == 420
