"""Checkpoints of DeepSpeed itself: staged, written behind the training, and gone on from."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import psutil
import pytest
import torch

from orchestrator.agent.assignment import Signing, base_environment
from orchestrator.checkpoint.arena import Slot
from orchestrator.checkpoint.manifest import MANIFEST, Manifest, sha256_of
from orchestrator.checkpoint.store import scan, verify
from orchestrator.rank.launch.launcher import ZygoteLauncher
from orchestrator.rank.messages import (
    Heartbeat,
    Loaded,
    ProbeFailed,
    SaveBegun,
    Saved,
    ScriptFailed,
    Staged,
    StepTaken,
)
from tests.support.rank_harness import Outcome
from tests.support.slot_harness import small_tmpfs
from tests.support.snapshot_world import KEY, World, errors, losses, small_assignment
from tests.support.texts import text_so_far

pytestmark = pytest.mark.real

Make = Callable[..., World]
SAVING = ["--save-every", "2", "--until", "4"]


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZygoteLauncher]:
    folder = tmp_path_factory.mktemp("zygote")
    launcher = ZygoteLauncher(base_environment(small_assignment(folder)), log_path=str(folder / "log"))
    yield launcher
    launcher.close()


@pytest.fixture
def make(zygote: ZygoteLauncher, tmp_path: Path) -> Iterator[Make]:
    made: list[World] = []

    def new(name: str = "world", **changes: object) -> World:
        made.append(World(zygote, tmp_path / name, **changes))
        return made[-1]

    yield new
    for world in made:
        world.close()


@pytest.fixture(scope="module")
def uninterrupted(zygote: ZygoteLauncher, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Six steps of ZeRO 1, with committed checkpoints of steps 2 and 4; the last attempt's losses in
    `expected`."""
    world = World(zygote, tmp_path_factory.mktemp("uninterrupted"))
    try:
        world.expected = [losses(one) for one in good(world.run("--save-every", "2", "--until", "6"))]  # type: ignore[attr-defined]
        world.commit(3)
        shutil.rmtree(world.checkpoints / "global_step6")
        (world.checkpoints / "latest").write_text("global_step4")
        yield world
    finally:
        world.close()


def good(outcomes: list[Outcome]) -> list[Outcome]:
    for outcome in outcomes:
        assert outcome.status == 0, outcome.output
        assert outcome.of(ProbeFailed) == []
    return outcomes


def assert_refused(outcomes: list[Outcome], message: str) -> None:
    """By every rank, before the first step."""
    for outcome in outcomes:
        (error,) = outcome.of(ScriptFailed)
        assert (outcome.status, error.type) == (1, "RestoreError"), outcome.output
        assert message in error.message
        assert losses(outcome) == {}
        assert outcome.of(StepTaken) == []


@pytest.mark.parametrize(
    "kind",
    [["--stage", "0"], ["--stage", "1"], ["--stage", "3"], ["--stage", "1", "--pipeline"]],
    ids=["zero 0", "zero 1", "zero 3", "pipeline"],
)
def test_what_is_staged_is_gone_on_from_in_memory_on_disk_and_by_deepspeed_alone(
    make: Make, kind: list[str]
) -> None:
    world = make()
    whole = good(world.run(*kind, "--save-every", "2", "--until", "6"))
    for outcome in whole:
        ends = outcome.of(Staged)
        assert [(one.step, one.slot is not None, one.files) for one in ends] == [
            (step, True, []) for step in (2, 4, 6)
        ]
    assert world.commit(3) == [world.checkpoints / f"global_step{step}" for step in (2, 4, 6)]
    for manifest in scan(world.checkpoints).committed:
        assert verify(world.checkpoints, manifest) == {}
        assert {part.rank for part in manifest.files.values()} == (
            {0} if kind == ["--stage", "0"] else {0, 1}
        )

    def goes_on(attempt: int, asked: str, origin: int) -> None:
        outcomes = good(world.run(*kind, "--load", asked, attempt=attempt))
        for outcome, before in zip(outcomes, whole, strict=True):
            assert losses(outcome) == {step: loss for step, loss in losses(before).items() if step > origin}
            (end,) = outcome.of(Loaded)
            assert (end.step, end.tag) == (origin, f"global_step{origin}")
            assert f"saved at {origin}\n" in outcome.output

    folder = str(world.checkpoints)
    world.lead(world.from_memory(before=6), 2)
    goes_on(2, f"{folder}:global_step6", 4)  # led away from the tag that it asks for
    world.lead(replace(world.from_disk(before=4), unvouched="others may write there"), 3)
    goes_on(3, folder, 2)  # by types that are known to run nothing
    world.told = lambda _rank, _told: None
    goes_on(4, f"{folder}:global_step4", 4)


def test_a_script_that_does_not_load_is_not_trained_from_the_beginning(uninterrupted: World) -> None:
    uninterrupted.lead(uninterrupted.from_disk(), 2)
    outcomes = uninterrupted.run("--until", "2", attempt=2)
    assert_refused(
        outcomes, "was to go on from step 4, but the script took a step without having called load_check"
    )
    assert str(uninterrupted.checkpoints) in errors(outcomes)[0].message
    assert "snapshot.enabled=false" in errors(outcomes)[0].message


def test_ranks_that_load_different_steps_do_not_train(
    uninterrupted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 1 is told of nothing, and takes what `latest` names."""
    uninterrupted.lead(uninterrupted.from_disk(before=4), 2)
    monkeypatch.setattr(uninterrupted, "told", lambda rank, told: {**told, "restore": None} if rank else told)
    outcomes = uninterrupted.run("--load", str(uninterrupted.checkpoints), attempt=2)
    assert_refused(outcomes, "ranks are about to load different checkpoints; here ")


@pytest.mark.parametrize("stage", ["1", "3"])
def test_a_rank_that_finds_nothing_keeps_the_others_from_training(make: Make, stage: str) -> None:
    world = make()
    good(world.run("--stage", stage, *SAVING))
    world.lead(world.from_memory(), 2)
    world.told = lambda rank, told: {**told, "restore": None} if rank else told
    outcomes = world.run("--stage", stage, "--load", str(world.checkpoints), attempt=2)
    assert_refused(outcomes, "ranks are about to load different checkpoints; here ")


def test_only_files_that_a_manifest_vouches_for_are_loaded(
    make: Make, uninterrupted: World, tmp_path: Path
) -> None:
    foreign, damaged, trusted = (tmp_path / name for name in ("foreign", "damaged", "trusted"))
    for folder in (foreign, damaged, trusted):
        shutil.copytree(uninterrupted.checkpoints, folder)
    for folder in (foreign, trusted):
        (folder / "global_step4" / MANIFEST).unlink()
    weights = damaged / "global_step4" / "mp_rank_00_model_states.pt"
    state = torch.load(weights, weights_only=False)
    torch.save({**state, "client": "another"}, weights)
    world = make(snapshot_trusted=[str(trusted)])
    asked = [str(folder) for folder in (foreign, damaged, trusted, uninterrupted.checkpoints)]
    for outcome, expected in zip(good(world.run("--load", *asked)), uninterrupted.expected, strict=True):  # type: ignore[attr-defined]
        told = [line for line in outcome.output.splitlines() if line.startswith(("refused", "loaded"))]
        assert [line.split()[:2] for line in told] == [
            ["refused", asked[0]], ["refused", asked[1]], ["loaded", asked[2]], ["loaded", asked[3]]
        ]  # fmt: skip
        assert "RestoreError" in told[0]
        assert f"no manifest names it, and loading a pickle runs what it says; if you trust it, put its folder into " \
            f"snapshot.trusted (snapshot.trusted=[{foreign}])" in told[0]  # fmt: skip
        assert "RestoreError" in told[1]
        assert "is not as its manifest says: it is damaged, or was put there later" in told[1]
        assert losses(outcome) == {step: expected[step] for step in (5, 6)}


class Runs:
    """Makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.makedirs, (str(self._folder), 0o777, True)


def with_more(folder: Path, more: object, key: bytes | None) -> str:
    """Put it into the checkpoint's weights as a client's state, with a manifest that says so."""
    tag = folder / "global_step4"
    weights = tag / "mp_rank_00_model_states.pt"
    torch.save({**torch.load(weights, weights_only=False), "more": more}, weights)
    manifest = Manifest.from_json((tag / MANIFEST).read_text())
    part = replace(manifest.files[weights.name], sha256=sha256_of(weights), bytes=weights.stat().st_size)
    changed = replace(manifest, files={**manifest.files, weights.name: part}, signature=None)
    (tag / MANIFEST).write_text((changed.signed(key) if key else changed).to_json())
    return str(folder)


def test_only_our_own_work_may_run_anything(make: Make, uninterrupted: World, tmp_path: Path) -> None:
    """Each copy holds a pickle that makes a folder, but for the one that holds a type that is allowed."""
    names = ("own", "unsigned", "anothers", "open", "typed")
    copies = {name: Path(shutil.copytree(uninterrupted.checkpoints, tmp_path / name)) for name in names}
    made = {name: tmp_path / f"made-{name}" for name in names}
    keys = {"own": KEY, "unsigned": None, "anothers": b"another", "open": KEY, "typed": None}
    more = {name: Fraction(1, 2) if name == "typed" else Runs(made[name]) for name in names}
    asked = [with_more(copies[name], more[name], keys[name]) for name in names]
    (copies["open"] / "global_step4").chmod(0o777)
    for outcome in good(
        make(snapshot_allow_types=["fractions.Fraction"]).run("--load", *asked, "--until", "4")
    ):
        told = [line for line in outcome.output.splitlines() if line.startswith(("refused", "loaded"))]
        assert [line.split()[0] for line in told] == [
            "loaded",
            "refused",
            "refused",
            "refused",
            "loaded",
        ], told
        unsigned = "its manifest is not signed with this run's key"
        for line, why in zip(told[1:4], (unsigned, unsigned, "may be written by everybody"), strict=True):
            assert (
                f"{why}, so only types that are known to run nothing are loaded from it; but it holds"
                " os.maked" in line
            )
            assert f"set snapshot.trusted=[{line.split()[1]}]" in line
    assert [name for name, folder in made.items() if folder.exists()] == ["own"]


def test_where_a_key_is_asked_for_nothing_else_is_loaded(
    make: Make, uninterrupted: World, tmp_path: Path
) -> None:
    other = with_more(Path(shutil.copytree(uninterrupted.checkpoints, tmp_path / "other")), 1, b"another")
    for outcome in good(
        make(signing=Signing(KEY.hex(), required=True)).run("--load", other, str(uninterrupted.checkpoints))
    ):
        told = [line for line in outcome.output.splitlines() if line.startswith(("refused", "loaded"))]
        assert [line.split()[0] for line in told] == ["refused", "loaded"]
        assert "its manifest is not signed with the key of snapshot.key_file" in told[0]


def test_what_finds_no_room_in_memory_goes_to_the_disk_and_is_whole(make: Make, tmp_path: Path) -> None:
    """The weights fit into the slots, the optimizer's state does not."""
    with small_tmpfs(tmp_path / "memory", 600 << 10) as memory:
        world = make(snapshot_dirs=[str(memory)], snapshot_bytes=4096)
        wide = ["--width", "6000"]
        outcomes = good(world.run(*wide, "--save-every", "4", "--until", "6"))
        for outcome in outcomes:
            (end,) = outcome.of(Staged)
            assert end.slot is None
            assert "bytes more to stage in" in end.given_up
        assert world.commit(1) == [world.checkpoints / "global_step4"]
        assert world.node.holdings() == []
        (manifest,) = scan(world.checkpoints).committed
        assert (len(manifest.files), verify(world.checkpoints, manifest)) == (3, {})
        world.lead(world.from_disk(), 2)
        again = good(world.run(*wide, "--load", str(world.checkpoints), attempt=2))
        for outcome, before in zip(again, outcomes, strict=True):
            assert losses(outcome) == {step: losses(before)[step] for step in (5, 6)}
        world.close()


def test_the_third_save_waits_for_the_writer(make: Make) -> None:
    world = make()
    attempt = world.start("--save-every", "1", "--until", "4")
    assert world.until(lambda: world.node._writer.process is not None)
    writer = psutil.Process(world.node._writer.process.pid)  # type: ignore[union-attr]
    writer.suspend()
    try:
        beats = lambda: [one for one in attempt.messages[0] if isinstance(one, Heartbeat)]  # noqa: E731
        held = lambda: [one for one in beats() if one.phase == "held"]  # noqa: E731
        assert world.until(lambda: len(held()) >= 2), attempt.messages
        saves = [one.step for one in attempt.messages[0] if isinstance(one, SaveBegun)]
        assert saves[-1] == held()[-1].step >= 3
        assert attempt.statuses == [None, None]
        assert beats()[-1].phase == "held"
    finally:
        writer.resume()
    outcomes = good(world.finish(attempt))
    assert [list(losses(one)) for one in outcomes] == [[1, 2, 3, 4]] * 2
    assert len(world.commit(4)) == 4


def test_a_rank_that_is_killed_while_it_stages_leaves_the_generation_before(
    make: Make, uninterrupted: World
) -> None:
    world = make()
    attempt = world.start(*SAVING, "--stop-in-save-of", "4")
    log = Path(attempt.ranks[0].spec.log_path)
    assert world.until(lambda: "in the middle" in text_so_far(log))
    world.commit(1)
    for rank in attempt.ranks:
        os.kill(rank.pid, signal.SIGKILL)
    assert {one.status for one in world.finish(attempt)} == {-signal.SIGKILL}
    slots = [Slot.open(f"/proc/{os.getpid()}/fd/{fd}") for fd in world.node._slots[0]]
    assert sorted(str((slot.header() or {})["state"]) for slot in slots) == ["staged", "staging"]
    for slot in slots:
        slot.close()
    restore = world.from_memory()
    assert (restore.step, restore.source) == (2, "memory")
    world.lead(restore, 2)
    outcomes = good(world.run("--load", str(world.checkpoints), "--save-every", "1", attempt=2))
    for outcome, expected in zip(outcomes, uninterrupted.expected, strict=True):  # type: ignore[attr-defined]
        assert losses(outcome) == {step: expected[step] for step in (3, 4, 5, 6)}
    assert len(world.commit(4)) == 4


def test_an_engine_that_the_config_chooses_stays_and_universal_checkpoints_are_not_led(
    make: Make, uninterrupted: World
) -> None:
    world = make()
    # DeepSpeed's own launcher sets them, for this engine
    world.bench.env |= {"CROSS_RANK": "0", "CROSS_SIZE": "1"}
    python = json.dumps({"checkpoint": {"writer": {"type": "python"}}})
    for outcome in good(world.run("--stage", "3", *SAVING, "--dir", "own", "--config", python)):
        assert "engine FastCheckpointEngine" in outcome.output
        assert outcome.of(Saved)
        assert not outcome.of(Staged)
    assert (world.bench.folder / "own" / "latest").read_text() == "global_step4"
    assert world.node.holdings() == []
    uninterrupted.lead(uninterrupted.from_disk(), 2)
    universal = json.dumps({"checkpoint": {"load_universal": True}})
    asked = ["--load", str(uninterrupted.checkpoints), "--config", universal]
    for outcome in uninterrupted.run(*asked, attempt=2):
        (error,) = outcome.of(ScriptFailed)
        assert f"{uninterrupted.checkpoints}/latest_universal does not exist" in error.message
