from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.cli.incidents import incidents as show
from orchestrator.errors import ConfigError
from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    BatchesSkipped,
    CheckpointLoaded,
    CheckpointSaved,
    Decided,
    Event,
    Fault,
    LossRejected,
    NodeDraining,
    NodeQuarantined,
    Outcome,
    RankLost,
    Record,
    ResourcesGranted,
    ResourcesReleased,
    RunEnded,
    RunResumed,
    RunStarted,
    SnapshotFreed,
    SnapshotHeld,
    SnapshotQuarantined,
    Status,
    StepDone,
    StopRequested,
)
from orchestrator.ledger.incident import Trouble
from orchestrator.ledger.incidents import Incident, Incidents
from orchestrator.ledger.meter import Bucket, Meter
from tests.unit.ledger.test_meter import TIMELINES

PRICE = 3.6
RUN = RunStarted("night-1", "gpt", "lab", "H100", 4, PRICE)
GRANTED = ResourcesGranted(["n0", "n1"], 4)
Timeline = list[tuple[float, Event]]


def started(attempt: int, restore_step: int | None = None, restore_from: str | None = None) -> AttemptStarted:
    return AttemptStarted(attempt, "10.0.0.1", 29500, 4, restore_step, restore_from)


def lost(attempt: int, step: int, rank: int = 2, **changes: object) -> RankLost:
    base = {"node": "n0", "gpu": "GPU 2", "exit_status": -9, "reason": "killed by SIGKILL"} | changes
    return RankLost(attempt=attempt, rank=rank, step=step, **base)  # type: ignore[arg-type]


def steps(attempt: int, first: int, last: int, at: float) -> Timeline:
    """A step a second, the first one at ``at``."""
    return [(at + number - first, StepDone(attempt, number, 1.0)) for number in range(first, last + 1)]


def records(timeline: Iterable[tuple[float, Event]]) -> list[Record]:
    return [Record(seq, at, 1.7e9 + at, event) for seq, (at, event) in enumerate(timeline)]


def of(*timeline: tuple[float, Event]) -> list[Incident]:
    return Incidents().fold_all(records(timeline)).so_far()


def gpu_s(incident: Incident) -> float:
    return round(incident.gpu_hours * 3600, 6)


BEGIN: Timeline = [(0, RUN), (0, GRANTED), (0, started(1))]


def test_a_killed_rank() -> None:
    """The meter's own example: 30 s until it was noticed, 6 s to get going again, one step redone."""
    (incident,) = of(
        *BEGIN,
        (2, StepDone(1, 1, 1.0)),
        (3, StepDone(1, 2, 1.0)),
        (4, CheckpointSaved(1, 2, "step-2", "/c", 0.5)),
        (5, StepDone(1, 3, 1.0)),
        (35, lost(1, 3, detected_s=29.0, error="RuntimeError: boom\nwith more", alike=3)),
        (36, AttemptEnded(1, Outcome.FAILED, 3)),
        (36, Decided("restart", "restart 1 of 3 from step 2")),
        (37, started(2, 2, "memory")),
        (42, StepDone(2, 3, 1.0)),
        (43, StepDone(2, 4, 1.0)),
    )
    assert (
        incident.what
        == "rank 2 on node n0, GPU 2: killed by SIGKILL at step 3 (2 other ranks alike): RuntimeError: boom"
    )
    assert (incident.number, incident.fault, incident.attempt, incident.step) == (1, "exit", 1, 3)
    assert (incident.node, incident.gpu, incident.rank) == ("n0", "GPU 2", 2)
    assert (incident.at_elapsed_s, incident.time_unix_s) == (35, 1.7e9 + 35)
    assert (incident.detected_after_s, incident.recovered_after_s) == (29.0, 7 + 29.0)
    assert incident.redone_steps == 1
    assert gpu_s(incident) == 4 * (30 + 6 + 1)
    assert incident.cost_usd == pytest.approx(4 * 37 / 3600 * PRICE)
    assert (incident.action, incident.reason) == ("restart", "restart 1 of 3 from step 2")
    assert incident.done == "restored step 2 from memory"


def test_a_fault_during_a_recovery_takes_over_what_follows_but_not_what_was_lost_before() -> None:
    first, second = of(
        *BEGIN,
        *steps(1, 1, 10, at=1),
        (10, CheckpointSaved(1, 4, "step-4", "/c", 0.0)),
        (12, lost(1, 10)),
        (13, AttemptEnded(1, Outcome.FAILED, 10)),
        (13, started(2, 4, "disk")),
        *steps(2, 5, 6, at=16),  # redone for the first fault: 5, 6
        (18, lost(2, 6, rank=0)),
        (18, AttemptEnded(2, Outcome.FAILED, 6)),
        (18, Decided("restart", "again")),
        (19, started(3, 4, "disk")),
        *steps(3, 5, 12, at=22),  # 5 and 6 for the second, 7 to 10 for the first
    )
    assert (first.redone_steps, second.redone_steps) == (2 + 4, 2)
    assert (first.recovered_after_s, second.recovered_after_s) == (4, 4)
    assert gpu_s(first) == 4 * ((2 + 3) + 6)
    assert gpu_s(second) == 4 * ((1 + 3) + 2)
    assert (first.action, second.action) == (None, "restart")


def test_two_faults_before_the_next_step_are_recovered_from_together() -> None:
    first, second = of(
        *BEGIN,
        *steps(1, 1, 4, at=1),
        (5, lost(1, 4)),
        (5, AttemptEnded(1, Outcome.FAILED, 4)),
        (5, started(2, 2, "memory")),
        (9, lost(2, 2, fault=Fault.RESTORE)),
        (9, AttemptEnded(2, Outcome.FAILED, 2)),
        (10, started(3, 2, "disk")),
        *steps(3, 3, 5, at=12),
    )
    assert (first.recovered_after_s, second.recovered_after_s) == (7, 3)
    assert (first.redone_steps, second.redone_steps) == (2, 0), "the second lost no step"
    assert (gpu_s(first), gpu_s(second)) == (4 * (1 + 4 + 2), 4 * 2)
    assert first.done == second.done == "restored step 2 from disk"


def test_two_faults_at_once_are_two_incidents_and_cost_once() -> None:
    timeline = [
        *BEGIN,
        *steps(1, 1, 4, at=1),
        (6, lost(1, 4, alike=2)),
        (6, lost(1, 4, rank=3)),  # one of the two alike
        (6, lost(1, 4, rank=0, node="n1", exit_status=1, error="MemoryError", reason="exited with status 1")),
        (7, AttemptEnded(1, Outcome.FAILED, 4)),
        (7, Decided("restart", "")),
        (7, started(2)),
        *steps(2, 1, 1, at=10),
    ]
    first, second = of(*timeline)
    assert (gpu_s(first), gpu_s(second)) == (4 * (2 + 3 + 1), 0)
    assert (first.action, second.action) == ("restart", "restart")
    assert (first.recovered_after_s, second.recovered_after_s) == (4, 4)
    assert second.node == "n1"
    assert first.done == "began again at step 1"


def test_a_rejected_loss_is_one_incident_with_all_that_follows_from_it() -> None:
    (incident,) = of(
        *BEGIN,
        *steps(1, 1, 6, at=1),
        (7, LossRejected(1, 6, float("nan"), "it is NaN")),
        (7, StepDone(1, 7, 0.5)),
        (8, lost(1, 7, fault=Fault.LOSS)),
        (8, AttemptEnded(1, Outcome.FAILED, 7)),
        (8, BatchesSkipped([5, 6, 7], "")),
        (8, Decided("rewind", "rewind 1 of 3")),
        (8, SnapshotQuarantined(6, "step-6", "/c", "it follows step 6, whose loss was rejected")),
        (9, started(2, 4, "disk")),
        *steps(2, 5, 8, at=12),
    )
    assert (incident.fault, incident.step, incident.rank) == ("loss", 6, 2)
    assert incident.what == "the loss of step 6 was rejected: it is NaN"
    assert incident.done == "batches 5–7 left out; checkpoint step-6 quarantined; restored step 4 from disk"
    assert (incident.redone_steps, incident.action) == (3, "rewind")
    assert gpu_s(incident) == 4 * (1 + 1 + 1 + 2 + 3)


def test_a_dead_driver() -> None:
    timeline = records(
        [
            *BEGIN,
            *steps(1, 1, 5, at=1),
            (5.5, RunResumed("night-1", "its driver was lost after step 5")),
            (8, GRANTED),
            (9, started(2, 3, "disk")),
            *steps(2, 4, 6, at=12),
        ]
    )
    later = [
        Record(r.seq, r.elapsed_s, r.time_unix_s + 60 * (r.elapsed_s > 5.2), r.event) for r in timeline
    ]  # a minute that is on no clock of the run's
    (incident,) = Incidents().fold_all(later).so_far()
    assert incident.fault == "driver"
    assert (
        incident.what
        == "the run was taken up again 60.5 s after its last word: its driver was lost after step 5"
    )
    assert (incident.step, incident.attempt, incident.node, incident.rank) == (5, 1, None, None)
    assert (incident.detected_after_s, incident.recovered_after_s) == (None, 6.5)
    assert incident.redone_steps == 2
    assert gpu_s(incident) == 4 * (0.5 + 3 + 2), (
        "from the last step on, without the time in which nothing was held"
    )
    assert incident.done == "restored step 3 from disk"


def test_a_bad_checkpoint_pays_for_the_steps_that_it_would_have_saved() -> None:
    fault, checkpoint = of(
        *BEGIN,
        *steps(1, 1, 10, at=1),
        (10, lost(1, 10)),
        (10, AttemptEnded(1, Outcome.FAILED, 10)),
        (10, SnapshotQuarantined(8, "step-8", "/c", "mp_rank_00_model_states.pt: sha256 differs")),
        (10, started(2, 4, "disk")),
        *steps(2, 5, 11, at=12),
    )
    assert (checkpoint.fault, checkpoint.step, checkpoint.action) == ("checkpoint", 8, None)
    assert checkpoint.what == "checkpoint step-8 was quarantined: mp_rank_00_model_states.pt: sha256 differs"
    assert (fault.redone_steps, checkpoint.redone_steps) == (2, 4)
    assert (gpu_s(fault), gpu_s(checkpoint)) == (4 * (1 + 2), 4 * 4)
    assert fault.done == checkpoint.done == "restored step 4 from disk"


def test_a_rank_that_found_no_space_is_recovered_from_as_from_any_fault() -> None:
    """It is another thing than a checkpoint that waits for a full disk."""
    (incident,) = of(
        *BEGIN,
        *steps(1, 1, 2, at=1),
        (3, lost(1, 2, fault=Fault.DISK, error="OSError: [Errno 28] No space left on device")),
        (4, started(2, 2, "memory")),
        (7, StepDone(2, 3, 1.0)),
    )
    assert (incident.fault, incident.recovered_after_s, incident.done) == (
        "disk",
        4.0,
        "restored step 2 from memory",
    )
    assert gpu_s(incident) == 4 * (1 + 3)


def test_kinds_of_incidents_are_told_apart_by_their_names() -> None:
    assert not set(map(str, Fault)) & set(map(str, Trouble))


def test_a_full_disk_costs_nothing_of_its_own() -> None:
    held = SnapshotHeld("n1", "No space left on device")
    still, freed = of(
        *BEGIN,
        *steps(1, 1, 3, at=1),
        (3.5, SnapshotHeld("n0", "x")),
        (4, held),
        *steps(1, 4, 9, at=4.5),
        (9.6, SnapshotHeld("n0", "given up")),
        (10, SnapshotFreed("n1", 6.0)),
    )
    assert (freed.fault, freed.node, freed.step) == ("write_blocked", "n1", 3)
    assert (freed.recovered_after_s, freed.cost_usd, freed.done) == (6.0, 0, "wrote it after 6.00 s")
    assert (still.node, still.recovered_after_s, still.done) == ("n0", None, "given up")


def test_a_run_that_is_given_up_and_taken_up_again() -> None:
    begin: Timeline = [
        *BEGIN,
        *steps(1, 1, 2, at=1),
        (3, lost(1, 2, fault=Fault.NODE, gpu="the whole node", error="its agent died")),
        (3, AttemptEnded(1, Outcome.FAILED, 2)),
        (3, NodeQuarantined("n0", "")),
        (3, Decided("stop", "stop: no restarts are allowed")),
        (4, ResourcesReleased()),
        (4, RunEnded(Status.FAILED, "stop")),
    ]
    (given_up,) = of(*begin)
    assert given_up.what == "node n0: lost at step 2: its agent died"
    assert (given_up.action, given_up.recovered_after_s) == ("stop", None)
    assert given_up.done == "node n0 quarantined; the run ended, failed"
    node, driver = of(*begin, (4, RunResumed("night-1", "it had ended as failed at step 2")), (5, GRANTED),
                      (5, started(2)), *steps(2, 1, 3, at=7))  # fmt: skip
    assert node.done == "node n0 quarantined; began again at step 1"
    assert (node.recovered_after_s, driver.recovered_after_s) == (4, 3)
    assert (node.redone_steps, driver.redone_steps) == (2, 0)
    assert (node.action, driver.action) == ("stop", None)


def test_an_attempt_that_fails_without_a_word_is_an_incident_and_a_stopped_one_is_none() -> None:
    failed = AttemptEnded(1, Outcome.FAILED, 2)
    (incident,) = of(*BEGIN, *steps(1, 1, 2, at=1), (3, failed), (4, started(2)), *steps(2, 1, 1, at=6))
    assert (incident.what, incident.fault) == ("attempt 1 failed at step 2", "exit")
    assert of(*BEGIN, *steps(1, 1, 2, at=1), (3, StopRequested("Ctrl-C", 30)), (4, failed)) == []


def test_a_script_that_loads_by_itself() -> None:
    (incident,) = of(*BEGIN, *steps(1, 1, 9, at=1), (9, lost(1, 9)), (9, AttemptEnded(1, Outcome.FAILED, 9)),
                     (9, started(2)), (11, CheckpointLoaded(2, 8, "step-8", "/c", 0.1)),
                     *steps(2, 9, 9, at=12))  # fmt: skip
    assert incident.done == "loaded step 8 by itself"


def test_a_drained_node_costs_its_recovery_and_no_step() -> None:
    (incident,) = of(
        *BEGIN,
        *steps(1, 1, 4, at=1),
        (4.5, NodeDraining(1, "n1", 4, 27.53)),
        (5, StepDone(1, 5, 1.0)),
        (6, CheckpointSaved(1, 5, "step-5", "/c", 1.0)),
        (7, AttemptEnded(1, Outcome.STOPPED, 5)),
        (7, Decided("replace", "n1 is being drained: wait for another node")),
        (9, started(2, 5, "disk")),
        (12, StepDone(2, 6, 1.0)),
    )
    assert (incident.fault, incident.node, incident.rank) == ("drain", "n1", None)
    assert incident.what == "node n1 is being drained, 27.5 s are left"
    assert (incident.redone_steps, incident.recovered_after_s) == (0, 7.5)
    assert gpu_s(incident) == 4 * (1 + 2 + 2)
    assert (incident.action, incident.done) == ("replace", "restored step 5 from disk")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault.EXIT, "rank 2 on node n0, GPU 2: killed by SIGKILL at step 7"),
        (Fault.MEMORY, "rank 2 on node n0, GPU 2: killed by SIGKILL as the host ran out of memory at step 7"),
        (Fault.HANG, "rank 2 on node n0, GPU 2: made no progress any more at step 7"),
        (Fault.NODE, "node n0: lost at step 7"),
        (Fault.LOSS, "rank 2 on node n0, GPU 2: its loss was rejected at step 7"),
        (
            Fault.RESTORE,
            "rank 2 on node n0, GPU 2: did not load the checkpoint that it was told to at step 7",
        ),
        (Fault.DRIVER, "the run's own process: lost at step 7"),
    ],
)
def test_every_kind_of_fault_is_said_in_its_own_words(fault: Fault, words: str) -> None:
    (incident,) = of(*BEGIN, (1, lost(1, 7, fault=fault, reason="why")))
    assert incident.what == f"{words}: why"
    assert incident.fault == fault.value


def test_a_run_under_way_is_counted_up_to_now() -> None:
    folded = Incidents().fold_all(records([*BEGIN, *steps(1, 1, 3, at=1), (4, lost(1, 3))]))
    assert gpu_s(folded.so_far()[0]) == 4 * 1
    assert gpu_s(folded.so_far(now_elapsed_s=14)[0]) == 4 * 11
    folded.fold(Record(99, 5, 1.7e9, started(2)))
    folded.fold(Record(100, 6, 1.7e9, StepDone(2, 1, 0.5)))
    assert gpu_s(folded.so_far(now_elapsed_s=16)[0]) == 4 * (1 + 2 + 10), (
        "the step under way is to be redone too"
    )


# ---- whatever happens, the costs are those of the meter ------------------------------------------

KINDS = st.sampled_from(
    ["step"] * 6
    + ["save", "fault", "both", "loss", "node", "drain", "driver", "stop", "torn", "held", "freed", "silent"]
)
SECONDS = st.sampled_from([0.0, 0.5, 1.0]) | st.integers(0, 20_000_000).map(lambda us: us / 1e6)
SCRIPTS = st.lists(st.tuples(KINDS, SECONDS, SECONDS, st.integers(0, 3)), max_size=40)


STEP = ("step", 1.0, 1.0, 0)


class Driver:
    """Says what the supervise loop would, in its order, while a script of mishaps is played to it."""

    def __init__(self) -> None:
        self.now, self.attempt, self.step, self.saved = 0.0, 0, 0, [0]
        self.timeline: Timeline = []
        self.tell(0, RUN, GRANTED)
        self.start(1.0)

    def tell(self, gap_s: float, *events: Event) -> None:
        self.now += gap_s
        self.timeline += [(round(self.now, 6), event) for event in events]

    def start(self, gap_s: float) -> None:
        self.attempt += 1
        self.step = self.saved[-1]
        self.tell(gap_s, started(self.attempt, self.step or None, "disk" if self.step else None))

    def failed(self) -> AttemptEnded:
        return AttemptEnded(self.attempt, Outcome.FAILED, self.step)

    def play(self, kind: str, gap_s: float, more_s: float, number: int) -> None:
        match kind:
            case "step":
                self.step += 1
                self.tell(gap_s, StepDone(self.attempt, self.step, more_s))
            case "save":
                self.saved.append(self.step)
                self.tell(gap_s, CheckpointSaved(self.attempt, self.step, "t", "/c", more_s))
            case "fault" | "both":
                self.tell(gap_s, lost(self.attempt, self.step, detected_s=more_s))
                if kind == "both":
                    self.tell(more_s, lost(self.attempt, self.step, rank=0, error="another"))
                self.tell(more_s, self.failed(), Decided("restart", ""))
                self.start(more_s)
            case "silent":
                self.tell(gap_s, self.failed())
                self.start(more_s)
            case "loss":
                self.tell(gap_s, LossRejected(self.attempt, self.step, None, "NaN"))
                for _ in range(number):  # seen in the same poll, or before the ranks had stopped
                    self.step += 1
                    self.tell(more_s, StepDone(self.attempt, self.step, more_s))
                self.tell(more_s, self.failed(), BatchesSkipped([3], ""), Decided("rewind", ""))
                self.start(more_s)
            case "node":
                self.tell(
                    gap_s, lost(self.attempt, self.step, fault=Fault.NODE), self.failed(), ResourcesReleased()
                )
                self.tell(more_s, ResourcesGranted(["n2"], number))
                self.start(gap_s)
            case "drain":
                self.tell(gap_s, NodeDraining(self.attempt, "n0", self.step, more_s))
                for _ in range(number):  # until the ranks have heard of it
                    self.step += 1
                    self.tell(more_s, StepDone(self.attempt, self.step, more_s))
                self.saved.append(self.step)
                self.tell(more_s, CheckpointSaved(self.attempt, self.step, "t", "/c", more_s))
                self.tell(
                    gap_s, AttemptEnded(self.attempt, Outcome.STOPPED, self.step), Decided("replace", "")
                )
                self.start(more_s)
            case "driver":
                self.tell(gap_s, RunResumed("night-1", "lost"))
                self.tell(more_s, ResourcesGranted(["n0"], 4))
                self.start(more_s)
            case "stop":
                self.tell(gap_s, StopRequested("Ctrl-C", 30))
                self.step += 1
                self.tell(more_s, StepDone(self.attempt, self.step, more_s))
                self.tell(more_s, AttemptEnded(self.attempt, Outcome.STOPPED, self.step), ResourcesReleased())
                self.tell(0, RunEnded(Status.INTERRUPTED, "Ctrl-C"), RunResumed("night-1", "stopped"))
                self.tell(more_s, GRANTED)
                self.start(more_s)
            case "torn":
                self.saved = self.saved[:-1] or [0]
                self.tell(gap_s, SnapshotQuarantined(self.step - number, "t", "/c", "torn"))
            case "held":
                self.tell(gap_s, SnapshotHeld("n0", "full"))
            case "freed":
                self.tell(gap_s, SnapshotFreed("n0", more_s))


def played(script: list[tuple[str, float, float, int]]) -> list[Record]:
    driver = Driver()
    for kind, gap_s, more_s, number in script:
        driver.play(kind, gap_s, more_s, number)
    return records(driver.timeline)


def gpu_us(found: list[Incident]) -> int:
    return sum(round(incident.gpu_hours * 3.6e9) for incident in found)


def meter_gpu_us(meter: Meter, now_s: float | None = None) -> int:
    spent = meter.bill(now_s).gpu_seconds
    return sum(round(spent[bucket] * 1e6) for bucket in (Bucket.RECOVERING, Bucket.REDONE))


@settings(max_examples=300, deadline=None)
@given(SCRIPTS, SECONDS)
@example([*3 * [STEP], ("fault", 1.0, 1.0, 0), *2 * [STEP], ("save", 0.0, 1.5, 0), STEP], 1.0)
def test_the_costs_sum_to_what_the_meter_counts_as_recovering_and_redone(
    script: list[tuple[str, float, float, int]], ahead_s: float
) -> None:
    folded, meter, highest, redone = Incidents(), Meter(), 0, 0
    for record in played(script):
        folded.fold(record)
        meter.fold(record)
        if isinstance(record.event, StepDone):
            redone += record.event.step <= highest
            highest = max(highest, record.event.step)
        found, now_s = folded.so_far(), record.elapsed_s + ahead_s
        assert gpu_us(found) == meter_gpu_us(meter)
        assert folded.totals() == (len(found), pytest.approx(sum(incident.cost_usd for incident in found)))
        assert gpu_us(folded.so_far(now_s)) == meter_gpu_us(meter, now_s)
        assert all(incident.gpu_hours >= 0 for incident in found)
        assert sum(incident.redone_steps for incident in found) == redone
    assert sum(incident.cost_usd for incident in found) == pytest.approx(meter_gpu_us(meter) / 3.6e9 * PRICE)
    assert [incident.number for incident in found] == list(range(1, len(found) + 1))
    assert all(incident.recovered_after_s is None or incident.recovered_after_s >= 0 for incident in found)


@settings(max_examples=200, deadline=None)
@given(TIMELINES)
def test_records_in_any_order_never_cost_more_than_the_meter_counts(timeline: list[Record]) -> None:
    found = Incidents().fold_all(timeline).so_far()
    assert all(incident.gpu_hours >= 0 for incident in found)
    assert gpu_us(found) <= meter_gpu_us(Meter().fold_all(timeline))


# ---- the verb ------------------------------------------------------------------------------------


def run_directory(root: Path, name: str, timeline: Timeline) -> Path:
    directory = root / name
    directory.mkdir(parents=True)
    (directory / "journal.jsonl").write_text("".join(record.to_json() + "\n" for record in records(timeline)))
    return directory


def shown(run: str, root: Path, as_json: bool = False, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    show(run, str(root), as_json, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


STORY: Timeline = [
    *BEGIN,
    *steps(1, 1, 9, at=1),
    (12, lost(1, 9, fault=Fault.HANG, reason="no progress for 3 s, 10 medians of 'step'", detected_s=3.0)),
    (12, AttemptEnded(1, Outcome.FAILED, 9)),
    (12, Decided("restart", "restart 1 of 3")),
    (13, started(2, 8, "memory")),
    *steps(2, 9, 20, at=15),
    (27, RunEnded(Status.FINISHED, "")),
]


def test_a_table_by_name_or_by_path_and_json_for_programs(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "runs", "night-1", STORY)
    by_name = shown("night-1", tmp_path / "runs", width=160)
    assert by_name == shown(str(directory), tmp_path, width=160)
    row, done = by_name.splitlines()[3:5]
    assert row.split(maxsplit=2)[:2] == ["1", "0:00:12"]
    assert "rank 2 on node n0, GPU 2: made no progress any more at step 9: no progress for 3 s" in row
    assert row.split()[-6:] == ["3.00", "s", "6.00", "s", "1", "$0.0240"]
    assert done.strip() == "restored step 8 from memory"
    assert by_name.splitlines()[-1] == "night-1: 1 incident, 0.00667 GPU-hours, $0.0240: 22.2% of $0.108"
    (row,) = json.loads(shown("night-1", tmp_path / "runs", as_json=True, width=20))
    assert row["recovered_after_s"] == 6.0
    assert row["cost_usd"] == pytest.approx(4 * 6 / 3600 * PRICE)
    assert {"number", "fault", "what", "node", "gpu", "rank", "step", "attempt", "at_elapsed_s", "time_unix_s",
            "detected_after_s", "recovered_after_s", "redone_steps", "gpu_hours", "cost_usd", "action", "reason",
            "done"} == row.keys()  # fmt: skip


def test_a_run_without_incidents_says_so(tmp_path: Path) -> None:
    run_directory(tmp_path, "calm", [*BEGIN, *steps(1, 1, 3, at=1)])
    assert shown("calm", tmp_path) == "night-1: no incidents\n"
    assert json.loads(shown("calm", tmp_path, as_json=True)) == []


def test_a_run_that_is_not_there_is_refused_with_the_near_miss(tmp_path: Path) -> None:
    for name in ("night-1", "day-1"):
        run_directory(tmp_path, name, BEGIN)
    with pytest.raises(ConfigError, match=r"no run 'nigth-1' in .*; did you mean 'night-1'\? \(newest: "):
        shown("nigth-1", tmp_path)
    with pytest.raises(ConfigError, match=r"no run 'x' in .*absent \(there is none yet\)"):
        shown("x", tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: not a run directory"):
        shown(str(tmp_path / "empty"), tmp_path)


@pytest.mark.parametrize(
    ("first_step", "done"),
    [(1, "began again at step 1"), (3, "went on at step 3, from a snapshot of the script's own")],
)
def test_what_an_attempt_without_a_checkpoint_of_ours_begins_at_is_said_when_it_is_known(
    first_step: int, done: str
) -> None:
    fault: Timeline = [
        *BEGIN,
        *steps(1, 1, 4, at=1),
        (5, lost(1, 4)),
        (5, AttemptEnded(1, Outcome.FAILED, 4)),
    ]
    (before,) = of(*fault, (6, started(2)))
    assert before.done == "restarted without a checkpoint of ours"
    (after,) = of(*fault, (6, started(2)), *steps(2, first_step, 5, at=7))
    assert after.done == done
