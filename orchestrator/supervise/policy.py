"""What to do after a failure: a pure function of the history, so that a simulation can test years of it.

docs/recovery.md has the decisions as a table; tests/unit/supervise/test_policy_table.py a test for each of
its rows.
"""

from __future__ import annotations

import math
import os
import re
import signal
from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.config.schema import RecoveryConfig
from orchestrator.events import Action, Fault, LossRejected, NodeDraining, RankLost
from orchestrator.supervise.history import Failure, History
from orchestrator.supervise.loss_watch import next_batches

# What differs between two occurrences of one and the same error: addresses, ports, pids, times.
_VARIABLE = re.compile(r"0x[0-9a-f]+|\[[^\]]*\]:\d+|\d+(\.\d+)*")
# Faults of ranks: they count against max_restarts. Of these, the job's own are those that it can repeat by
# itself.
_RANK_FAULTS = {Fault.EXIT, Fault.MEMORY, Fault.HANG}
_REPEATABLE = {Fault.EXIT, Fault.HANG}
# No process sends these to itself: a rank that ends of them was killed by somebody.
_FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM}
_KINDS = {
    Fault.MEMORY: "out of host memory: ",
    Fault.HANG: "hang: ",
    Fault.DISK: "full disk: ",
    Fault.NODE: "node fault: ",
}


@dataclass(frozen=True)
class Decision:
    """An action and the reason that a person reads.

    Of what was saved, only checkpoints of a step below ``restore_before`` may be restored; the batches
    in ``skip`` are left out from now on; no more ranks are started on the node ``quarantine``. What the
    script has saved by itself as ``put_aside``, a path, is not gone on from any more.
    """

    action: Action
    reason: str
    restore_before: int | None = None
    skip: tuple[int, ...] = ()
    quarantine: str | None = None
    put_aside: str = ""


def signature(lost: RankLost) -> tuple[Fault, int, str]:
    """What makes two failures the same: exit status and error without its numbers; of a hang, which ranks."""
    if lost.fault is Fault.HANG:
        return lost.fault, lost.rank, f"{lost.alike} alike"
    return lost.fault, lost.exit_status, _VARIABLE.sub("#", lost.error or lost.reason)


def decide(
    history: History,
    recovery: RecoveryConfig,
    *,
    can_skip: bool,
    can_go_back: bool = True,
    restorable: Collection[int] | None = None,
) -> Decision:
    """What follows from the history's open failure; ``ValueError`` when there is none.

    ``can_skip``: the script takes the batches to leave out as an argument. ``can_go_back``: it loads what it
    is told to, and not its own choice. ``restorable``: steps of the checkpoints that can be restored;
    None takes those that the history saw saved. Asked again before anything else happened, it decides
    the same, whether or not the decision's batches are on record.
    """
    failure = history.open
    if failure is None:
        raise ValueError("nothing failed that is not decided already")
    steps = history.restorable if restorable is None else restorable
    before = history.go_back_before  # decided, but a node or the driver was lost before an attempt began
    origin = _origin(
        [step for step in steps if before is None or step < before], can_go_back and not history.has_engine
    )
    if failure.fault is Fault.DRAIN:  # counts against nobody
        then = f"wait for another node in its place {_so_long(recovery)}, then restart from {origin}"
        return Decision(Action.REPLACE, f"{_where(failure)}: {then}", before)
    unusable = _unusable(failure, history, steps) if can_go_back else None
    save = _unusable_save(failure, history) if can_go_back else ""
    against = _against_going_on(failure, history, recovery, unusable is not None or save != "")
    if against:
        return Decision(Action.STOP, f"stop: {against}: {_where(failure)}")
    if failure.fault is Fault.LOSS:
        if not can_go_back:
            why = (
                "the loss is rejected, and with snapshot.enabled=false the script may load what follows"
                " from it"
            )
            return Decision(Action.STOP, f"stop: {why}: {_where(failure)}{_or_spike(failure)}")
        return _after_rejection(failure, history, recovery, can_skip, steps)
    idle = f"fault {history.idle_faults} of {recovery.max_faults_without_progress} without a new step"
    if failure.fault is Fault.DISK:
        return Decision(
            Action.RESTART, f"wait for space, then restart from {origin}, {idle}, after {_where(failure)}"
        )
    if failure.fault is Fault.DRIVER:
        return Decision(Action.RESTART, f"restart from {origin}, {idle}, after {_where(failure)}", before)
    if failure.fault is Fault.NODE:
        return _replace(failure, recovery, f"restart from {origin}, {idle}, after {_where(failure)}", before)
    budget = f"restart {_rank_faults(history)} of {recovery.max_restarts}"
    if unusable is not None:
        earlier = _origin([step for step in steps if step < unusable])
        aside = f"the folder of step {unusable} is put aside, from which nothing could be begun"
        return Decision(
            Action.RESTART, f"{budget} from {earlier}; {aside}, after {_where(failure)}", unusable
        )
    if save:
        earlier = "what the script has saved before" if failure.save_before else "its start"
        aside = f"{os.path.basename(save)} is put aside, from which nothing could be begun"
        reason = f"{budget} from {earlier}; {aside}, after {_where(failure)}"
        return Decision(Action.RESTART, reason, before, put_aside=save)
    return Decision(Action.RESTART, f"{budget} from {origin}, after {_where(failure)}", before)


def _unusable(failure: Failure, history: History, steps: Collection[int]) -> int | None:
    """The step of a checkpoint that is to be put aside: the attempt failed by itself on the way to its first
    step from it, and the script has put files around it that may not all be there. Where there is none before
    it, it is tried a second time. What fails alike from two of them is not their fault."""
    if failure.loading is None or not _by_itself(failure):
        return None
    alike = [one.loading for one in history.failures if one.loading is not None and _same(failure, one)]
    if set(alike) != {failure.loading}:
        return None
    earlier = any(step < failure.loading for step in steps)
    return failure.loading if earlier or len(alike) > 1 else None


def _unusable_save(failure: Failure, history: History) -> str:
    """The same of what the script has saved without DeepSpeed: its path, "" where it stays."""
    if not failure.save or not _by_itself(failure):
        return ""
    alike = [one.save for one in history.failures if one.save and _same(failure, one)]
    if set(alike) != {failure.save}:
        return ""
    return failure.save if failure.save_before or len(alike) > 1 else ""


def _by_itself(failure: Failure) -> bool:
    """A rank failed, and nobody has ended it."""
    lost = failure.cause
    return isinstance(lost, RankLost) and lost.fault is Fault.EXIT and lost.exit_status not in _FROM_OUTSIDE


def _against_going_on(
    failure: Failure, history: History, recovery: RecoveryConfig, put_aside: bool
) -> str | None:
    """Why the run has to end, whatever else could be done; None if it has not. ``put_aside``: what the
    attempt was to begin from will not be there the next time."""
    if failure.fault is Fault.RESTORE:
        return (
            "what was to be loaded was not, and training from anything else would lose steps without a word"
        )
    at_this_step = [
        other for other in history.failures if other.step == failure.step and other is not failure
    ]
    if not put_aside and any(_same(failure, other) for other in at_this_step):
        return "the same failure came back at the same step; it is the job's own"
    if recovery.max_restarts == 0 and failure.fault is not Fault.DRIVER:
        return "no restarts are allowed (recovery.max_restarts=0)"
    if failure.fault in _RANK_FAULTS and _rank_faults(history) > recovery.max_restarts:
        return f"all restarts are used up (recovery.max_restarts={recovery.max_restarts})"
    if history.idle_faults > recovery.max_faults_without_progress:
        faults = "1 fault" if history.idle_faults == 1 else f"{history.idle_faults} faults in a row"
        return (
            f"{faults} without a new step"
            f" (recovery.max_faults_without_progress={recovery.max_faults_without_progress})"
        )
    return None


def _same(failure: Failure, other: Failure) -> bool:
    """Whether the job repeats itself: doing it once more can only cost money."""
    one, two = failure.cause, other.cause
    if not isinstance(one, RankLost) or not isinstance(two, RankLost) or one.fault not in _REPEATABLE:
        return False
    if one.fault is Fault.EXIT and one.exit_status in _FROM_OUTSIDE:
        return False
    return signature(one) == signature(two)


def _rank_faults(history: History) -> int:
    return sum(failure.fault in _RANK_FAULTS for failure in history.failures)


def _replace(failure: Failure, recovery: RecoveryConfig, then: str, before: int | None) -> Decision:
    lost = failure.cause
    assert isinstance(lost, RankLost), "a node fault is told by a lost rank"
    bound = _so_long(recovery)
    if lost.node_unusable:
        wait = f"{lost.node} is not used any more; wait for another node {bound}"
        return Decision(Action.REPLACE, f"{wait}, then {then}", before, quarantine=lost.node)
    return Decision(
        Action.REPLACE, f"wait for {lost.node} or another node in its place {bound}, then {then}", before
    )


def _so_long(recovery: RecoveryConfig) -> str:
    return f"for up to {recovery.wait_for_node_s:g} s (recovery.wait_for_node_s)"


def _after_rejection(
    failure: Failure, history: History, recovery: RecoveryConfig, can_skip: bool, steps: Collection[int]
) -> Decision:
    """Back before the rejected step. Rejections have a budget of their own, ``recovery.max_skips``.

    When the same step is rejected again with another batch, its batch was not the reason: the update
    of a step before it may have been (its gradients are seen in the next step's loss only). So each time
    the run goes back one step further, as long as there is a checkpoint to go back to.
    """
    rejections = [other for other in history.failures if other.fault is Fault.LOSS]
    again = sum(other.step == failure.step for other in rejections) - 1
    where, budget = _where(failure), f"{len(rejections)} of {recovery.max_skips} (recovery.max_skips)"
    if again and not can_skip:
        why = (
            "the same step's loss was rejected again, so it is not by chance, and the script cannot skip its"
            " batch"
        )
        remedy = "hand {skip_batches} to the script in job.args and let it leave those batches out"
        return Decision(Action.STOP, f"stop: {why}: {where}; {remedy}{_or_spike(failure)}")
    if len(rejections) > recovery.max_skips:
        why = f"no more losses may be rejected (recovery.max_skips={recovery.max_skips})"
        return Decision(
            Action.STOP, f"stop: {why}: {where}; look at the learning rate and the data{_or_spike(failure)}"
        )
    before = failure.step
    if any(step < failure.step - again for step in steps):
        before -= again
    origin = _origin([step for step in steps if step < before])
    if not can_skip:
        reason = f"restart from {origin} with the same batches, rejected loss {budget}, in case it was chance"
        return Decision(Action.RESTART, f"{reason}, after {where}", before)
    skip = tuple(next_batches(before, recovery.skip_batches, failure.skipped))
    reason = f"rewind {budget} to {origin} and skip {_batches(skip)}, after {where}"
    return Decision(Action.REWIND, reason, before, skip)


def _or_spike(failure: Failure) -> str:
    """What else helps when the loss is a number: perhaps it is none to reject."""
    finite = isinstance(failure.cause, LossRejected) and math.isfinite(failure.cause.loss or math.nan)
    return ", or raise recovery.loss_spike if such losses are usual" if finite else ""


def _origin(steps: Collection[int], by_itself: bool = False) -> str:
    """Said before anybody has looked at the disk: what is damaged is quarantined and the one before it is
    taken. ``by_itself``: the script does without DeepSpeed, so nobody knows yet what it has saved."""
    return (
        f"the checkpoint of step {max(steps)} or the newest whole one before it"
        if steps
        else "what the script has saved by itself, else from its start"
        if by_itself
        else "its start, without a checkpoint"
    )


def _batches(skip: tuple[int, ...]) -> str:
    if len(skip) <= 3:
        return f"batch{'es' if len(skip) > 1 else ''} {', '.join(map(str, skip))}"
    return f"{len(skip)} batches from {skip[0]} to {skip[-1]}"


def _where(failure: Failure) -> str:
    cause = failure.cause
    if isinstance(cause, RankLost):
        who = f"rank {cause.rank} on {cause.node} ({cause.gpu}) at step {cause.step}"
        return f"{_KINDS.get(cause.fault, '')}{who}: {cause.error or cause.reason}"
    if isinstance(cause, LossRejected):
        return f"step {cause.step}: {cause.reason}"
    if isinstance(cause, NodeDraining):
        return f"{cause.node} is being drained"
    return f"the run's own process was lost at step {failure.step}: {cause.because}"
