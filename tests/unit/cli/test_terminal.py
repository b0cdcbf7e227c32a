"""What a run says in a terminal, line by line."""

from __future__ import annotations

import dataclasses
import io

from rich.console import Console

from orchestrator.cli.show.terminal import Terminal
from orchestrator.events import (
    AttemptEnded,
    AttemptStarted,
    BatchesSkipped,
    CheckpointLoaded,
    CheckpointSaved,
    CheckpointWriteBlocked,
    CheckpointWriteResumed,
    Decided,
    Event,
    Fault,
    LossRejected,
    MemoryPeaked,
    MetricLogged,
    NodeDraining,
    NodeQuarantined,
    NodeSampled,
    Outcome,
    PhaseEntered,
    ProbesFailed,
    RankLost,
    RankOutput,
    Record,
    ResourcesGranted,
    ResourcesReleased,
    RunEnded,
    RunResumed,
    RunStarted,
    SnapshotCommitted,
    SnapshotQuarantined,
    StallNamed,
    Status,
    StepDone,
    StopRequested,
    StragglerNamed,
)
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.story import Story
from orchestrator.records import record_from_json
from orchestrator.script_events import (
    OpCompiled,
    OpCompiling,
    ScriptSaveCompleted,
    ScriptSaved,
    StepsWithoutEngine,
)
from tests.support.golden_text import assert_golden

RUN = RunStarted(
    *("night-1", "gpt", "lab", "H100", 4, 2.5, "GPU", 40, 1_000_000, 1e9, 1e15),
    predicted_step_time_s=0.8,
    predicted_memory_bytes=61_400_000_000,
    predicted_cost_usd_per_step=0.0025,
)
LOST = RankLost(
    attempt=1,
    rank=3,
    node="n1",
    gpu="GPU 1",
    exit_status=-9,
    step=21,
    reason="killed by SIGKILL",
    error="RuntimeError: CUDA out of memory",
    log_tail=["Traceback (most recent call last):", '  File "train.py", line 3'],
    log_path="runs/night-1/logs/rank-3.log",
    alike=4,
)
STORY: list[tuple[float, Event]] = [
    (0, RUN),
    (3, ResourcesGranted(["n0", "n1"], 4)),
    (3, AttemptStarted(1, "10.0.0.1", 29500, 4)),
    (4, PhaseEntered(1, "first_step")),
    *[(6.0 + i, StepDone(1, i + 1, 1.0, 5 / (i + 1), 1e-3, 1.0)) for i in range(21)],
    (26.4, MemoryPeaked(1, 16, 58_900_000_000)),
    (26.5, NodeSampled("n0", {"cpu_utilization_percentage": 5.0})),
    (27, CheckpointSaved(1, 21, "global_step21", "/c", 0.4)),
    (27.1, MetricLogged(1, 21, {"val_loss": 3.25})),
    (28, RankOutput(1, 0, "\x1b[31mhello\x1b[0m [bold]world\r\n")),
    (40, LOST),
    (40, dataclasses.replace(LOST, rank=2)),
    (40, dataclasses.replace(LOST, rank=1, exit_status=1, error="NCCL: peer gone")),
    (40, AttemptEnded(1, Outcome.FAILED, 21)),
    (40, Decided("restart", "1 of 3 restarts used")),
    (41, AttemptStarted(2, "10.0.0.1", 29501, 4)),
    (44, CheckpointLoaded(2, 20, "global_step20", "/c", 0.8)),
    *[(46.0 + i, StepDone(2, 21 + i, 1.0, 5 / (21 + i), 1e-3, 1.0)) for i in range(20)],
    (66, AttemptEnded(2, Outcome.FINISHED, 40)),
    (67, ResourcesReleased()),
    (67, RunEnded(Status.FINISHED, "all 40 steps done")),
]
WHERE = {"MLflow": "http://127.0.0.1:5000/#/experiments/1/runs/abc", "logs": "runs/night-1/logs"}


def committed(step: int) -> SnapshotCommitted:
    return SnapshotCommitted(1, step, f"step-{step}", "/c", 12_000_000, 0.4)


def fault(attempt: int, kind: Fault, **changes: object) -> RankLost:
    bare = dataclasses.replace(
        LOST, attempt=attempt, fault=kind, error=None, log_tail=[], log_path="", alike=1
    )
    return dataclasses.replace(bare, **changes)  # type: ignore[arg-type]


FAULTS: list[tuple[float, Event]] = [
    *STORY[:3],
    (5, StepDone(1, 20, 1.0, 5.0)),
    *[(float(at), committed(at)) for at in range(6, 19)],
    (19, StragglerNamed(1, 3, "n1", "GPU 1", 20, 2.1)),
    (
        20,
        StallNamed(
            1, 3, "n1", "GPU 1", 20, "step", 95.2, "sleeps", "data.py:7 in read", "rank 3 never entered it"
        ),
    ),
    (20, ProbesFailed(1, 2, "n1", "step", "RuntimeError: no norm", 3)),
    (20, ProbesFailed(1, 0, "n0", "step", "RuntimeError: no norm", 0)),
    (20, CheckpointWriteBlocked("n1", "step-20: No space left on device")),
    (26, CheckpointWriteResumed("n1", 6.04)),
    (27, LossRejected(1, 21, float("nan"), "it is NaN")),
    (27, AttemptEnded(1, Outcome.FAILED, 21)),
    (27, BatchesSkipped([18, 19, 20, 30], "")),
    (27, Decided("rewind", "rewind 1 of 3 to the checkpoint of step 18 and skip 4 batches")),
    (27, SnapshotQuarantined(20, "step-20", "/c", "it follows step 19, whose loss was rejected")),
    (28, AttemptStarted(2, "10.0.0.1", 29501, 4, 18, "memory")),
    (32, fault(2, Fault.HANG, reason="no progress for 2.5 s, 10 medians of a step", detected_s=2.5)),
    (33, AttemptStarted(3, "10.0.0.1", 29502, 4, 18, "disk")),
    (34, fault(3, Fault.MEMORY)),
    (36, LossRejected(4, 22, 71.5, "4 times the median of the 20 before it")),
    (
        37,
        fault(
            5, Fault.RESTORE, exit_status=1, reason="exited with status 1", error="RestoreError: at step 0"
        ),
    ),
    (38, fault(6, Fault.NODE, gpu="the whole node", reason="killed by SIGKILL", error="its agent died")),
    (38, NodeQuarantined("n1", "")),
    (38, Decided("replace", "n1 is not used any more; wait for another node")),
    (40, NodeDraining(7, "n1", 20, 27.53)),
    (40, NodeDraining(7, "n2", 20, None)),
    (50, RunResumed("night-1", "its driver was lost after step 20")),
    (60, RunEnded(Status.FAILED, "stop: all restarts are used up")),
]


def play(console: Console, story: list[tuple[float, Event]], total_steps: int | None = None) -> Terminal:
    ledger = Ledger()
    terminal = Terminal(console, total_steps, clock=lambda: 0.0)
    with terminal:
        for seq, (at, event) in enumerate(story):
            record = Record(seq, at, 1.7e9 + at, event)
            ledger.fold(record)
            terminal.observe(record, ledger.bill())
        terminal.summary(record, ledger, WHERE)
    return terminal


def plain(story: list[tuple[float, Event]], width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, record=True)
    play(console, story)
    return console.export_text()


def test_plain_lines_and_summary_are_golden() -> None:
    assert_golden("terminal_plain.txt", plain(STORY))


def test_faults_and_what_is_done_about_them_are_golden() -> None:
    assert_golden("terminal_faults.txt", plain(FAULTS))


def test_a_commit_is_said_now_and_then_and_the_last_one_at_the_end() -> None:
    told = [line for line in plain(FAULTS).splitlines() if " committed " in line]
    assert [line.split()[2] for line in told] == ["step-6", "step-16", "step-18"]
    assert told[1].endswith(", and 9 before it")


def test_a_checkpoint_that_is_staged_is_said_once_with_its_step_and_what_it_cost() -> None:
    staged = CheckpointSaved(1, 21, "mine", "/c", 0.25, staged=True)
    text = plain([*STORY[:3], (4, staged), (9, SnapshotCommitted(1, 21, "mine", "/c", 12_000_000, 5.0))])
    (line,) = [line for line in text.splitlines() if "checkpoint mine" in line]
    assert line.split("  ")[-1] == (
        "checkpoint mine of step 21 committed (12 MB written in 5.0 s, training stood still for 0.250 s)"
    )


def test_what_a_script_saves_by_itself_is_said() -> None:
    saved = [(4.0 + at, ScriptSaved(1, 0, at, f"/out/{at}.pt", 0.25)) for at in range(3)]
    text = plain([*STORY[:3], *saved, (30, AttemptEnded(1, Outcome.FINISHED, 3))])
    told = [line.split("  ")[-1] for line in text.splitlines() if " saved by " in line]
    assert told == [
        "/out/2.pt saved by the script after step 2, rank 0 stood still for 0.250 s, and 2 before it"
    ]


def test_what_a_script_saves_is_said_once_when_it_is_whole() -> None:
    files = [(4.0, ScriptSaved(1, 0, 5, f"/out/step_5/{name}.pt", 0.25)) for name in ("model", "optimizer")]
    whole = ScriptSaveCompleted(1, 5, "/out/step_5", 12_000_000)
    text = plain([*STORY[:3], *files, (6.0, whole), (30, AttemptEnded(1, Outcome.FINISHED, 6))])
    told = [line.split("  ")[-1] for line in text.splitlines() if "/out/" in line]
    assert told == [
        "checkpoint /out/step_5 of step 5, saved by the script, is whole (12 MB, rank 0 stood still for 0.250 s)"
    ]


def test_a_figure_that_is_none_is_shown_as_what_it_is() -> None:
    assert "step 3: mine nan" in plain([*STORY[:3], (5, MetricLogged(1, 3, {"mine": float("nan")}))])


def test_what_is_compiled_and_whose_steps_are_told_is_said() -> None:
    story = [(4.0, OpCompiling(1, "cpu_adam")), (64.0, OpCompiled(1, "cpu_adam", 61.0))]
    text = plain([*STORY[:3], *story, (70.0, StepsWithoutEngine(1, "AdamW"))])
    assert "attempt 1: cpu_adam is compiled, which takes minutes the first time; ranks wait for it" in text
    assert "attempt 1: cpu_adam is there after 61.0 s" in text
    assert "attempt 1: no DeepSpeed engine, steps are those of its optimizer AdamW" in text


BARS: list[tuple[float, Event]] = [
    *((5 + at / 2, RankOutput(1, 0, f"epoch 1\n{at:3}%", fleeting=True)) for at in range(51)),
    (31, RankOutput(1, 0, "100%")),
]


def test_progress_bars_are_a_line_now_and_then_and_their_end_is_kept() -> None:
    lines = [line.split() for line in plain([*STORY[:3], *BARS]).splitlines() if "%" in line]
    shown = [words[-1] for words in lines if "goodput" not in words]
    assert shown[:3] == ["20%", "40%", "100%"]


def _told(records: list[Record]) -> Story:
    story = Story(None)
    for record in records:
        story.lines(record)
    return story


def test_a_driver_that_takes_over_says_what_is_new_and_counts_what_was_before() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=False, record=True)
    terminal, ledger = Terminal(console, None, clock=lambda: 0.0), Ledger()
    cut = next(index for index, (_, event) in enumerate(STORY) if isinstance(event, AttemptEnded))
    old = [Record(seq, at, 1.7e9 + at, event) for seq, (at, event) in enumerate(STORY[:cut])]
    terminal.remember(_told(old))
    ledger.fold_all(old)
    new = [
        (40.0, RunResumed("night-1", "its driver was lost")),
        (41.0, ResourcesGranted(["n0"], 4)),
        *STORY[-25:],
    ]
    for seq, (at, event) in enumerate(new, cut):
        ledger.fold(record := Record(seq, at, 1.7e9 + at, event))
        terminal.observe(record, ledger.bill())
    terminal.summary(record, ledger, {})
    text = console.export_text()
    assert text.splitlines()[0].endswith("run night-1 taken up again: its driver was lost")
    assert "attempt 1" not in text
    assert "validation loss  3.250" in text
    assert "incidents        3  " in text, "two ranks of the first driver's, and its own end"


def test_plain_lines_have_no_control_characters_and_step_lines_are_rare() -> None:
    text = plain(STORY)
    assert all(character == "\n" or character.isprintable() for character in text)
    steps = [line for line in text.splitlines() if "s/step" in line]
    assert [line.split()[2] for line in steps] == ["1/40", "11/40", "21/40", "21/40", "31/40", "40/40"]


def test_identical_errors_are_told_once_and_others_briefly() -> None:
    text = plain(STORY)
    assert text.count("CUDA out of memory") == 1
    assert text.count("rank 3 on node n1, GPU 1: killed by SIGKILL at step 21") == 1
    assert "3 other ranks ended with the same error" in text
    assert "also rank 1 on node n1, GPU 1: exited with status 1 at step 21" in text
    assert "rank 2" not in text


def test_a_warning_about_the_nodes_is_a_line_of_its_own() -> None:
    warning = "job.checkpoint_dir=/c: n1 cannot see what n0 writes"
    lines = plain([(0, RUN), (3, ResourcesGranted(["n0", "n1"], 4, [warning]))]).splitlines()
    granted = next(index for index, line in enumerate(lines) if "4 GPUs on 2 nodes granted" in line)
    assert lines[granted + 1] == " " * 10 + warning


def test_what_is_waited_for_is_a_line_without_a_time() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=False, record=True)
    Terminal(console, None).notice("waiting up to 60 s for 2 nodes")
    assert console.export_text() == " " * 10 + "waiting up to 60 s for 2 nodes\n"


def test_a_journal_without_warnings_is_still_read() -> None:
    """Written before there were any."""
    line = (
        '{"seq": 0, "elapsed_s": 0.0, "time_unix_s": 0.0, "type": "ResourcesGranted", "nodes": ["n0"],'
        ' "gpus": 4}'
    )
    assert record_from_json(line).event == ResourcesGranted(["n0"], 4, [])


def test_unknown_values_are_dashes() -> None:
    run = dataclasses.replace(
        RUN, tokens_per_step=None, model_flops_per_token=None, steps=None, unit="CPU core"
    )
    text = plain(
        [
            (0, run),
            (1, ResourcesGranted(["n0"], 4)),
            (1, AttemptStarted(1, "h", 1, 4)),
            (2, StepDone(1, 1, 1.0, float("nan"))),
            (3, StopRequested("Ctrl-C", 30.0)),
            (4, RunEnded(Status.INTERRUPTED, "Ctrl-C")),
        ]
    )
    assert "loss –" in text
    assert "core-hours" in text
    assert "4 CPU cores at $2.50 per core-hour" in text
    assert "night-1 interrupted: Ctrl-C" in text
    assert "nan" not in text
    assert "None" not in text


def test_an_ascii_terminal_is_not_sent_anything_else() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    story = [*STORY[:1], (1.0, RankOutput(1, 0, "naïve → café")), *STORY[1:]]
    play(Console(file=file, width=70, force_terminal=False), story)


def test_a_run_without_an_end_is_said_to_have_none() -> None:
    console = Console(file=io.StringIO(), width=80, record=True)
    Terminal(console, 10).summary(None, Ledger(), {})
    assert "run not ended" in console.export_text()
