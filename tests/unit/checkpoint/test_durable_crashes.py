"""Checkpoints survive a power cut before any operation on the file system, and a SIGKILL at any time."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.checkpoint.manifest import misfits
from orchestrator.checkpoint.store import Manifest, prune, publish, quarantine, repair_latest, scan, tidy
from tests.support.crashes import Machine, committed, copy, good, named, tree, written
from tests.support.folders import PROJECT

Operation = Callable[[], object]


@dataclass(frozen=True)
class Scenario:
    """``prepare`` makes the directory and returns the operation; what it takes ``out`` of service need not
    survive."""

    prepare: Callable[[Path], Operation]
    out: frozenset[str] = frozenset()


def first_publish(save_dir: Path) -> Operation:
    manifest = written(save_dir, 5)
    (save_dir / ".attempts/attempt-0001-step-000005/zero_to_fp32.py").write_text("print()")
    return lambda: publish(save_dir, manifest, save_latest=True)


def next_publish(save_dir: Path) -> Operation:
    committed(save_dir, 5)
    return publish_of(save_dir, 10)


def publish_of(save_dir: Path, step: int) -> Operation:
    manifest = written(save_dir, step, attempt=2)
    return lambda: publish(save_dir, manifest, save_latest=True)


def replacing_publish(save_dir: Path) -> Operation:
    committed(save_dir, 5)
    (save_dir / "step-5/tokenizer.json").write_text("{}")
    (save_dir / "step-5/notes").mkdir()
    (save_dir / "step-5/notes/why.txt").write_text("the script's own")
    return publish_of(save_dir, 5)


def same_tag_always(save_dir: Path) -> Operation:
    committed(save_dir, 5, tag="last")
    manifest = written(save_dir, 6, tag="last")
    return lambda: publish(save_dir, manifest, save_latest=True)


def publish_after_a_cut_publish(save_dir: Path) -> Operation:
    """The one before stopped when the new folder was in place and the old one still set aside."""
    committed(save_dir, 5, tag="last")
    shutil.copytree(save_dir / "last", save_dir / ".attempts/replaced-last")
    manifest = written(save_dir, 6, tag="last")
    return lambda: publish(save_dir, manifest, save_latest=True)


def three(save_dir: Path) -> None:
    for step in (5, 10, 15):
        committed(save_dir, step)


def prune_two(save_dir: Path) -> Operation:
    three(save_dir)
    return lambda: prune(save_dir, 1, None, 2e9, ())


def prune_beside_latest(save_dir: Path) -> Operation:
    three(save_dir)
    committed(save_dir, 1)
    return lambda: prune(save_dir, 1, None, 2e9, ("step-10",))


def quarantine_of(tag: str) -> Callable[[Path], Operation]:
    def prepare(save_dir: Path) -> Operation:
        three(save_dir)
        return lambda: quarantine(save_dir, tag, "sha256 of a file differs")

    return prepare


def quarantine_only(save_dir: Path) -> Operation:
    committed(save_dir, 5)
    return lambda: quarantine(save_dir, "step-5", "sha256 of a file differs")


def tidy_all(save_dir: Path) -> Operation:
    committed(save_dir, 5, tag="last")
    (save_dir / ".attempts").mkdir(exist_ok=True)
    shutil.copytree(save_dir / "last", save_dir / ".attempts/replaced-last")
    shutil.copytree(save_dir / "last", save_dir / ".attempts/removed-step-1.1")
    written(save_dir, 10, attempt=1)
    written(save_dir, 15, attempt=2)
    written(save_dir, 20, attempt=3)
    return lambda: tidy(save_dir, 3, keep=["step-15"])


def tidy_cut_replacement(save_dir: Path) -> Operation:
    committed(save_dir, 5, tag="last")
    (save_dir / "last").rename(save_dir / ".attempts/replaced-last")
    return lambda: tidy(save_dir, 9)


SCENARIOS = {
    "publish the first": Scenario(first_publish),
    "publish the next": Scenario(next_publish),
    "publish a step again": Scenario(replacing_publish),
    "publish one tag always": Scenario(same_tag_always),
    "publish after a cut publish": Scenario(publish_after_a_cut_publish),
    "prune": Scenario(prune_two, frozenset({"step-5", "step-10"})),
    "prune to what latest names": Scenario(prune_beside_latest, frozenset({"step-5"})),
    "quarantine the newest": Scenario(quarantine_of("step-15"), frozenset({"step-15"})),
    "quarantine another": Scenario(quarantine_of("step-5"), frozenset({"step-5"})),
    "quarantine the only one": Scenario(quarantine_only, frozenset({"step-5"})),
    "tidy": Scenario(tidy_all),
    "tidy a cut replacement": Scenario(tidy_cut_replacement),
}


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, where there is such a place: thousands of renames wait for nobody's disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_power_cut_anywhere_loses_nothing_and_is_finished_by_doing_it_again(
    name: str, memory: Path
) -> None:
    scenario, save_dir, template = SCENARIOS[name], memory / "checkpoints", memory / "template"
    save_dir.mkdir()
    prepared: list[Operation] = []
    Machine().run(lambda: prepared.append(scenario.prepare(save_dir)))
    [operation] = prepared
    copy(save_dir, template)
    to_survive = good(save_dir) - scenario.out
    whole = Machine()
    assert not whole.run(operation)
    expected = tree(save_dir)
    for cut in range(len(whole.log)):
        for repaired in (False, True):
            shutil.rmtree(save_dir)
            copy(template, save_dir)
            assert Machine(cut).run(operation), f"operation {cut} did not come"
            left = good(save_dir)
            for mark in save_dir.glob(".attempts/removed-*/manifest.json"):
                assert misfits(mark.parent, Manifest.from_json(mark.read_text())) == {}, "it looks whole"
            assert (
                named(save_dir) in {None, *left}
                or (save_dir / f".attempts/replaced-{named(save_dir)}").exists()
            )
            if repaired:
                assert Machine().run(lambda: repair_latest(save_dir)) is False
                left = good(save_dir)
                assert to_survive <= left
                assert named(save_dir) in left or not left
                assert repair_latest(save_dir) is None
            Machine().run(operation)
            assert tree(save_dir) == expected, f"after a cut before {whole.log[cut]}"


def test_a_cut_during_the_repair_is_repaired_too(memory: Path) -> None:
    save_dir, template = memory / "checkpoints", memory / "template"
    committed(save_dir, 5)
    committed(save_dir, 7, tag="last")
    (save_dir / "last").rename(save_dir / ".attempts/replaced-last")
    (save_dir / "latest").write_text("")
    copy(save_dir, template)
    whole = Machine()
    whole.run(lambda: repair_latest(save_dir))
    expected = tree(save_dir)
    assert expected["latest"] == b"last"
    for cut in range(len(whole.log)):
        shutil.rmtree(save_dir)
        copy(template, save_dir)
        assert Machine(cut).run(lambda: repair_latest(save_dir))
        assert "step-5" in good(save_dir)
        Machine().run(lambda: repair_latest(save_dir))
        assert tree(save_dir) == expected


def test_each_step_of_a_commit_is_on_disk_before_the_next_counts_on_it(tmp_path: Path) -> None:
    committed(tmp_path, 5, tag="last")
    manifest = written(tmp_path, 10, tag="last", attempt=2)
    machine = Machine()
    machine.run(lambda: publish(tmp_path, manifest, save_latest=True))
    source, root = f"{tmp_path}/.attempts/attempt-0002-step-000010/last", str(tmp_path)

    def at(operation: str, path: str, after: int = -1) -> int:
        return machine.log.index((operation, path), after + 1)

    manifest_named = at("replace", f"{source}/.manifest.json.partial")
    assert at("fsync", f"{source}/.manifest.json.partial") < manifest_named
    moved = at("rename", source)
    for path in ("", "/extra", *(f"/{path}" for path in manifest.files)):
        assert manifest_named < at("fsync", f"{source}{path}", manifest_named) < moved
    assert at("rename", f"{root}/last") < at("fsync", f"{root}/.attempts") < moved
    pointed = at("replace", f"{root}/.latest.partial")
    assert moved < at("fsync", root, moved) < pointed
    assert at("fsync", f"{root}/.latest.partial") < pointed < at("fsync", root, pointed)
    assert moved < at("fsync", f"{tmp_path}/.attempts/attempt-0002-step-000010", moved) < pointed
    put_away = at("rename", f"{root}/.attempts/replaced-last")
    assert at("fsync", root, pointed) < put_away, "the old one has to stay until the new one is safe"


def test_latest_is_on_disk_before_a_quarantined_checkpoint_moves(tmp_path: Path) -> None:
    three(tmp_path)
    machine = Machine()
    machine.run(lambda: quarantine(tmp_path, "step-15", "x"))
    log, root = machine.log, str(tmp_path)
    moved = log.index(("rename", f"{root}/step-15"))
    assert ("fsync", root) in log[log.index(("replace", f"{root}/.latest.partial")) : moved]
    assert {("fsync", root), ("fsync", f"{root}/.quarantine")} <= set(log[moved:])


@pytest.mark.real
def test_sigkill_at_random_moments_of_a_busy_directory(tmp_path: Path) -> None:
    chance, promised, quarantined = random.Random(4), set[str](), set[str]()
    next_step = 1
    for _ in range(6):
        command = [sys.executable, "-m", "tests.support.crashes", str(tmp_path), str(next_step)]
        root = PROJECT
        with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            said = [child.stdout.readline()]
            time.sleep(chance.uniform(0.0, 0.06))
            child.kill()
            said += child.stdout.readlines()
        assert child.returncode == -signal.SIGKILL
        for verb, tag in (line.split() for line in said):
            (promised if verb == "committed" else quarantined).add(tag)
        repair_latest(tmp_path)
        left = good(tmp_path)
        assert named(tmp_path) in left
        newest = max((tag for tag in promised if tag != "last"), key=lambda tag: int(tag.split("-")[1]))
        assert newest in left | quarantined
        assert "last" in left or "last" not in promised
        next_step = scan(tmp_path).committed[-1].step + 1
    assert next_step > 6
