"""The policy, row by row of the table in docs/recovery.md: what happened, what follows, and what is said."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

import pytest
import yaml

from orchestrator.config.schema import RecoveryConfig
from orchestrator.events import (
    BatchesSkipped,
    Event,
    Fault,
    NodeDraining,
    RunResumed,
)
from orchestrator.supervise.policy import Action, Decision, decide
from tests.support.folders import PROJECT
from tests.support.histories import AT_15, ENGINE, begun, dies, done, killed, nan, own_save, saved, story

ROOT = PROJECT
STRICT = RecoveryConfig(max_restarts=0)


@dataclass(frozen=True)
class Row:
    """A row of the table: what has happened, and what follows."""

    events: tuple[Event, ...]
    action: Action
    says: str
    recovery: RecoveryConfig = dataclasses.field(default_factory=RecoveryConfig)
    can_skip: bool = True
    can_go_back: bool = True
    restore_before: int | None = None
    skip: tuple[int, ...] = ()
    quarantine: str | None = None
    put_aside: str = ""


ROWS = {
    "a rank exits or is killed": Row(
        (*AT_15, killed(1, 20)),
        Action.RESTART,
        "restart 1 of 3 from the checkpoint of step 15 or the newest whole one before it, after rank 0 on"
        " node-a (GPU 0) at step 20: killed by SIGKILL",
    ),
    "the host runs out of memory": Row(
        (ENGINE, dies(1, 7, Fault.MEMORY, "killed by the kernel")),
        Action.RESTART,
        "restart 1 of 3 from its start, without a checkpoint, after out of host memory: rank 0 on node-a (GPU"
        " 0) at step 7: killed by",
    ),
    "a rank finds no space on the disk": Row(
        (*AT_15, dies(1, 20, Fault.DISK, "OSError: [Errno 28] No space left on device")),
        Action.RESTART,
        "wait for space, then restart from the checkpoint of step 15 or the newest whole one before it, fault"
        " 1 of 5 without a new step, after full disk",
    ),
    "a rank hangs": Row(
        (*AT_15, dies(1, 20, Fault.HANG, "no progress for 61 s")),
        Action.RESTART,
        "restart 1 of 3 from the checkpoint of step 15 or the newest whole one before it, after hang: rank 0"
        " on node-a (GPU 0) at step 20: no progress",
    ),
    "the same error at the same step twice": Row(
        (dies(1, 7, error="KeyError: at 0x7f01"), dies(2, 7, error="KeyError: at 0x7f42")),
        Action.STOP,
        "the same failure came back at the same step; it is the job's own: rank 0 on node-a (GPU 0) at"
        " step 7",
    ),
    "a rank fails before its first step from a checkpoint in a folder of its own": Row(
        (*AT_15, killed(1, 20), begun(2, 15), dies(2, 0, error="FileNotFoundError: trainer_state.json")),
        Action.RESTART,
        "restart 2 of 3 from the checkpoint of step 10 or the newest whole one before it; the folder of step 15"
        " is put aside, from which nothing could be begun, after rank 0 on node-a (GPU 0) at step 0: FileNot",
        restore_before=15,
    ),
    "a rank fails before its first step from what the script has saved without DeepSpeed": Row(
        (done(1, 11), killed(1, 11), own_save(2, "/kept/step_10.pt"), dies(2, 0, error="RuntimeError: keys")),
        Action.RESTART,
        "restart 2 of 3 from what the script has saved before; step_10.pt is put aside, from which nothing could"
        " be begun, after rank 0 on node-a (GPU 0) at step 0: RuntimeError",
        put_aside="/kept/step_10.pt",
    ),
    "the same ranks hang at the same step twice": Row(
        (
            dies(1, 20, Fault.HANG, "no progress for 61 s"),
            dies(2, 20, Fault.HANG, "no progress for 70 s, 2 ranks"),
        ),
        Action.STOP,
        "the same failure came back at the same step; it is the job's own: hang: rank 0",
    ),
    "a rank is killed at the same step twice": Row(
        (killed(1, 20), killed(2, 20)), Action.RESTART, "restart 2 of 3"
    ),
    "more faults of ranks than `recovery.max_restarts`": Row(
        (done(1, 1), killed(1, 1), done(2, 2), killed(2, 2), done(3, 3), dies(3, 3, Fault.HANG)),
        Action.STOP,
        "all restarts are used up (recovery.max_restarts=2)",
        RecoveryConfig(max_restarts=2),
    ),
    "a node is lost": Row(
        (*AT_15, dies(1, 20, Fault.NODE, "its agent does not answer")),
        Action.REPLACE,
        "wait for node-a or another node in its place for up to 600 s (recovery.wait_for_node_s), then"
        " restart from the checkpoint of step 15 or the newest whole one before it, fault 1 of 5 without a"
        " new step, after node fault: rank 0 on node-a",
    ),
    "a node is being drained": Row(
        (*AT_15, NodeDraining(1, "node-a", 20, 25.0), saved(1, 21)),
        Action.REPLACE,
        "node-a is being drained: wait for another node in its place for up to 600 s"
        " (recovery.wait_for_node_s), then restart from the checkpoint of step 21",
        STRICT,
    ),
    "a rank outlives SIGKILL": Row(
        (dies(1, 20, Fault.NODE, "rank 0 outlived SIGKILL by 15 s", node_unusable=True),),
        Action.REPLACE,
        "node-a is not used any more; wait for another node for up to 600 s (recovery.wait_for_node_s)",
        quarantine="node-a",
    ),
    "the run's own process is lost": Row(
        (*AT_15, RunResumed("run", "resume was called")),
        Action.RESTART,
        "restart from the checkpoint of step 15 or the newest whole one before it, fault 1 of 5 without a new"
        " step, after the run's own process was lost",
        STRICT,
    ),
    "a loss is rejected": Row(
        (*AT_15, nan(1, 20), saved(1, 20)),
        Action.REWIND,
        "rewind 1 of 3 (recovery.max_skips) to the checkpoint of step 15 or the newest whole one before it"
        " and skip batches 19, 20, after step 20: the loss is nan",
        RecoveryConfig(skip_batches=2),
        restore_before=20,
        skip=(19, 20),
    ),
    "the same step's loss is rejected again": Row(
        (saved(1, 19), *AT_15, nan(1, 20), BatchesSkipped([19], ""), nan(2, 20)),
        Action.REWIND,
        "rewind 2 of 3 (recovery.max_skips) to the checkpoint of step 15 or the newest whole one before it"
        " and skip batch 18",
        restore_before=19,
        skip=(18,),
    ),
    "more rejected losses than `recovery.max_skips`": Row(
        (done(1, 5), nan(1, 5), done(2, 9), nan(2, 9)),
        Action.STOP,
        "no more losses may be rejected (recovery.max_skips=1): step 9: the loss is nan; look at the learning"
        " rate",
        RecoveryConfig(max_skips=1),
    ),
    "a loss is rejected and the script cannot skip": Row(
        (*AT_15, nan(1, 20)),
        Action.RESTART,
        "restart from the checkpoint of step 15 or the newest whole one before it with the same batches,"
        " rejected loss 1 of 3 (recovery.max_skips)",
        can_skip=False,
        restore_before=20,
    ),
    "the same step's loss is rejected again and the script cannot skip": Row(
        (*AT_15, nan(1, 20), nan(2, 20)),
        Action.STOP,
        "hand {skip_batches} to the script in job.args",
        can_skip=False,
    ),
    "a loss is rejected and `snapshot.enabled=false`": Row(
        (*AT_15, nan(1, 20)),
        Action.STOP,
        "with snapshot.enabled=false the script may load what follows from it: step 20: the loss is nan",
        can_go_back=False,
    ),
    "what was to be loaded was not": Row(
        (*AT_15, killed(1, 20), dies(2, 0, Fault.RESTORE, "rank 1 loaded step 0, not 15")),
        Action.STOP,
        "what was to be loaded was not, and training from anything else would lose steps without a word: rank"
        " 0 on node-a (GPU 0) at step 0: rank 1 loaded step 0, not 15",
    ),
    "more than `recovery.max_faults_without_progress` faults in a row without a new step": Row(
        (done(1, 9), *(dies(n, 9, Fault.NODE) for n in (1, 2)), dies(3, 0, Fault.NODE)),
        Action.STOP,
        "3 faults in a row without a new step (recovery.max_faults_without_progress=2)",
        RecoveryConfig(max_faults_without_progress=2),
    ),
    "any of these with `recovery.max_restarts=0`": Row(
        (dies(1, 7, Fault.NODE, "its agent does not answer"),),
        Action.STOP,
        "no restarts are allowed (recovery.max_restarts=0): node fault: rank 0 on node-a (GPU 0) at step 7",
        STRICT,
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_each_row_of_the_table(row: Row) -> None:
    decision = decide(story(*row.events), row.recovery, can_skip=row.can_skip, can_go_back=row.can_go_back)
    assert row.says in decision.reason
    assert dataclasses.replace(decision, reason="") == Decision(
        row.action, "", row.restore_before, row.skip, row.quarantine, row.put_aside
    )


def cells(heading: str) -> list[list[str]]:
    """The first table below a heading of the document, without its own heading and rule."""
    section = (
        (ROOT / "docs" / "recovery.md").read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    )
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [re.split(r"\s*\|\s*", line.strip("| ")) for line in lines[1:]]


def test_the_document_has_these_rows_in_this_order() -> None:
    table = cells("What follows a fault")
    assert [first for first, *_ in table] == list(ROWS)
    for first, what in table:
        assert what.startswith(ROWS[first].action.value), first


def test_the_document_has_the_options_as_they_are() -> None:
    files = {
        name: (ROOT / "conf" / "recovery" / f"{name}.yaml").read_text()
        for name in ("default", "spot", "strict")
    }
    options = [dataclasses.asdict(RecoveryConfig(**(yaml.safe_load(text) or {}))) for text in files.values()]
    differing = {key for key in options[0] if len({str(option[key]) for option in options}) > 1}
    table = cells("default, spot, strict")
    assert {key.strip("`") for key, *_ in table} == {f"recovery.{key}" for key in differing}
    for key, *shown in table:
        assert [float(value) for value in shown] == [
            option[key.strip("`").partition(".")[2]] for option in options
        ]
