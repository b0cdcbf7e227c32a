"""Faults of what is saved: full disks, little memory, damage.

==================================  =======================  =========================================================
fault                               time                     expected
==================================  =======================  =========================================================
disk full                           in the training, then    told once, no restart; committed when there is space
                                    freed
disk full to the last byte          the same                 the same
disk full                           and a rank killed while  restart from memory, which the disk does not hold
                                    it is
arena too small                     from the start           said before the run; saved to the disk by the ranks
the same, and rank SIGKILL          between two checkpoints  restart from the disk
arena full                          at the second save       the same, by what is left of memory
shard truncated                     while no driver is there quarantined with its name, the checkpoint before it is used
shard with a flipped bit            the same                 the same
shard missing                       the same                 the same
manifest missing                    the same                 the checkpoint before it is used
all checkpoints damaged             the same                 all quarantined, from the beginning
`latest` missing, empty, wrong      the same                 repaired, nothing lost
==================================  =======================  =========================================================
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGKILL

import psutil
import pytest

from orchestrator.events import (
    AttemptStarted,
    CheckpointSaved,
    CheckpointWriteBlocked,
    CheckpointWriteResumed,
    Decided,
    Fault,
    RankLost,
    ResourcesGranted,
    SnapshotCommitted,
    SnapshotQuarantined,
)
from tests.faults.disks import MB, NoDisksError, fill, free, mount, unmount
from tests.faults.faults import event, fail
from tests.faults.invariants import finished_like, holds, nothing_left, wait_until
from tests.faults.runs import MARKS, STEPS, Run, User
from tests.support.processes import title

pytestmark = MARKS

# One checkpoint of the job takes 26 MB on the disk, 13 MB of a rank's memory.
SHARD = "zero_pp_rank_1_mp_rank_00_optim_states.pt"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Callable[[str, int], Path]]:
    """Folders with a limit of their own, in MB: file systems in memory."""
    mounted: list[Path] = []

    def make(name: str, size_mb: int) -> Path:
        try:
            mounted.append(mount(tmp_path / name, size_mb))
        except NoDisksError as error:
            pytest.skip(str(error))
        return mounted[-1]

    yield make
    for folder in mounted:
        unmount(folder)


def test_disk_full_and_freed(keeper: User, whole: Run, small: Callable[[str, int], Path]) -> None:
    disk = small("disk", 120)
    run = keeper.start("disk-full", f"job.checkpoint_dir={disk}", "job.args.checkpoint_every=3")
    run.wait_for(SnapshotCommitted, step=3)
    fill(disk, leaving_bytes=MB)
    run.wait_for(CheckpointWriteBlocked)
    went_on(run, disk, whole)
    assert len(run.of(CheckpointWriteResumed)) == len(run.of(CheckpointWriteBlocked)), "told once each"
    assert not run.of(RankLost)


def test_disk_full_to_the_last_byte(keeper: User, whole: Run, small: Callable[[str, int], Path]) -> None:
    disk = small("disk", 120)
    run = keeper.start("disk-quite-full", f"job.checkpoint_dir={disk}", "job.args.checkpoint_every=3")
    run.wait_for(SnapshotCommitted, step=3)
    fill(disk)
    run.wait_for(CheckpointWriteBlocked)
    went_on(run, disk, whole)
    assert not run.of(RankLost)


def test_an_agent_that_dies_with_the_last_checkpoint_after_its_ranks_have_ended(
    keeper: User, whole: Run, small: Callable[[str, int], Path]
) -> None:
    """What all ranks did is not done while it is in memory alone."""
    disk = small("disk", 120)
    run = keeper.start(
        "agent-killed-at-the-end", f"job.checkpoint_dir={disk}", "job.args.checkpoint_every=12"
    )
    run.wait_for(SnapshotCommitted, step=12)
    fill(disk, leaving_bytes=MB)
    run.hurry()
    run.wait_for(CheckpointSaved, step=STEPS)
    assert wait_until(lambda: not named(run, "orchestrator rank "), 60)
    (agent,) = named(run, "ray::NodeAgent")
    agent.kill()
    free(disk)
    run.ended()
    assert run.code == 0, run.text
    holds(run)
    (lost,) = run.of(RankLost)
    # Whether the driver had heard of the ranks' end by then: tests/unit/cluster/test_group.py has the one
    # that had.
    assert (lost.fault, lost.step) == (Fault.NODE, STEPS)
    assert [event.action for event in run.of(Decided)] == ["replace"]
    assert run.losses() == whole.losses()
    assert run.of(SnapshotCommitted)[-1].step == STEPS
    assert (disk / "latest").read_text() == f"step-{STEPS:06d}"


def named(run: Run, words: str) -> list[psutil.Process]:
    return [process for process in run.family() if words in title(process)]


def went_on(run: Run, disk: Path, whole: Run) -> None:
    """The run is held by the disk and trains on, as far as its memory goes; with space it goes to its end."""
    run.wait_for(CheckpointSaved, step=9)
    free(disk)
    run.ended()
    assert run.code == 0, run.text
    holds(run)
    assert run.losses() == whole.losses()
    assert run.of(SnapshotCommitted)[-1].step == STEPS
    assert (disk / "latest").read_text() == f"step-{STEPS:06d}"
    assert list((disk / ".attempts").glob("*")) == []


def test_disk_full_and_a_rank_killed(keeper: User, whole: Run, small: Callable[[str, int], Path]) -> None:
    disk = small("disk", 120)
    fault = fail(rank=1).at(step=14).by(SIGKILL)
    run = keeper.start("disk-full-killed", fault, f"job.checkpoint_dir={disk}")
    run.wait_for(SnapshotCommitted, step=6)
    fill(disk, leaving_bytes=MB)
    run.wait_for(CheckpointWriteBlocked)
    run.wait_for(AttemptStarted, attempt=2)
    free(disk)
    run.ended()
    assert run.code == 0, run.text
    holds(run)
    assert run.losses() == whole.losses()
    _, second = run.of(AttemptStarted)
    assert (second.restore_step, second.restore_from) == (12, "memory")
    assert [e.step for e in run.of(SnapshotCommitted)][-1] == STEPS


def test_arena_too_small(keeper: User, whole: Run, small: Callable[[str, int], Path]) -> None:
    memory = small("memory", 8)
    fault = fail(rank=1).at(step=9).by(SIGKILL)
    run = keeper.start("no-arena", fault, f"snapshot.dirs=[{memory},durable]").ended()
    finished_like(run, whole)
    (remark,) = run.of(ResourcesGranted)[0].warnings
    assert f"{memory} has room for" in remark
    assert "training waits for every save" in remark
    assert remark in " ".join(run.text.split()), "said on the screen"
    _, second = run.of(AttemptStarted)
    assert (second.restore_step, second.restore_from) == (6, "disk")


def test_arena_that_fills_up(keeper: User, whole: Run, small: Callable[[str, int], Path]) -> None:
    """Room for two generations when it was chosen; somebody else takes it after the first."""
    memory = small("memory", 100)
    run = keeper.start("arena-full", f"snapshot.dirs=[{memory},durable]", "job.args.checkpoint_every=4")
    run.wait_for(CheckpointSaved, step=4)
    fill(memory)
    run.ended()
    finished_like(run, whole)
    assert [e.step for e in run.of(SnapshotCommitted)][-1] == STEPS
    assert not run.of(RankLost)


def truncated(folder: Path) -> None:
    os.truncate(folder / SHARD, (folder / SHARD).stat().st_size - 100)


def flipped(folder: Path) -> None:
    with (folder / SHARD).open("r+b") as file:
        file.seek((folder / SHARD).stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 4]))


def missing(folder: Path) -> None:
    (folder / SHARD).unlink()


def without_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.fixture(scope="module")
def as_it_was(keeper: User, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a run whose driver was killed when steps 6 and 12 were committed."""
    fault = fail(driver=True).during(event(SnapshotCommitted, step=12)).later(0.1).by(SIGKILL)
    run = keeper.start("interrupted", fault, "snapshot.park_s=0").ended()  # it is the disk that is read
    assert run.code == -SIGKILL
    nothing_left(run)
    return Path(shutil.copytree(run.folder, tmp_path_factory.mktemp("as-it-was") / run.name))


@pytest.fixture
def interrupted(keeper: User, as_it_was: Path) -> Path:
    """That run, to be damaged and resumed."""
    folder = keeper.folder / "runs" / as_it_was.name
    shutil.rmtree(folder)
    return Path(shutil.copytree(as_it_was, folder))


@pytest.mark.parametrize("damage", [truncated, flipped, missing])
def test_a_damaged_shard(damage: Callable[[Path], None], interrupted: Path, keeper: User, whole: Run) -> None:
    damage(interrupted / "checkpoints" / "step-000012")
    run = keeper.resume(interrupted.name).ended()
    finished_like(run, whole)
    (put_aside,) = run.of(SnapshotQuarantined)
    assert (put_aside.step, put_aside.tag) == (12, "step-000012")
    assert SHARD in put_aside.reason
    assert SHARD in Path(put_aside.path, "reason.txt").read_text()
    assert [e.restore_step for e in run.of(AttemptStarted)] == [None, 6]


def test_a_checkpoint_without_its_manifest(interrupted: Path, keeper: User, whole: Run) -> None:
    without_manifest(interrupted / "checkpoints" / "step-000012")
    run = keeper.resume(interrupted.name).ended()
    finished_like(run, whole)
    assert [e.restore_step for e in run.of(AttemptStarted)] == [None, 6]


def test_all_checkpoints_damaged(interrupted: Path, keeper: User, whole: Run) -> None:
    truncated(interrupted / "checkpoints" / "step-000012")
    flipped(interrupted / "checkpoints" / "step-000006")
    run = keeper.resume(interrupted.name).ended()
    finished_like(run, whole)
    assert [e.step for e in run.of(SnapshotQuarantined)] == [12, 6]
    assert [e.restore_step for e in run.of(AttemptStarted)] == [None, None]


@pytest.mark.parametrize("text", [None, "", "step-000099"])
def test_latest_is_not_what_it_should_be(
    text: str | None, interrupted: Path, keeper: User, whole: Run
) -> None:
    latest = interrupted / "checkpoints" / "latest"
    latest.unlink() if text is None else latest.write_text(text)
    run = keeper.resume(interrupted.name).ended()
    finished_like(run, whole)
    assert [e.restore_step for e in run.of(AttemptStarted)] == [None, 12]
    assert not run.of(SnapshotQuarantined)
