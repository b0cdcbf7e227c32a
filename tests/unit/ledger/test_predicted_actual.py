"""Predicted against actual: which steps count, what memory is a rank's own, and what people and MLflow are
told."""

from __future__ import annotations

import io
import statistics
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.agent.gather import Gather, part_of
from orchestrator.agent.messages import RanksPeaked
from orchestrator.cli.show.terminal import Terminal
from orchestrator.cluster.attempt import Attempt
from orchestrator.events import (
    AttemptStarted,
    Event,
    MemoryPeaked,
    Record,
    ResourcesGranted,
    RunEnded,
    RunStarted,
    Status,
    StepDone,
)
from orchestrator.ledger import predicted_actual
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.mlflow.projection import Projection
from orchestrator.ledger.predicted_actual import WARMING_STEPS, Compared, PredictedVsActual
from orchestrator.rank.messages import MemoryPeak
from orchestrator.rank.probes.peak_memory import PeakMemory, private_peak_bytes

MB = 1_000_000
RUN = RunStarted(
    *("night", "gpt", "lab", "H100", 4, 2.5, "GPU", 40, 1000, 1e9, 1e12),
    predicted_step_time_s=0.5,
    predicted_memory_bytes=60_000 * MB,
    predicted_cost_usd_per_step=0.01,
)
BARE = RunStarted("night", "script", "lab", "H100", 4, 2.5)


def records(*events: Event) -> list[Record]:
    """One a second."""
    return [Record(seq, float(seq), 1e9 + seq, event) for seq, event in enumerate(events)]


def attempt(number: int, times_s: list[float]) -> list[Event]:
    steps = [StepDone(number, step, seconds) for step, seconds in enumerate(times_s, 1)]
    return [AttemptStarted(number, "h", 1, 4), *steps]


TIMES = st.lists(st.floats(0.001, 100), max_size=12)


@given(st.lists(TIMES, min_size=1, max_size=4))
def test_a_step_is_the_median_without_the_first_ones_of_each_attempt(attempts: list[list[float]]) -> None:
    events = [event for number, times in enumerate(attempts, 1) for event in attempt(number, times)]
    steady = [seconds for times in attempts for seconds in times[WARMING_STEPS:]]
    folded = PredictedVsActual().fold_all(records(RUN, *events))
    assert folded.steady_steps == len(steady)
    assert folded.step_time_s == (pytest.approx(statistics.median(steady)) if steady else None)
    newest = attempts[-1][WARMING_STEPS:]
    assert folded.newest_step_time_s == (pytest.approx(statistics.median(newest)) if newest else None)


def test_a_run_of_a_month_keeps_no_more_steps_than_a_median_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicted_actual, "MOST_STEPS", 100)
    folded = PredictedVsActual().fold_all(records(RUN, *attempt(1, [9.0] * 500), *attempt(2, [1.0] * 110)))
    assert folded.steady_steps == 497 + 107
    assert folded.step_time_s == 1.0, "the last ones are those that count"


def test_clocks_that_make_no_sense_are_no_steps() -> None:
    folded = PredictedVsActual().fold_all(
        records(RUN, *attempt(1, [1, 1, 1, float("nan"), float("inf"), 0.0, -1.0, 2.0]))
    )
    assert (folded.steady_steps, folded.step_time_s) == (1, 2.0)


def test_cost_is_compared_for_the_steps_that_were_done() -> None:
    told = records(RUN, ResourcesGranted(["n"], 4), *attempt(1, [1.0] * 8), MemoryPeaked(1, 8, 66_000 * MB))
    compared = Ledger().fold_all(told).predicted_actual()
    assert compared.cost_usd == Compared(pytest.approx(8 * 0.01), pytest.approx(10 * 4 * 2.5 / 3600))
    assert compared.memory_bytes.ratio == pytest.approx(1.1)
    assert compared.step_time_s.ratio == 2.0


def test_memory_is_the_most_of_all_attempts() -> None:
    folded = PredictedVsActual().fold_all(records(RUN, *(MemoryPeaked(1, 1, peak) for peak in (3, 9, 4))))
    assert folded.peak_memory_bytes == 9


def points(*events: Event) -> dict[str, float]:
    projection = Projection(1e9)
    return {point.key: point.value for record in records(*events) for point in projection.fold(record)}


def test_mlflow_is_told_at_the_end_with_units_in_the_names() -> None:
    steps = attempt(1, [1.0] * 8)
    last = points(
        RUN,
        ResourcesGranted(["n"], 4),
        *steps,
        MemoryPeaked(1, 8, 66_000 * MB),
        RunEnded(Status.FINISHED, ""),
    )
    named = {key: value for key, value in last.items() if key.startswith(("predicted_", "actual_"))}
    assert named == {
        "predicted_memory_bytes": 60e9,
        "actual_memory_bytes": 66e9,
        "actual_over_predicted_memory": pytest.approx(1.1),
        "predicted_step_time_s": 0.5,
        "actual_step_time_s": 1.0,
        "actual_over_predicted_step_time": 2.0,
        "predicted_cost_usd": pytest.approx(0.08),
        "actual_over_predicted_cost": pytest.approx(last["cost_usd"] / 0.08),
    }
    bare = points(BARE, *steps, RunEnded(Status.FINISHED, ""))
    assert not any(key.startswith(("predicted_", "actual_over")) for key in bare)
    assert bare["actual_step_time_s"] == 1.0


def summary(*events: Event) -> str:
    console = Console(file=io.StringIO(), width=100, record=True)
    terminal, ledger = Terminal(console, None), Ledger()
    for record in records(*events):
        ledger.fold(record)
        terminal.observe(record, ledger.bill())
    terminal.summary(None, ledger, {})
    return console.export_text()


def test_the_summary_compares_and_without_a_prediction_shows_what_was_measured() -> None:
    steps = attempt(1, [0.25] * 8)
    peak = MemoryPeaked(1, 8, 66_000 * MB)
    shown = [
        " ".join(line.split()) for line in summary(RUN, ResourcesGranted(["n"], 4), *steps, peak).splitlines()
    ]
    heading = shown.index("predicted actual ratio")
    assert shown[heading + 1 : heading + 3] == [
        "memory per GPU 60 GB 66 GB 1.10",
        "step time 500 ms 250 ms 0.500",
    ]
    assert shown[heading + 3].startswith("cost of these steps $0.0800 $0.")
    bare = [
        " ".join(line.split())
        for line in summary(BARE, ResourcesGranted(["n"], 4), *steps, peak).splitlines()
    ]
    assert not any("predicted" in line for line in bare)
    assert {"step time 250 ms", "memory per GPU 66 GB"} <= set(bare)
    assert "step time" not in summary(BARE, ResourcesGranted(["n"], 4)), "nothing was measured"


# ---- what a rank measures ------------------------------------------------------------------------

CHILD = """
import mmap, os, sys
from orchestrator.rank.probes.peak_memory import private_peak_bytes
held = bytearray(os.urandom(1 << 20) * 200)  # what the zygote has, in both processes after the fork
before, after = os.pipe(), os.pipe()
if os.fork() == 0:
    at_first = private_peak_bytes()
    own = bytearray(os.urandom(1 << 20) * 120)
    del own
    slot = mmap.mmap(-1, 100 << 20)  # shared memory, as checkpoints are staged in
    slot.write(bytes(100 << 20))
    print(at_first, private_peak_bytes(), flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.real
def test_what_a_rank_shares_and_what_it_stages_is_not_its_own_and_what_it_gave_back_was() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=60, check=True
    )
    at_first, peak = (int(word) for word in done.stdout.split())
    assert at_first < 40 * MB, "the 200 MiB that it has from its parent are not counted"
    # bytes(100 << 20), a copy on its way into the slot, is the rank's own for a moment.
    assert 120 * MB < peak - at_first < 150 * MB


def test_a_kernel_that_does_not_tell_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "smaps_rollup").write_text("Rss:  10 kB\n")
    (tmp_path / "status").write_text("VmHWM:  10 kB\n")
    with pytest.raises(KeyError):
        private_peak_bytes(tmp_path)
    with pytest.raises(OSError, match="smaps_rollup"):
        private_peak_bytes(tmp_path / "missing")


def test_private_pages_at_the_peak(tmp_path: Path) -> None:
    rollup = {"Rss": 1000, "Pss_Shmem": 150, "Private_Clean": 50, "Private_Dirty": 450}
    status = {"VmHWM": 1300, "RssShmem": 200}  # of the 200, 100 are mapped by another process too
    for name, figures in (("smaps_rollup", rollup), ("status", status)):
        (tmp_path / name).write_text(
            "header\n" + "".join(f"{key}:  {value} kB\n" for key, value in figures.items())
        )
    assert private_peak_bytes(tmp_path) == 1024 * (500 - 100 + 300)


def test_memory_is_looked_at_after_one_two_four_eight_steps() -> None:
    told: list[tuple[int, Any]] = []
    heard = threading.Semaphore(0)

    def tell(step: int, peak_bytes: int | None) -> None:
        told.append((step, peak_bytes))
        heard.release()

    peak = PeakMemory(tell)
    for step in range(101, 121):
        before = len(told)
        peak.step_done(step, SimpleNamespace(type="cpu"))
        if step - 100 in (1, 2, 4, 8, 16):
            assert heard.acquire(timeout=10)
        assert len(told) - before == (1 if step - 100 in (1, 2, 4, 8, 16) else 0)
    assert [step for step, _ in told] == [101, 102, 104, 108, 116]
    assert all(isinstance(size, int) and size > MB for _, size in told)


def test_ranks_become_one_and_the_fullest_counts() -> None:
    gather = Gather(3)
    sizes = [5, None, 7]
    parts = [part_of(rank, MemoryPeak(4, size)) for rank, size in enumerate(sizes)]
    assert [gather.add(part) for part in parts[:2]] == [None, None]
    whole = gather.add(parts[2])
    assert whole == RanksPeaked(4, 3, 7)
    attempt = Attempt(2, ["n0"], 3)
    assert attempt.receive(0, whole, 0.0) == [MemoryPeaked(2, 4, 7)]
    unknown = RanksPeaked(8, 3, None)
    assert attempt.receive(0, unknown, 0.0) == []
