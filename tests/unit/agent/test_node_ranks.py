"""The ranks of a node, played by a script, and what is told of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.agent import log_reader
from orchestrator.agent.log_transfer import LogSender
from orchestrator.agent.messages import (
    FiguresPrinted,
    LinePrinted,
    LogGrown,
    OpBuilding,
    Part,
    RankExited,
    RankMute,
    RankSavedFile,
    RankSeen,
    RanksOverdue,
    RanksSeen,
    RanksStepped,
    RankTracked,
    RankWithoutEngine,
    Remark,
)
from orchestrator.agent.waits import Wait
from orchestrator.agent.watchdog import LEAST_SAMPLES
from orchestrator.rank.messages import (
    FileSaved,
    Heartbeat,
    OpBuildBegun,
    OpBuildEnded,
    OptimizerFollowed,
    PhaseBegun,
    ProbeFailed,
    SaveBegun,
    StacksUnavailable,
    Tracked,
    TrackedElsewhere,
    Unknown,
)
from tests.support.node_world import FLOOR_S, Node, Rank, of, overdue


def test_who_is_overdue_is_told_when_it_changes_and_not_at_every_poll(node: Node) -> None:
    node.train(LEAST_SAMPLES + 2)
    assert overdue(node.later(FLOOR_S - 2)) == []
    node.ranks[0].step(LEAST_SAMPLES + 3)
    assert overdue(node.later(0.5)) == []
    parts = node.later(FLOOR_S / 2)
    assert overdue(parts) == [(False, [1])]
    (late,) = of(RanksOverdue, parts)[0].ranks
    assert (late.phase, late.step, late.limit_s) == ("step", LEAST_SAMPLES + 2, FLOOR_S)
    assert late.silent_s > FLOOR_S
    assert overdue(node.later(1.0)) == []
    assert overdue(node.later(FLOOR_S)) == [(True, [0, 1])]
    assert node.later(1.0) == []
    for rank in node.ranks:
        rank.step(LEAST_SAMPLES + 4)
    assert overdue(node.later(1.0)) == [(False, [])]
    assert overdue(node.later(1.0)) == []


def test_a_rank_whose_probes_have_failed_is_told_once_and_not_waited_for(node: Node) -> None:
    node.train(1)
    for _ in range(2):
        node.ranks[1].say(ProbeFailed("step", "RuntimeError: no norm\nand more"))
    (failed,) = node.later(1.0)
    assert failed == RankMute(1, "step", "RuntimeError: no norm")
    node.ranks[0].step(2)
    (step,) = node.later(1.0)
    assert isinstance(step, RanksStepped)
    assert (step.step, step.ranks) == (2, 1)


def test_what_no_version_of_ours_says_and_who_cannot_answer_is_remarked_once(node: Node) -> None:
    node.ranks[0].say(StacksUnavailable("no space"))
    for _ in range(2):
        node.ranks[1].say(Unknown("weather"))
    assert [remark.text for remark in of(Remark, node.later(1.0))] == [
        "rank 0 cannot tell where it is, should it hang: no space",
        "rank 1 said 'weather', which this version does not know",
    ]
    for rank in node.ranks:
        rank.say(SaveBegun("/c", "t", 1))
    assert not of(Remark, node.later(1.0))


def test_what_a_script_tells_mlflow_is_passed_on_and_what_had_no_room_is_told_in_a_few_lines(
    node: Node,
) -> None:
    node.ranks[1].say(Tracked({"a": [[1, 5, 0.5], [2]]}, {"p": "1"}, {"t": "2"}))
    assert of(RankTracked, node.later(1.0)) == [RankTracked(1, {"a": [[1, 5, 0.5]]}, {"p": "1"}, {"t": "2"})]
    for dropped in (0, 3, 1, 1, 10, 1):
        node.ranks[0].say(Tracked({}, {}, {}, dropped))
    assert [remark.text.rpartition("so far")[2] for remark in of(Remark, node.later(1.0))] == [
        " 3 values are left out",
        " 15 values are left out",
    ]
    node.ranks[0].status = 0
    (remark,) = of(Remark, node.later(1.0))
    assert remark.text.endswith("so far 16 values are left out"), "all of them, at its end"
    node.ranks[1].say(TrackedElsewhere("http://mine:5000"))
    (remark,) = of(Remark, node.later(1.0))
    assert "sends MLflow to http://mine:5000, an address of its own" in remark.text


def test_ranks_that_are_left_alone_are_all(node: Node) -> None:
    node.train(LEAST_SAMPLES + 2)
    node.ranks[1].status = 0
    assert [type(part) for part in node.later(1.0)] == [RankExited]
    assert overdue(node.later(FLOOR_S + 1)) == [(True, [0])]


def test_a_rank_that_waits_for_the_disk_excuses_all(node: Node) -> None:
    node.train(LEAST_SAMPLES + 2)
    for _ in range(10):
        node.ranks[0].progress += 1
        node.ranks[0].say(Heartbeat("held", 0.0, 7, 0))
        assert overdue(node.later(FLOOR_S / 2)) == []


def test_stacks_are_kept_beside_the_logs_and_told_with_the_place_of_each(
    node: Node,
) -> None:
    looked_at: list[tuple[dict[int, Rank], list[int]]] = []
    where = {0: ("train.py:7 in wait", Wait.LOCK), 1: ("", Wait.STOPPED)}
    text = 'Thread 0x1 (most recent call first):\n  File "/job/train.py", line 7 in wait\n'

    class Looks:
        due_s = float("inf")

        def begin(self, ranks: dict[int, Rank], leaving: list[int]) -> None:
            looked_at.append((ranks, leaving))
            self.due_s = node.now_s + 1.0

        def poll(self, now_s: float) -> tuple[dict[int, str], list[RankSeen]] | None:
            if now_s < self.due_s:
                return None
            self.due_s = float("inf")
            seen = [
                RankSeen(rank, "", "", wait, True, 0.0, 0.0, 0.0, where=place)
                for rank, (place, wait) in where.items()
            ]
            return {0: text, 1: ""}, seen

    node.node._looks = Looks()  # type: ignore[assignment]
    node.ranks[1].say(PhaseBegun("exit"))
    node.later(1.0)
    node.node.ask_stacks()
    assert looked_at == [({0: node.ranks[0], 1: node.ranks[1]}, [1])], "the other's script has ended"
    assert node.later(0.5) == []
    (part,) = node.later(0.5)
    paths = [Path(rank.spec.log_path) for rank in node.ranks]
    assert isinstance(part, RanksSeen)
    assert [(one.rank, one.gpu, one.stack, one.where, one.wait) for one in part.ranks] == [
        (0, "CPU core 0", ["train.py:7 in wait"], *where[0]), (1, "CPU core 1", [], *where[1])
    ]  # fmt: skip
    assert part.ranks[0].path == str(paths[0].with_suffix(".stacks"))
    kept = paths[0].with_suffix(".stacks").read_text()
    assert kept.startswith("--- no progress; stacks of ")
    assert 'File "/job/train.py", line 7' in kept
    assert not paths[1].with_suffix(".stacks").exists()
    assert node.later(5.0) == []
    node.node.ask_stacks()
    assert [type(part) for part in node.later(1.0)] == [RanksSeen]
    assert paths[0].with_suffix(".stacks").read_text() == kept  # the same stack is kept once
    text = text.replace("line 7", "line 8")
    node.node.ask_stacks()
    node.later(1.0)
    assert paths[0].with_suffix(".stacks").read_text().count("--- no progress") == 2


def test_of_progress_bars_the_newest_state_is_told_every_second(node: Node) -> None:
    told: list[str] = []
    with Path(node.ranks[0].spec.log_path).open("ab", buffering=0) as log:
        for done in range(40):
            log.write(b"\r%3d%%" % done)
            told += [one.text for one in of(LinePrinted, node.later(0.1)) if one.fleeting]
        log.write(b"\r100%\n")
        assert of(LinePrinted, node.later(0.1)) == [LinePrinted("100%"), LinePrinted("", fleeting=True)]
        assert node.later(5.0) == []
    assert told[0] == "  0%"
    assert 3 <= len(told) <= 5, told


def test_an_operation_that_is_compiled_for_long_is_told_and_one_that_is_loaded_is_not(node: Node) -> None:
    node.later(0.1)
    node.ranks[0].say(OpBuildBegun("aio"))
    node.ranks[0].say(OpBuildEnded("aio", 0.2))
    assert node.later(10.0) == []
    node.ranks[0].say(OpBuildBegun("adam"))
    assert node.later(1.0) == []
    assert node.later(5.0) == [OpBuilding("adam", None)]
    assert node.later(5.0) == []
    node.ranks[0].say(OpBuildEnded("adam", 60.0))
    assert node.later(1.0) == [OpBuilding("adam", 60.0)]


def test_what_a_script_does_without_an_engine_is_passed_on(node: Node) -> None:
    node.later(0.1)
    node.ranks[1].say(OptimizerFollowed("SGD"))
    node.ranks[1].say(FileSaved("/out/model.pt", 3, 0.5))
    assert node.later(1.0) == [RankWithoutEngine("SGD"), RankSavedFile(1, "/out/model.pt", 3, 0.5)]


def test_what_a_rank_prints_is_progress(node: Node) -> None:
    node.train(LEAST_SAMPLES + 2)
    log = Path(node.ranks[0].spec.log_path)
    for _ in range(5):
        with log.open("a") as stream:
            stream.write("\r 5%")  # as progress bars do, without an end of the line
        assert overdue(node.later(FLOOR_S / 2)) in ([], [(False, [1])])
    assert overdue(node.later(FLOOR_S + 1)) == [(True, [0, 1])]


@pytest.mark.parametrize("travels", [False, True])
def test_logs_are_bounded_once_they_are_read_and_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, travels: bool
) -> None:
    most_bytes = 256 * 1024
    node = Node(tmp_path, monkeypatch, log_max_bytes=most_bytes)
    paths = [Path(rank.spec.log_path) for rank in node.ranks]
    if travels:
        node.node.sender = LogSender(paths[0].parent, nodes=1)
        for log in paths:
            node.node.sender.follow(log.name)
    told: list[Part] = []
    for step in range(1, 11):
        for log in paths:
            with log.open("a") as stream:
                stream.write(
                    "x" * 99 + "\n" + f"a line of step {step}\n" * 10_000 + f'{{"step": {step}, "loss": 1}}\n'
                )
        told += node.later(1.0)
        assert max(log.stat().st_blocks * 512 for log in paths) <= most_bytes
    for rank, log in zip(node.ranks, paths, strict=True):
        with log.open("a") as stream:
            stream.write("last words\n" * 50_000)
        rank.status = 0
    told += node.later(1.0)
    assert max(log.stat().st_blocks * 512 for log in paths) <= most_bytes
    assert [line.step for line in of(FiguresPrinted, told)] == [*range(1, 11)]
    assert len(of(Remark, told)) == 1
    left_out = [line.text for line in of(LinePrinted, told) if "lines left out here" in line.text]
    assert "lines left out here; all are in" in left_out[0]
    assert "lines left out here; the first and last lines of all are in" in left_out[-1]
    for log in paths:
        sent = b"".join(part.data for part in of(LogGrown, told) if part.name == log.name)
        assert len(sent) == (log.stat().st_size if travels else 0), "all was sent before it was left out"
        assert b"\0" not in sent


def test_what_is_left_out_before_it_was_read_and_sent_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "READ_BYTES", 1000)
    node = Node(tmp_path, monkeypatch, log_max_bytes=256 * 1024)
    log = Path(node.ranks[0].spec.log_path)
    node.node.sender = LogSender(log.parent, nodes=1)
    node.node.sender.room_bytes = 1000
    node.node.sender.follow(log.name)
    log.write_text("a line\n" * 100_000)
    told = node.later(1.0) + node.later(1.0)
    lines, sent = (
        [line.text for line in of(LinePrinted, told)],
        b"".join(part.data for part in of(LogGrown, told)),
    )
    assert not any("\0" in line for line in lines)
    assert b"\0" not in sent
    assert len([line for line in lines if "bytes left out here, of the log too" in line]) == 1
    assert b" bytes left out here; all but " in sent
