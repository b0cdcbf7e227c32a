"""Snapshots as the driver sees them: what is whole, what may be committed, from what an attempt goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.checkpoint.commits import (
    Commit,
    Earlier,
    Held,
    PartDurable,
    RankPart,
    Restore,
    RestoredFile,
    Snapshots,
)
from orchestrator.checkpoint.entries import Entry
from orchestrator.checkpoint.laid_out import InMemory
from orchestrator.checkpoint.manifest import FilePart, Manifest
from orchestrator.events import CheckpointSaved, RestoreSource

RANKS = 2
SHA = "0" * 64


def run_of(*attempts: tuple[int, int]) -> Snapshots:
    """A run whose attempts went on from these steps; 0 is the beginning."""
    snapshots = Snapshots("run", RANKS, ["/c"])
    for number, step in attempts:
        snapshots.started(number, Restore(RestoreSource.DISK, 1, step, "t", "/c", {}) if step else None)
    return snapshots


def saved(attempt: int, step: int, staged: bool = True) -> CheckpointSaved:
    return CheckpointSaved(attempt, step, f"step-{step}", "/c", 0.1, staged)


def part(rank: int, attempt: int, step: int, save_latest: bool = True) -> PartDurable:
    one = RankPart(attempt, step, "/c", f"step-{step}", rank, save_latest)
    return PartDurable(one, {f"shard-{rank}.pt": FilePart(SHA, 7, rank)}, 0.2)


def durable(snapshots: Snapshots, attempt: int, step: int) -> Commit | None:
    """All ranks' parts arrive; what follows from the last."""
    commits = [snapshots.durable(part(rank, attempt, step), now_s=5.0) for rank in range(RANKS)]
    assert commits[:-1] == [None] * (RANKS - 1)
    return commits[-1]


def held(rank: int, attempt: int, step: int, written: bool = True, parked: bool = False) -> Held:
    name, slot = f"shard-{rank}.pt", f"/proc/1/fd/{rank}"
    entry: Entry = {
        "path": name, "skeleton_offset": 4096, "skeleton_bytes": 9, "data_offset": 4096, "data_bytes": 0,
        "zipfile": True,
    }  # fmt: skip
    one = RankPart(attempt, step, "/c", f"step-{step}", rank, save_latest=True)
    return Held(one, slot, written, {name: InMemory(slot, 4096, 9, entry)}, parked)


def manifest(step: int, attempt: int = 1) -> tuple[str, Manifest]:
    return "/c", Manifest(
        "run", attempt, step, f"step-{step}", RANKS, 1.0, {"shard-0.pt": FilePart(SHA, 7, 0)}
    )


def test_a_checkpoint_is_committed_once_every_rank_s_files_are_durable() -> None:
    snapshots = run_of((1, 0))
    snapshots.staged(saved(1, 20), now_s=3.0)
    assert [key.tag for key in snapshots.awaited()] == ["step-20"]
    commit = durable(snapshots, 1, 20)
    assert commit is not None
    assert (commit.save_dir, commit.save_latest, commit.write_s) == ("/c", True, 2.0)
    assert (commit.manifest.step, commit.manifest.attempt, commit.manifest.world_size) == (20, 1, RANKS)
    assert sorted(commit.manifest.files) == ["shard-0.pt", "shard-1.pt"]
    assert snapshots.awaited() == []


def test_parts_may_arrive_before_all_ranks_have_said_that_they_saved() -> None:
    snapshots = run_of((1, 0))
    assert snapshots.durable(part(0, 1, 20), 1.0) is None
    snapshots.staged(saved(1, 20), 2.0)
    assert snapshots.durable(part(1, 1, 20), 3.0) is not None


def test_what_is_not_staged_is_not_waited_for() -> None:
    snapshots = run_of((1, 0))
    snapshots.staged(saved(1, 20, staged=False), 1.0)
    assert snapshots.awaited() == []


def test_a_stale_attempt_cannot_commit() -> None:
    snapshots = run_of((1, 0))
    snapshots.staged(saved(1, 20), 1.0)
    snapshots.started(2, Restore(RestoreSource.DISK, 1, 10, "step-10", "/c", {}))
    assert snapshots.awaited() == [], "attempt 2 went back before step 20"
    assert durable(snapshots, 1, 20) is None


def test_an_older_attempt_s_checkpoint_that_was_gone_on_from_is_still_committed() -> None:
    snapshots = run_of((1, 0))
    snapshots.staged(saved(1, 20), 1.0)
    snapshots.started(2, Restore(RestoreSource.MEMORY, 1, 20, "step-20", "/c", {}))
    assert durable(snapshots, 1, 20) is not None


def test_one_that_was_gone_on_from_in_memory_is_awaited_even_if_a_rank_could_not_say_that_it_saved() -> None:
    snapshots = run_of((1, 0))
    restore = snapshots.from_memory([held(rank, 1, 20, written=False) for rank in range(RANKS)], None)
    assert restore is not None
    snapshots.adopt(restore, 1.0)
    snapshots.started(2, restore)
    assert [key.tag for key in snapshots.awaited()] == ["step-20"]
    assert durable(snapshots, 1, 20) is not None


def test_one_that_is_committed_already_is_not_awaited_again() -> None:
    snapshots = run_of((1, 0))
    snapshots.staged(saved(1, 20), 1.0)
    assert durable(snapshots, 1, 20) is not None
    restore = snapshots.from_memory([held(rank, 1, 20) for rank in range(RANKS)], None)
    assert restore is not None
    snapshots.adopt(restore, 2.0)
    assert snapshots.awaited() == []


def test_what_cannot_be_written_and_what_a_node_took_along_is_not_awaited() -> None:
    snapshots = run_of((1, 0))
    snapshots.staged(saved(1, 20), 1.0)
    snapshots.given_up(part(0, 1, 20))
    assert snapshots.awaited() == []
    snapshots.staged(saved(1, 30), 1.0)
    snapshots.lost_node()
    assert snapshots.awaited() == []


def test_memory_gives_the_newest_generation_that_every_rank_holds() -> None:
    snapshots = run_of((1, 0))
    holdings = [held(0, 1, 20), held(1, 1, 20), held(0, 1, 30)]
    restore = snapshots.from_memory(holdings, None)
    assert restore is not None
    assert (restore.source, restore.step, restore.tag) == (RestoreSource.MEMORY, 20, "step-20")
    one = holdings[1].files["shard-1.pt"]
    assert restore.files["shard-1.pt"] == RestoredFile(1, 9, one)
    assert snapshots.from_memory(holdings, before=20) is None
    assert snapshots.from_memory([], None) is None


def test_memory_of_an_attempt_that_was_gone_back_before_is_stale() -> None:
    snapshots = run_of((1, 0), (2, 10))
    assert snapshots.from_memory([held(rank, 1, 20) for rank in range(RANKS)], None) is None
    fresh = snapshots.from_memory([held(rank, 2, 20) for rank in range(RANKS)], None)
    assert fresh is not None


def test_what_earlier_drivers_went_back_before_is_stale_too() -> None:
    """A node that was away then may have it parked still, whatever was wrong with it."""
    snapshots = Snapshots("run", RANKS, ["/c"], earlier=Earlier({1: 0, 2: 10}, {1: 25, 2: 12}))
    stale = [held(rank, 1, 20, parked=True) for rank in range(RANKS)]
    assert snapshots.from_memory(stale, None) is None
    restore = snapshots.from_memory([*stale, *(held(rank, 1, 10) for rank in range(RANKS))], None)
    assert restore is not None
    assert restore.step == 10


def test_what_ranks_saved_when_nobody_heard_them_any_more_is_not_gone_on_from() -> None:
    snapshots = Snapshots("run", RANKS, ["/c"], earlier=Earlier({1: 0}, {1: 19}))
    for step, parked, found in ((20, False, True), (20, True, False), (19, True, True)):
        restore = snapshots.from_memory([held(rank, 1, step, parked=parked) for rank in range(RANKS)], None)
        assert (restore is not None) is found, (step, parked)
    snapshots.staged(saved(1, 20), 1.0)
    assert snapshots.from_memory([held(rank, 1, 20, parked=True) for rank in range(RANKS)], None)
    snapshots.started(2, None)
    parked = [held(rank, 2, 30, parked=True) for rank in range(RANKS)]
    assert snapshots.from_memory(parked, None) is None
    snapshots.heard(2, 30)
    assert snapshots.from_memory(parked, None) is not None


def test_memory_is_parked_where_any_of_it_is() -> None:
    snapshots = run_of((1, 0))
    snapshots.heard(1, 20)
    restore = snapshots.from_memory([held(0, 1, 20), held(1, 1, 20, parked=True)], None)
    assert restore is not None
    assert (restore.source, restore.in_memory) == (RestoreSource.PARKED, True)
    snapshots.adopt(restore, 1.0)
    assert [key.tag for key in snapshots.awaited()] == ["step-20"]


def test_what_an_earlier_driver_has_committed_is_not_awaited_by_the_next() -> None:
    snapshots = run_of()
    snapshots.heard(1, 20)
    for run, is_ours in (("another", False), ("run", True)):
        snapshots.found_committed([("/c", replace(manifest(20)[1], run=run))])
        restore = snapshots.from_memory([held(rank, 1, 20, parked=True) for rank in range(RANKS)], None)
        assert restore is not None
        assert restore.committed is is_ours
    snapshots.adopt(restore, 1.0)
    assert snapshots.awaited() == []
    assert durable(snapshots, 1, 20) is None, "a part may be told of again"


def test_one_whose_name_was_lost_on_the_way_is_written_again() -> None:
    snapshots = run_of((1, 0))
    commit = durable(snapshots, 1, 20)
    assert commit is not None
    snapshots.unnamed(commit)
    restore = snapshots.from_memory([held(rank, 1, 20) for rank in range(RANKS)], None)
    assert restore is not None
    assert not restore.committed
    snapshots.adopt(restore, 1.0)
    assert durable(snapshots, 1, 20) is not None


def test_a_tag_that_a_script_uses_again_is_another_checkpoint() -> None:
    snapshots = run_of((1, 0))
    for step in (20, 30):
        told = [part(rank, 1, step) for rank in range(RANKS)]
        commits = [snapshots.durable(replace(one, part=replace(one.part, tag="last")), 1.0) for one in told]
        assert commits[-1] is not None
        assert commits[-1].manifest.step == step


def test_disk_gives_the_newest_and_leaves_out_what_was_rejected() -> None:
    snapshots = run_of((1, 0))
    committed = [manifest(10), manifest(30), manifest(20)]
    for before, step in ((None, 30), (30, 20), (11, 10)):
        restore = snapshots.from_disk(committed, before)
        assert restore is not None
        assert (restore.source, restore.step) == (RestoreSource.DISK, step)
    assert snapshots.from_disk(committed, 10) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8), st.data())
def test_only_what_the_last_attempt_builds_on_is_ever_committed(
    moves: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Attempt after attempt goes on from a step and reaches a later one; late parts of any attempt arrive."""
    snapshots = Snapshots("run", RANKS, ["/c"])
    lineage: list[tuple[int, int]] = []  # (attempt, step) that the present weights went through
    committed: set[tuple[int, int]] = set()  # which are not committed a second time
    for number, (origin, further) in enumerate(moves, 1):
        origin = min(origin, max((step for _, step in lineage), default=0))
        lineage = [(attempt, step) for attempt, step in lineage if step <= origin]
        snapshots.started(number, Restore(RestoreSource.DISK, 1, origin, "t", "/c", {}) if origin else None)
        lineage += [(number, step) for step in range(origin + 1, origin + further + 1)]
        late, step = data.draw(st.integers(1, number)), data.draw(st.integers(1, 20))
        commit = durable(snapshots, late, step)
        if late < number:
            assert commit is None or step <= origin
        if (late, step) in lineage:
            assert (commit is None) == ((late, step) in committed)
        committed |= {(late, step)} if commit else set()


@pytest.mark.parametrize("folder", ["/c", "/best"])
def test_folders_of_the_script_s_own_are_looked_at_after_a_commit(folder: str) -> None:
    snapshots = run_of((1, 0))
    for rank in range(RANKS):
        told = part(rank, 1, 20)
        snapshots.durable(replace(told, part=replace(told.part, dir=folder)), 1.0)
    assert snapshots.save_dirs == sorted({"/c", folder}, key=["/c", "/best"].index)
