"""What ranks were doing when they hung: their own stacks, and whose fault it looks like."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.agent.hang_stacks import (
    StackVerdict,
    judge,
    keep,
    main_thread,
    name_culprits,
)
from orchestrator.rank import stacks as rank_stacks

PACKAGES = "/venv/lib/python3.11/site-packages"
OURS = os.path.dirname(rank_stacks.__file__)
BOTTOM = [f"{OURS}/runner.py:104 _run_script", f"{OURS}/runner.py:76 run", "<string>:1 <module>"]
ALL_REDUCE = [f"{PACKAGES}/torch/distributed/distributed_c10d.py:3252 all_reduce",
              f"{PACKAGES}/torch/distributed/c10d_logger.py:83 wrapper"]  # fmt: skip
THROUGH_DEEPSPEED = [*ALL_REDUCE, f"{PACKAGES}/deepspeed/comm/comm.py:710 all_reduce",
                     f"{PACKAGES}/deepspeed/runtime/zero/stage_1_and_2.py:2384 allreduce_bucket"]  # fmt: skip
SCRIPT = "/home/me/job/train.py:20 <module>"


def answer(*frames: str, others: tuple[list[str], ...] = (), bottom: tuple[str, ...] = tuple(BOTTOM)) -> str:
    """As faulthandler writes it; a frame is `file:line name`. The main thread comes last."""

    def thread(heading: str, written: list[str]) -> str:
        lines = []
        for frame in written:
            place, _, name = frame.rpartition(" ")
            file, _, line = place.rpartition(":")
            lines.append(f'  File "{file}", line {line} in {name}')
        return "\n".join([heading, *lines])

    threads = [thread("Thread 0x00007f5a741546c0 (most recent call first):", other) for other in others]
    main = thread("Current thread 0x00007f5a9c4b8b80 (most recent call first):", [*frames, *bottom])
    return "\n\n".join([*threads, main]) + "\n"


def no_source(_file: str, _line: int) -> str:
    return ""


@pytest.mark.parametrize(
    ("frames", "entered", "where"),
    [
        ([*ALL_REDUCE, SCRIPT], True, "train.py:20 in <module>"),
        ([*THROUGH_DEEPSPEED, f"{OURS}/probes.py:109 backward", SCRIPT], True, "train.py:20 in <module>"),
        ([f"{PACKAGES}/torch/distributed/rendezvous.py:9 _create_c10d_store", SCRIPT], True, "train.py:20 in <module>"),
        ([f"{PACKAGES}/deepspeed/runtime/zero/partition_parameters.py:9 wait", SCRIPT], True,
         "train.py:20 in <module>"),
        ([SCRIPT], False, "train.py:20 in <module>"),
        (["/home/me/job/lib/data.py:7 read", SCRIPT], False, "data.py:7 in read"),
        (["/usr/lib/python3.11/queue.py:171 get", f"{PACKAGES}/torch/utils/data/dataloader.py:1 _get_data", SCRIPT],
         False, "train.py:20 in <module>"),
        # it called the user's code back, which does not come to an end
        (["/home/me/job/hooks.py:5 hook", *ALL_REDUCE, SCRIPT], False, "hooks.py:5 in hook"),
        # these may wait for a device that waits for the others
        ([f"{PACKAGES}/torch/cuda/__init__.py:1 synchronize", SCRIPT], None, "train.py:20 in <module>"),
        ([f"{PACKAGES}/torch/distributed/distributed_c10d.py:2 destroy_process_group", SCRIPT], None,
         "train.py:20 in <module>"),
        ([f"{PACKAGES}/torch/autograd/graph.py:1 _engine_run_backward", SCRIPT], None, "train.py:20 in <module>"),
    ],
)  # fmt: skip
def test_a_rank_has_entered_when_a_collective_is_what_it_is_in(
    frames: list[str], entered: bool | None, where: str
) -> None:
    assert judge(answer(*frames), "sleeping", no_source) == StackVerdict(entered, where, "sleeping")


@pytest.mark.parametrize(
    ("line", "entered"), [("work.wait()", None), ("x = loss.item()", None), ("spin()", False)]
)
def test_a_line_that_may_wait_for_an_earlier_collective_says_nothing(line: str, entered: bool | None) -> None:
    assert judge(answer(SCRIPT), "sleeping", lambda file, number: f"    {line}\n").entered is entered


def test_the_backward_pass_of_a_gpu_runs_in_a_thread_of_its_own() -> None:
    main = [f"{PACKAGES}/torch/autograd/graph.py:1 _engine_run_backward", SCRIPT]
    assert judge(answer(*main, others=(THROUGH_DEEPSPEED,)), "sleeping", no_source).entered is True
    assert judge(answer(SCRIPT, others=(THROUGH_DEEPSPEED,)), "sleeping", no_source).entered is False


def test_a_script_below_installed_packages_is_the_users_own() -> None:
    text = answer(
        *ALL_REDUCE, f"{PACKAGES}/jobs/training.py:60 train_step", f"{PACKAGES}/jobs/pretrain.py:9 <module>"
    )
    assert judge(text, "sleeping", no_source).where == "training.py:60 in train_step"


def test_a_stack_too_deep_to_show_our_runner_is_the_oldest_thread() -> None:
    text = answer(*["/home/me/job/tree.py:3 walk"] * 100, others=([f"{OURS}/link.py:9 _watch"],), bottom=())
    assert judge(text, "running", no_source) == StackVerdict(False, "tree.py:3 in walk", "running")
    assert main_thread('Thread 0x1 (most recent call first):\n  File "/x.py", line 1 in f\n...\n') == []


def test_no_answer_is_no_verdict() -> None:
    assert judge("", "stopped") == StackVerdict(None, "", "stopped")


IN, OUT, UNKNOWN = (
    StackVerdict(True, "a", "sleeping"),
    StackVerdict(False, "b", "sleeping"),
    StackVerdict(None, "c", "sleeping"),
)
STOPPED, STUCK, GONE = (StackVerdict(None, "", state) for state in ("stopped", "uninterruptible", "gone"))


@pytest.mark.parametrize(
    ("seen", "culprits"),
    [
        ([IN, OUT, IN], [1]),
        ([OUT, IN, STOPPED, IN], [2, 0]),
        ([IN, STUCK, OUT, GONE, STOPPED], [4, 3, 1, 2]),
        ([IN, StackVerdict(True, "a", "stopped")], [1]),
        ([UNKNOWN, OUT, UNKNOWN], [1]),
        ([IN, UNKNOWN, IN], [1]),
        ([IN, StackVerdict(True, "a", "uninterruptible")], [0, 1]),
        ([IN, IN], [0, 1]),
        ([UNKNOWN, UNKNOWN], [0, 1]),
        ([OUT, STOPPED], [1, 0]),
        ([], []),
    ],
)
def test_those_are_named_that_never_entered_what_the_others_wait_in(
    seen: list[StackVerdict], culprits: list[int]
) -> None:
    assert name_culprits(list(enumerate(seen))) == culprits


def test_stacks_are_kept_where_they_can_be(tmp_path: Path) -> None:
    paths = {
        0: tmp_path / "rank-0.stacks",
        1: tmp_path / "nowhere" / "rank-1.stacks",
        2: tmp_path / "rank-2.stacks",
    }
    for turn in ("first", "second"):
        keep({0: f"{turn} stack\n", 1: "lost\n", 2: ""}, paths, "--- hang ---")
    assert paths[0].read_text() == "--- hang ---\nfirst stack\n\n--- hang ---\nsecond stack\n\n"
    assert [path.name for path in tmp_path.iterdir()] == ["rank-0.stacks"]
