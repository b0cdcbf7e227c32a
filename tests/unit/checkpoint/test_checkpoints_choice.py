"""From which checkpoint a run goes on: memory or disk, whole and sound, and brought to where it is read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.agent.assignment import Signing
from orchestrator.checkpoint.commits import Snapshots
from orchestrator.checkpoint.manifest import Manifest
from orchestrator.cluster import checkpoints as module
from orchestrator.errors import ConfigError
from orchestrator.events import Event, SnapshotDoubted, SnapshotPassedOver, SnapshotQuarantined
from tests.support.checkpoint_driver import (
    OWN,
    SHARED,
    Driver,
    FakeRay,
    Make,
    commit,
    drivers,
    files_of,
)
from tests.support.crashes import committed, good, named
from tests.support.fakes import names
from tests.support.snapshot_world import KEY, OPTIMIZER, WEIGHTS, stage


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    return FakeRay.in_place(monkeypatch)


@pytest.fixture
def make(ray: FakeRay, tmp_path: Path) -> Iterator[Make]:
    with drivers(tmp_path) as new:
        yield new


def in_memory(driver: Driver, step: int) -> None:
    for node in driver.nodes:
        stage(node, Path("/checkpoints"), step, ranks=1)


# As long a history as a trainer has after weeks: more values than any paper of ours.
WHOLE = json.dumps({"log_history": [0] * 1_000_001})


def of_a_trainer(driver: Driver, step: int) -> Path:
    """A checkpoint that has a folder of its own."""
    driver.checkpoints.snapshots.save_dirs.append(f"/checkpoints/checkpoint-{step}")
    committed(driver.folders[0] / f"checkpoint-{step}", step)
    return driver.folders[0] / f"checkpoint-{step}"


def test_memory_comes_first_unless_the_disk_has_a_newer_one(make: Make) -> None:
    driver = make()
    assert driver.choose() is None
    commit(driver, 4)
    in_memory(driver, 4)
    chosen = driver.choose()
    assert (chosen.source, chosen.step, set(chosen.files)) == (
        "memory", 4, {WEIGHTS, OPTIMIZER.format(0), OPTIMIZER.format(1)}
    )  # fmt: skip
    assert "verify" not in driver.agents[0].calls
    commit(driver, 6)
    chosen = driver.choose()
    assert (chosen.source, chosen.step) == ("disk", 6)
    assert [agent.calls.count("verify") for agent in driver.agents] == [1, 1], "each hashes a share"
    assert driver.checkpoints.take_events() == []


def test_what_a_script_keeps_elsewhere_is_not_gone_on_from_unless_it_keeps_all_there(make: Make) -> None:
    driver = make()
    for node in driver.nodes:
        stage(node, Path("/best"), 4, ranks=1)
    chosen = driver.choose()
    assert (chosen.source, chosen.save_dir, chosen.step) == ("memory", "/best", 4)
    in_memory(driver, 2)
    chosen = driver.choose()
    assert (chosen.source, chosen.save_dir, chosen.step) == ("memory", "/checkpoints", 2)
    driver.nodes[0].forget(0)
    commit(driver, 1)
    chosen = driver.choose()
    assert (chosen.source, chosen.save_dir, chosen.step) == ("disk", "/checkpoints", 1)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(make: Make) -> None:
    driver = make()
    commit(driver, 2, 4)
    folder = driver.folders[0]
    with (folder / "step-4" / OWN).open("r+b") as file:
        file.write(b"X")
    assert driver.choose().step == 2
    (told,) = driver.checkpoints.take_events()
    assert isinstance(told, SnapshotQuarantined)
    assert (told.step, told.tag, told.reason) == (4, "step-4", f"{OWN} sha256 differs")
    assert (Path(told.path), named(folder)) == (folder / ".quarantine" / "step-4.1", "step-2")
    assert (Path(told.path) / "reason.txt").read_text() == f"{OWN} sha256 differs\n"
    assert driver.checkpoints.take_events() == []


def test_the_first_name_is_waited_for_and_a_second_is_not(make: Make) -> None:
    driver = make()
    driver.saved(2)
    in_memory(driver, 2)
    heard: list[int] = []

    def listen() -> list[Event]:
        heard.append(1)
        return driver.write(2) if len(heard) == 1 else driver.checkpoints.poll(5.0)

    assert driver.choose(listen=listen).source == "memory"
    assert (len(heard), names(driver.checkpoints.take_events())) == (2, ["SnapshotCommitted"])
    driver.saved(4)
    in_memory(driver, 4)
    assert driver.choose(listen=listen).step == 4
    assert len(heard) == 2
    assert driver.checkpoints.busy()


def test_the_first_name_is_not_waited_for_for_ever(make: Make) -> None:
    driver = make()
    in_memory(driver, 2)
    assert driver.choose().step == 2
    assert driver.checkpoints.busy()


def parked(driver: Driver, step: int) -> None:
    """It lies in memory that agents of an earlier driver have left."""
    in_memory(driver, step)
    driver.checkpoints.snapshots.heard(1, step)
    for node in driver.nodes:
        node._came = node._headers()


def test_what_is_parked_is_gone_on_from_and_has_its_name_already(make: Make) -> None:
    driver = make()
    commit(driver, 4)
    driver.checkpoints.snapshots = Snapshots("a-run", 2, ["/checkpoints"])  # of the next driver
    driver.checkpoints._disk._snapshots = driver.checkpoints.snapshots
    parked(driver, 4)
    chosen = driver.choose()
    assert (chosen.source, chosen.step, chosen.committed) == ("parked", 4, True)
    assert not driver.checkpoints.busy(), "nobody would ever say that it is written"
    assert not any("verify" in agent.calls or "write_out" in agent.calls for agent in driver.agents)
    driver.nodes[0].forget(0)
    chosen = driver.choose()
    assert (chosen.source, chosen.step) == ("disk", 4), "where a node has lost it"


def test_what_is_parked_without_a_name_is_written_before_it_is_waited_for(make: Make) -> None:
    driver = make()
    parked(driver, 2)

    def listen() -> list[Event]:
        assert [agent.calls.count("write_out") for agent in driver.agents] == [1, 1]
        return driver.write(2) if driver.checkpoints.snapshots.awaited() else driver.checkpoints.poll(5.0)

    chosen = driver.checkpoints.choose(None, 60.0, listen)
    assert chosen is not None
    assert (chosen.source, chosen.step, chosen.committed) == ("parked", 2, False)
    assert names(driver.checkpoints.take_events()) == ["SnapshotCommitted"]


def test_a_name_that_was_lost_with_an_agent_is_given_again(make: Make) -> None:
    driver = make()
    in_memory(driver, 2)
    driver.write(2)
    driver.checkpoints.forget()
    driver.checkpoints.snapshots.heard(1, 2)
    driver.nodes[0]._came = driver.nodes[0]._headers()  # the agent of that node is another one now
    assert driver.choose().step == 2
    assert driver.checkpoints.busy()
    driver.write(2)
    assert names(driver.checkpoints.poll(5.0)) == ["SnapshotCommitted"]
    assert not driver.checkpoints.busy()


def test_what_follows_a_rejected_step_is_not_gone_on_from_and_not_committed(make: Make) -> None:
    driver = make()
    commit(driver, 2, 4)
    for step in (2, 6):
        in_memory(driver, step)
    driver.agents[0].failing = OSError("full")
    driver.write(6)
    driver.checkpoints.poll(5.0)
    driver.saved(8)
    driver.agents[0].failing = None
    chosen = driver.choose(before=4)
    assert (chosen.source, chosen.step) == ("memory", 2)
    assert [(one.step, one.reason) for one in driver.checkpoints.take_events()] == [  # type: ignore[attr-defined]
        (4, "the run has gone back before step 4")
    ]
    assert [held.part.step for node in driver.nodes for held in node.holdings()] == [2, 2]
    assert driver.write(8) == []  # it was on its way, and arrives before the next attempt begins
    assert driver.checkpoints.poll(20.0) == []
    assert driver.choose(before=4).step == 2, "a node was lost, and the attempt begins once more"
    driver.checkpoints.snapshots.started(2, chosen)
    assert not driver.checkpoints.busy()
    assert (good(driver.folders[0]), named(driver.folders[0])) == ({"step-2"}, "step-2")
    driver.write(4, attempt=2)
    assert names(driver.checkpoints.poll(21.0)) == ["SnapshotCommitted"]


def of_other_ranks(driver: Driver, step: int, ranks: int) -> None:
    """A committed checkpoint that so many ranks wrote."""
    commit(driver, step)
    path = driver.folders[0] / f"step-{step}" / "manifest.json"
    path.write_text(replace(Manifest.read(path), world_size=ranks, signature=None).to_json())


def test_what_another_number_of_ranks_wrote_is_passed_over_with_the_reason(make: Make) -> None:
    driver = make()
    commit(driver, 2)
    of_other_ranks(driver, 4, ranks=4)
    assert driver.choose().step == 2
    (told,) = driver.checkpoints.take_events()
    assert isinstance(told, SnapshotPassedOver)
    assert told.tag == "step-4"
    assert "4 ranks wrote it with ZeRO, each a part, and this run has 2 ranks" in told.reason
    assert (driver.choose().step, driver.checkpoints.take_events()) == (2, []), "it is said once"


def test_where_nothing_is_for_so_many_ranks_no_rank_is_started(make: Make) -> None:
    driver = make()
    of_other_ranks(driver, 4, ranks=4)
    with pytest.raises(ConfigError, match=r"^job\.ranks=2: cannot go on from /checkpoints/step-4"):
        driver.choose()
    (driver.folders[0] / "latest_universal").write_text("step-4_universal")
    assert driver.choose() is None, "the script may load what was converted"


def test_an_unfinished_save_is_cleared_out_of_the_way_where_each_has_a_folder(make: Make) -> None:
    driver = make()
    left = driver.folders[0] / "checkpoint-5"
    (left / ".attempts").mkdir(parents=True)
    commit(driver, 2)
    driver.checkpoints.clear_way(driver.choose())
    assert driver.checkpoints.take_events() == [], "the script is led to the folder that it was given"
    driver.checkpoints.clear_way(None)
    (told,) = driver.checkpoints.take_events()
    assert isinstance(told, SnapshotQuarantined)
    assert (told.step, told.tag) == (5, "checkpoint-5")
    assert Path(told.path) == driver.folders[0] / ".quarantine" / "checkpoint-5.1"
    assert not left.exists()


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("trainer_state.json", '{"global_st', "trainer_state.json cannot be read: "),
        ("model.safetensors.index.json", "{", "model.safetensors.index.json cannot be read: "),
        ("rng_state_0.pth", "PK", "rng_state_0.pth cannot be read: "),
        ("rng_state_0", None, "it has no trainer_state.json, which is written last"),
    ],
)
@pytest.mark.parametrize("source", ["disk", "memory"])
def test_what_a_trainer_was_writing_around_a_checkpoint_is_seen_before_it_is_tried(
    make: Make, name: str, text: str | None, why: str, source: str
) -> None:
    driver = make()
    for step in (4, 6):
        (of_a_trainer(driver, step) / "trainer_state.json").write_text(WHOLE)
    folder = driver.folders[0] / "checkpoint-6"
    if text is None:
        (folder / "trainer_state.json").unlink()
    (folder / name).write_text(text or "")
    if source == "memory":
        for node in driver.nodes:
            stage(node, Path("/checkpoints/checkpoint-6"), 6, ranks=1)
    chosen = driver.choose()
    assert (chosen.source, chosen.step, chosen.save_dir) == ("disk", 4, "/checkpoints/checkpoint-4")
    (told,) = driver.checkpoints.take_events()
    assert isinstance(told, SnapshotQuarantined)
    assert (told.step, told.reason.startswith(why)) == (6, True), told.reason
    assert (driver.folders[0] / ".quarantine" / "checkpoint-6.1" / "step-6" / "manifest.json").is_file()


def test_what_another_run_has_put_around_its_checkpoint_is_not_looked_through(make: Make) -> None:
    driver = make()
    folder = of_a_trainer(driver, 6)
    path = folder / "step-6" / "manifest.json"
    path.write_text(replace(Manifest.read(path), run="another").to_json())
    (folder / "trainer_state.json").write_text('{"global_st')
    assert driver.choose().step == 6


# --- nodes that do not share a folder


def test_each_node_commits_its_part_and_the_whole_is_made_of_them(make: Make) -> None:
    driver = make(shared=False)
    commit(driver, 2, 4)
    first, second = driver.folders
    for folder, kept in ((first, {SHARED, "extra/position.json"}), (second, {OWN})):
        manifest = Manifest.from_json((folder / "step-4" / "manifest.json").read_text())
        assert (set(manifest.files), manifest.world_size) == (kept, 2)
        assert named(folder) == "step-4"
    chosen = driver.choose()
    assert (chosen.step, set(chosen.files)) == (4, {SHARED, "extra/position.json", OWN})
    with (second / "step-4" / OWN).open("r+b") as file:
        file.write(b"X")
    assert driver.choose().step == 2
    assert [path.name for folder in driver.folders for path in (folder / ".quarantine").iterdir()] == [
        "step-4.1"
    ] * 2
    files_of(driver.nodes[1]).quarantine(str(second), "step-2", "lost")
    assert driver.choose() is None, "one node does not have it any more"


@pytest.mark.parametrize("source", ["memory", "disk"])
def test_what_other_nodes_ranks_read_is_carried_to_them(
    make: Make, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr(module, "_CHUNK_BYTES", 100)
    driver = make(shared=False)
    if source == "disk":
        commit(driver, 2)
    else:
        in_memory(driver, 2)
    restore = driver.choose()
    assert restore.source == source
    driver.checkpoints.lay_out(restore)
    told = driver.nodes[1].payload_for(2, 0)["restore"]
    name = SHARED if source == "disk" else WEIGHTS
    if source == "disk":
        original = (driver.folders[0] / "step-2" / name).read_bytes()
        assert Path(told["view"], "step-2", name).read_bytes() == original
    else:
        memory, place = restore.files[name].memory, told["files"][name]
        with open(memory.path, "rb") as slot, open(place["path"], "rb") as fetched:
            assert os.pread(slot.fileno(), memory.bytes, memory.offset) == fetched.read()
    assert driver.agents[0].calls.count("give") > 3
    assert "take" not in driver.agents[0].calls


def test_a_checkpoint_whose_manifest_does_not_count_is_passed_over_aloud_and_once(make: Make) -> None:
    driver = make()
    commit(driver, 4, 6)
    (driver.folders[0] / "step-6" / "manifest.json").write_bytes(b"")
    assert driver.choose().step == 4
    (told,) = driver.checkpoints.take_events()
    assert isinstance(told, SnapshotPassedOver)
    assert (told.tag, told.path) == ("step-6", "/checkpoints/step-6")
    assert "manifest is not JSON" in told.reason
    assert driver.choose().step == 4
    assert driver.checkpoints.take_events() == []


def test_what_is_signed_and_in_a_folder_of_ours_is_vouched_for(make: Make) -> None:
    driver = make(shared=False)
    commit(driver, 4)
    for folder in driver.folders:
        assert Manifest.from_json((folder / "step-4" / "manifest.json").read_text()).is_signed_with(KEY)
    assert driver.choose().unvouched is None
    second = driver.folders[1] / "step-4"
    second.chmod(0o777)
    chosen = driver.choose()
    assert (chosen.step, chosen.unvouched) == (4, f"{second} may be written by everybody"), (
        "one node is enough"
    )
    driver.checkpoints.lay_out(chosen)
    assert {node.payload_for(2, 0)["restore"]["unvouched"] for node in driver.nodes} == {chosen.unvouched}
    second.chmod(0o755)
    manifest = Manifest.from_json((second / "manifest.json").read_text())
    (second / "manifest.json").write_text(manifest.signed(b"another key").to_json())
    assert driver.choose().unvouched == "its manifest is not signed with this run's key"


def test_where_a_key_is_asked_for_what_it_did_not_sign_is_not_gone_on_from(make: Make) -> None:
    driver = make(signing=Signing(KEY.hex(), required=True))
    commit(driver, 4, 6)
    mark = driver.folders[0] / "step-6" / "manifest.json"
    mark.write_text(Manifest.from_json(mark.read_text()).signed(b"another key").to_json())
    assert driver.choose().step == 4
    (told,) = driver.checkpoints.take_events()
    assert isinstance(told, SnapshotPassedOver)
    assert (told.tag, told.reason) == (
        "step-6",
        "its manifest is not signed with the key of snapshot.key_file",
    )


def test_a_folder_that_others_may_write_is_said_before_the_first_attempt_and_once(make: Make) -> None:
    driver = make()
    driver.folders[0].rmdir()
    driver.folders[0].parent.chmod(0o777)
    assert driver.choose() is None
    parent = driver.folders[0].parent
    assert driver.checkpoints.take_events() == [
        SnapshotDoubted("/checkpoints", f"{parent} may be written by everybody")
    ]
    assert driver.choose() is None
    assert driver.checkpoints.take_events() == []
