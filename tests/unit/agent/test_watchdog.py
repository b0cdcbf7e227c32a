"""How long a rank may make no progress, and who has made none for longer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agent.messages import Overdue
from orchestrator.agent.watchdog import LEAST_SAMPLES, Watchdog
from orchestrator.rank.messages import (
    FileSaved,
    Heartbeat,
    LoadBegun,
    Loaded,
    LoadFailed,
    Message,
    OpBuildBegun,
    OpBuildEnded,
    PhaseBegun,
    PhaseEnded,
    ProbeFailed,
    SaveBegun,
    Saved,
    SaveFailed,
    StepTaken,
    Unknown,
)

FACTOR, FLOOR_S, UNKNOWN_S = 10.0, 60.0, 1800.0


class Node:
    """Ranks that talk to a watchdog as real ones do, on a clock of the test's own."""

    def __init__(self, ranks: int = 1, **about: Any) -> None:
        self.watchdog = Watchdog(FACTOR, FLOOR_S, UNKNOWN_S, **about)
        self.ranks = range(ranks)
        self.now_s = 1000.0
        self.phase, self.step, self.progress = "start", 0, 0

    def say(self, message: Message) -> None:
        for rank in self.ranks:
            self.watchdog.heard(rank, message, self.now_s)

    def beat(self, ranks: Any = None, **other: Any) -> None:
        message = Heartbeat(self.phase, 0.0, self.step or None, self.progress)
        for rank in self.ranks if ranks is None else ranks:
            self.watchdog.heard(rank, replace(message, **other), self.now_s)

    def enter(self, phase: str, after_s: float = 0.0) -> None:
        self.now_s += after_s
        self.phase = phase
        self.progress += 1
        self.beat()

    def micro_batch(self, after_s: float) -> None:
        self.now_s += after_s
        self.progress += 1
        self.beat()

    def train(self, steps: int, step_s: float) -> None:
        for _ in range(steps):
            self.now_s += step_s
            if self.phase == "first_step":
                self.say(PhaseEnded("first_step", 1.0))
            self.step += 1
            self.progress += 1
            self.phase = "step"
            self.say(StepTaken(self.step, 1.0))

    def begin(self, steps: int = 2 * LEAST_SAMPLES, step_s: float = 1.0) -> None:
        """All that comes before, and so many steps."""
        for phase in ("import", "initialize", "first_step"):
            self.enter(phase, after_s=2.0)
        self.train(steps, step_s)

    def again(self) -> None:
        """The next attempt, from step 0."""
        self.watchdog.new_attempt()
        self.phase, self.step, self.progress = "start", 0, 0
        self.overdue()

    def overdue(self) -> list[Overdue]:
        return self.watchdog.overdue(self.now_s, self.ranks)

    def limit_s(self) -> float:
        """How long the ranks may be silent from now on."""
        begun_s, horizon_s = self.now_s, self.now_s + 100_000.0
        while self.now_s < horizon_s:
            if found := self.overdue():
                waited_s, self.now_s = found[0].limit_s, begun_s
                return waited_s
            self.now_s += 5.0
        self.now_s = begun_s
        return float("inf")


def test_a_rank_that_falls_silent_in_a_step_is_overdue_after_the_factor_times_the_median() -> None:
    node = Node()
    node.begin(step_s=20.0)
    node.now_s += 200.0
    assert node.overdue() == []
    node.now_s += 1.0
    assert node.overdue() == [Overdue(rank=0, phase="step", step=10, silent_s=201.0, limit_s=200.0)]
    node.train(1, 0.0)
    assert node.overdue() == []


def test_quick_steps_are_given_the_floor() -> None:
    node = Node()
    node.begin(step_s=0.5)
    assert node.limit_s() == FLOOR_S


def test_a_phase_without_enough_history_is_given_the_unknown_limit() -> None:
    node = Node()
    assert node.limit_s() == UNKNOWN_S
    for phase in ("import", "initialize", "first_step"):
        node.enter(phase, 1.0)
        assert node.limit_s() == UNKNOWN_S
    node.train(LEAST_SAMPLES, 1.0)  # the first of which was in first_step
    assert node.limit_s() == UNKNOWN_S
    node.train(1, 1.0)
    assert node.limit_s() == FLOOR_S


def test_the_ranks_of_a_node_learn_together() -> None:
    node = Node(ranks=LEAST_SAMPLES)
    node.begin(steps=2, step_s=30.0)
    assert node.limit_s() == 300.0


@pytest.mark.parametrize("beats", [True, False], ids=["in a collective", "stopped"])
def test_a_heartbeat_alone_is_no_progress(beats: bool) -> None:
    node = Node(ranks=2)
    node.begin()
    node.beat()  # what it tells has been seen with the step
    for second in range(1, 62):
        assert node.overdue() == []
        node.now_s += 1.0
        node.beat(ranks=[0], progress=node.progress + second)
        if beats:
            node.beat(ranks=[1])
    assert [one.rank for one in node.overdue()] == [1]


def test_micro_batches_are_progress() -> None:
    node = Node()
    node.begin(step_s=20.0)
    for _ in range(100):
        node.micro_batch(50.0)
        assert node.overdue() == []


def test_a_slow_optimizer_behind_many_quick_micro_batches_is_no_hang() -> None:
    """The median of all silences would be one second, and the limit the floor."""
    node = Node()
    node.begin(steps=0)
    for _ in range(2 * LEAST_SAMPLES):
        for _ in range(64):
            node.micro_batch(1.0)
        node.train(1, 90.0)
        assert node.overdue() == []
    assert node.limit_s() == 900.0


def test_saving_at_every_step_does_not_halve_the_median() -> None:
    node = Node()
    node.begin(steps=1)
    for _ in range(2 * LEAST_SAMPLES):
        node.train(1, 30.0)
        node.say(SaveBegun("/c", "t", node.step))
        node.now_s += 8.0
        node.say(Saved("/c", "t", node.step, 1.0))
    assert node.limit_s() == 300.0
    node.say(SaveBegun("/c", "t", node.step))
    assert node.limit_s() == 80.0


def test_after_a_save_or_a_load_the_phase_is_what_it_was() -> None:
    node = Node()
    node.begin()
    node.enter("validation")
    node.beat(phase="save")  # came between the two of them
    node.say(SaveBegun("/c", "t", node.step))
    node.beat(phase="held")
    node.say(Saved("/c", "t", node.step, 1.0))
    node.now_s += 5000.0
    assert node.overdue()[0].phase == "validation"


def test_after_a_script_has_saved_by_itself_the_phase_is_what_it_was() -> None:
    node = Node()
    node.begin()
    node.beat(phase="save")
    node.now_s += 1000.0
    node.say(FileSaved("/out/model.pt", node.step, 1000.0))
    assert node.overdue() == []
    node.now_s += 100.0
    assert node.overdue()[0].phase == "step"


def test_a_rank_that_compiles_is_as_slow_as_it_likes_when_the_next_comes() -> None:
    node = Node()
    node.enter("import")
    for op in ("adam", "aio"):
        node.now_s += UNKNOWN_S - 1
        node.say(OpBuildBegun(op))
        node.now_s += UNKNOWN_S - 1
        node.say(OpBuildEnded(op, UNKNOWN_S - 1))
        assert node.overdue() == []


def test_a_message_that_was_delayed_is_no_step_back() -> None:
    node = Node()
    node.begin()
    node.beat(step=12)
    node.say(StepTaken(11, 1.0))
    node.now_s += 1000.0
    assert node.overdue()[0].step == 12


def test_waiting_for_the_disk_is_no_hang_and_excuses_those_who_wait_for_it() -> None:
    node = Node(ranks=2)
    node.begin()
    for _ in range(500):
        node.now_s += 10.0
        node.beat(ranks=[0], phase="held")
        node.beat(ranks=[1], phase="save")
        assert node.overdue() == []
    node.beat(ranks=[0], phase="save")
    node.now_s += 50.0
    assert node.overdue() == []  # all clocks begin anew
    node.now_s += UNKNOWN_S
    assert [one.rank for one in node.overdue()] == [0, 1]


def test_a_rank_that_was_stopped_while_it_waited_for_the_disk_is_overdue() -> None:
    node = Node()
    node.begin()
    node.beat(phase="held")
    node.now_s += FLOOR_S
    assert node.overdue() == []
    node.now_s += 1.0
    assert node.overdue() == []
    node.now_s += FLOOR_S
    assert [one.phase for one in node.overdue()] == ["held"]


def test_an_interpreter_that_does_not_end_is_overdue_after_the_floor() -> None:
    node = Node()
    node.begin(steps=1)
    node.say(PhaseBegun("exit"))
    assert node.limit_s() == FLOOR_S


def test_after_the_last_step_scripts_may_take_their_time() -> None:
    node = Node(last_step=10)
    node.begin(steps=9)
    assert node.limit_s() == FLOOR_S
    node.train(1, 1.0)
    assert node.limit_s() == UNKNOWN_S


def test_only_those_are_looked_at_that_are_alive() -> None:
    node = Node(ranks=3)
    node.begin()
    node.now_s += 1000.0
    assert [one.rank for one in node.watchdog.overdue(node.now_s, [1])] == [1]


def test_a_rank_that_never_says_a_word_counts_from_when_it_was_first_looked_for() -> None:
    watchdog = Watchdog(FACTOR, FLOOR_S, UNKNOWN_S)
    assert watchdog.overdue(5000.0, [3]) == []
    assert watchdog.overdue(5000.0 + UNKNOWN_S, [3]) == []
    assert [(one.rank, one.phase) for one in watchdog.overdue(5001.0 + UNKNOWN_S, [3])] == [(3, "start")]


def test_clocks_are_set_back_for_what_another_node_waits_for() -> None:
    node = Node()
    node.begin()
    node.now_s += 59.0
    node.watchdog.excuse(node.now_s)
    node.now_s += 59.0
    assert node.overdue() == []


def test_what_was_learnt_is_kept_over_attempts() -> None:
    node = Node(ranks=LEAST_SAMPLES)
    node.begin(step_s=30.0)
    node.again()
    node.enter("import", 2.0)
    assert node.limit_s() == FLOOR_S  # 2 s each
    node.enter("initialize", 2.0)
    node.enter("first_step", 2.0)
    node.train(1, 1.0)
    assert node.limit_s() == 300.0


def test_the_first_step_after_a_load_has_a_history_of_its_own() -> None:
    """A script that reads over the data of the steps before takes as long as there are many of them."""
    node = Node(ranks=LEAST_SAMPLES)
    node.begin()
    node.again()
    for phase in ("import", "initialize", "first_step"):
        node.enter(phase, 2.0)
    assert node.limit_s() == FLOOR_S
    node.say(LoadBegun("/c", None))
    assert node.limit_s() == UNKNOWN_S
    node.now_s += 5.0
    node.say(Loaded("/c", "t", 10, 1.0))
    assert node.limit_s() == UNKNOWN_S
    node.step = 10
    node.train(1, 200.0)
    assert node.limit_s() == FLOOR_S


def test_a_phase_that_once_took_longer_than_before_is_not_called_a_hang_twice() -> None:
    node = Node(ranks=LEAST_SAMPLES)
    node.begin()
    node.again()
    node.enter("import", 2.0)
    node.now_s += FLOOR_S + 1.0
    assert len(node.overdue()) == LEAST_SAMPLES
    assert len(node.overdue()) == LEAST_SAMPLES  # until its ranks are gone
    node.again()
    node.enter("import", 2.0)
    assert node.limit_s() == UNKNOWN_S
    node.enter("initialize", 1.0)
    assert node.limit_s() == FLOOR_S


def test_steps_that_hung_are_known_as_well_the_next_time() -> None:
    node = Node()
    node.begin(step_s=20.0)
    node.now_s += 500.0
    assert node.overdue()
    node.again()
    node.begin(steps=1)
    assert node.limit_s() == 200.0


phases = st.sampled_from(["import", "initialize", "first_step", "step", "validation", "save", "load", "held"])
steps = st.integers(0, 50)
messages = st.one_of(
    st.builds(Heartbeat, phases, st.just(0.0), st.none() | steps, st.integers(0, 100)),
    st.builds(PhaseBegun, phases),
    st.builds(PhaseEnded, phases, st.just(1.0)),
    st.builds(SaveBegun, st.just("/c"), st.just("t"), steps),
    st.builds(Saved, st.just("/c"), st.just("t"), steps, st.just(1.0)),
    st.builds(SaveFailed, st.just("/c"), st.just("t"), steps, st.just(1.0)),
    st.just(LoadBegun("/c", None)),
    st.builds(Loaded, st.just("/c"), st.just("t"), steps, st.just(1.0)),
    st.just(LoadFailed("/c", None, 1.0)),
    st.builds(StepTaken, steps, st.just(1.0)),
    st.just(ProbeFailed("step", "no norm")),
    st.just(Unknown("weather")),
)


@given(st.lists(st.tuples(messages, st.floats(0.0, FLOOR_S)), max_size=60))
def test_nobody_who_moves_within_the_floor_is_overdue_and_nobody_is_silent_for_ever(
    said: list[tuple[Message | Unknown, float]],
) -> None:
    watchdog, now_s, progress = Watchdog(FACTOR, FLOOR_S, UNKNOWN_S), 0.0, 1000
    for message, pause_s in said:
        watchdog.heard(0, message, now_s)
        progress += 1
        watchdog.heard(0, Heartbeat("step", 0.0, 1, progress), now_s)
        now_s += pause_s
        assert watchdog.overdue(now_s, [0]) == []
    assert watchdog.overdue(now_s, [0]) == []
    assert watchdog.overdue(now_s + max(UNKNOWN_S, FACTOR * FLOOR_S) + 1.0, [0]) != []
