"""What the kernel's counters say, from trees of files as a kernel has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.agent.check.counters import Periods, kernel_log, link_downs
from orchestrator.agent.check.storage import disk, shared_memory, there
from orchestrator.check.reports import Figure, What


def stat(folder: Path, periods: int, throttled: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.stat").write_text(f"usage_usec 1\nnr_periods {periods}\nnr_throttled {throttled}\n")


@pytest.mark.parametrize(
    ("line", "tree"),
    [("0::/pod/container\n", ""), ("5:devices:/\n1:cpu,cpuacct:/pod/container\n", "cpu,cpuacct")],
)
def test_a_quota_of_a_group_above_counts_too(line: str, tree: str, tmp_path: Path) -> None:
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    own.write_text(line)
    stat(root / tree / "pod" / "container", 0, 0)
    stat(root / tree / "pod", 100, 50)
    periods = Periods(root, own)
    assert periods.throttled() == 0.0
    stat(root / tree / "pod", 200, 140)
    assert periods.throttled() == pytest.approx(0.9)


def test_a_machine_without_groups_has_no_quota(tmp_path: Path) -> None:
    assert Periods(tmp_path, tmp_path / "none").throttled() == 0.0


def test_links_that_went_down_are_counted_by_nic(tmp_path: Path) -> None:
    counters = tmp_path / "infiniband" / "mlx5_0" / "ports" / "1" / "counters"
    counters.mkdir(parents=True)
    (counters / "link_downed").write_text("12\n")
    for name, hardware in (("eth0", True), ("veth1", False)):
        (tmp_path / "net" / name).mkdir(parents=True)
        (tmp_path / "net" / name / "carrier_down_count").write_text("3\n")
        if hardware:
            (tmp_path / "net" / name / "device").mkdir()
    assert link_downs(tmp_path) == [
        Figure(What.LINK_DOWNS, 12.0, device="mlx5_0:1"),
        Figure(What.LINK_DOWNS, 3.0, device="eth0"),
    ]


def test_a_log_that_may_not_be_read_says_nothing(tmp_path: Path) -> None:
    assert kernel_log(tmp_path / "none") == []
    (tmp_path / "log").write_text("4,1,1,-;one\n4,2,2,-;two\n")
    assert kernel_log(tmp_path / "log") == ["4,1,1,-;one", "4,2,2,-;two"]


def test_folders_are_written_to_and_nothing_is_left(tmp_path: Path) -> None:
    rate, room = disk(there(str(tmp_path / "not" / "there")), 0.05, most_bytes=8 << 20)
    assert (rate.what, room.what) == (What.DISK, What.DISK_ROOM)
    assert rate.value > 0
    assert room.value > 0
    assert [one.what for one in shared_memory(tmp_path, 0.05, most_bytes=1 << 20)] == [What.SHM_ROOM]
    assert list(tmp_path.iterdir()) == []
