"""What the supervise loop counts on of every worker group, as tests that a group's own tests inherit."""

from __future__ import annotations

import time
from enum import StrEnum

from orchestrator.events import AttemptEnded, AttemptStarted, Event, Outcome, RankLost, ResourcesGranted
from orchestrator.supervise.worker_group import WorkerGroup

_POLL_S = 0.02


class Behaviour(StrEnum):
    """What the two ranks of a group are to do."""

    FINISH = "finish"  # train a few steps, and end well
    WAIT = "wait"  # go on until they are asked to stop, and end then
    DEAF = "deaf"  # go on whatever they are asked
    RAISE = "raise"  # rank 1 raises ``ValueError("bad luck on rank 1")``, in every attempt
    SIGKILL = "sigkill"  # rank 1 is killed by SIGKILL, in every attempt


class WorkerGroupContract:
    """Inherit it, name the class ``Test…`` and write :meth:`make`; pytest runs the rest.

    Every group that was made is closed after its test, also after a failed one.
    """

    timeout_s = 120.0  # in which whatever is waited for has come, on however busy a machine

    def make(self, behaviour: Behaviour) -> WorkerGroup:
        """Return a new group of two ranks that behave so."""
        raise NotImplementedError

    def wait_until_up(self, group: WorkerGroup) -> None:
        """Return when every rank hears what it is asked. A group that takes its time to start has to override
        it."""
        group.poll()

    def stop_the_deaf(self, group: WorkerGroup) -> None:
        """Ask ranks that do not listen to stop, with a grace that is over soon."""
        group.stop(grace_s=1.0)

    def setup_method(self) -> None:
        """Called by pytest before each test."""
        self._made: list[WorkerGroup] = []

    def teardown_method(self) -> None:
        """Called by pytest after each test."""
        for group in self._made:
            group.close()

    def test_an_attempt_that_finishes_says_so_once_and_loses_no_rank(self) -> None:
        group = self._group(Behaviour.FINISH)
        self._begin(group)
        events = self._until_ended(group)
        assert _outcome(events) is Outcome.FINISHED, events
        assert not [event for event in events if isinstance(event, RankLost)], events

    def test_a_rank_that_raises_is_the_cause_in_its_own_words_and_another_attempt_can_follow(self) -> None:
        for cause in self._two_failures(Behaviour.RAISE, status=1):
            assert cause.error == "ValueError: bad luck on rank 1", cause

    def test_a_rank_that_is_killed_is_the_cause_and_another_attempt_can_follow(self) -> None:
        self._two_failures(Behaviour.SIGKILL, status=-9)

    def test_stop_gives_the_ranks_their_time(self) -> None:
        group = self._group(Behaviour.WAIT)
        self._begin(group)
        self.wait_until_up(group)
        asked_s = time.monotonic()
        group.stop(grace_s=60)
        assert _outcome(self._until_ended(group)) is Outcome.STOPPED
        assert time.monotonic() - asked_s < 60, "the ranks had to be killed"

    def test_ranks_that_do_not_listen_are_killed_when_their_grace_is_over(self) -> None:
        group = self._group(Behaviour.DEAF)
        self._begin(group)
        self.wait_until_up(group)
        self.stop_the_deaf(group)
        assert _outcome(self._until_ended(group)) is Outcome.STOPPED

    def test_kill_does_not_ask(self) -> None:
        group = self._group(Behaviour.DEAF)
        self._begin(group)
        self.wait_until_up(group)
        group.kill()
        assert _outcome(self._until_ended(group)) is Outcome.STOPPED

    def test_close_may_be_called_at_any_time_and_more_than_once(self) -> None:
        group = self._group(Behaviour.WAIT)
        group.close()
        self._begin(group)
        group.close()
        group.close()

    def _group(self, behaviour: Behaviour) -> WorkerGroup:
        group = self.make(behaviour)
        self._made.append(group)
        return group

    def _begin(self, group: WorkerGroup, attempt: int = 1) -> AttemptStarted:
        if attempt == 1:
            granted = group.acquire(lambda: False)
            assert isinstance(granted, ResourcesGranted), granted
            assert granted.nodes, granted
            assert granted.gpus == 2, granted
        started = group.start(attempt)
        assert started.attempt == attempt, started
        return started

    def _two_failures(self, behaviour: Behaviour, status: int) -> list[RankLost]:
        group, found = self._group(behaviour), []
        for attempt in (1, 2):
            self._begin(group, attempt)
            events = self._until_ended(group)
            assert _outcome(events) is Outcome.FAILED, events
            causes = [event for event in events if isinstance(event, RankLost)]
            assert [(c.rank, c.exit_status, c.attempt) for c in causes] == [(1, status, attempt)], causes
            found += causes
        return found

    def _until_ended(self, group: WorkerGroup) -> list[Event]:
        events: list[Event] = []
        deadline_s = time.monotonic() + self.timeout_s
        while time.monotonic() < deadline_s:
            events += group.poll()
            if any(isinstance(event, AttemptEnded) for event in events):
                assert group.poll() == [], "something follows an attempt's end"
                return events
            time.sleep(_POLL_S)
        raise AssertionError(f"no end within {self.timeout_s} s, only {events}")


def _outcome(events: list[Event]) -> Outcome:
    ends = [event for event in events if isinstance(event, AttemptEnded)]
    assert len(ends) == 1, events
    assert events[-1] == ends[0], events
    return ends[0].outcome
