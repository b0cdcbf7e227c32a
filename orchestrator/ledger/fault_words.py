"""What was lost, and what is about to be, in words."""

from __future__ import annotations

from orchestrator.events import Fault, NodeDraining, RankLost
from orchestrator.text import exit_in_words, number


def lost_in_words(lost: RankLost) -> str:
    """Where and how, by the kind of fault: ``rank 3 on node n1, GPU 1: killed by SIGKILL at step 21``."""
    where = f"rank {lost.rank} on node {lost.node}, {lost.gpu}"
    match lost.fault:
        case Fault.MEMORY:
            how = f"{exit_in_words(lost.exit_status)} as the host ran out of memory"
        case Fault.HANG:
            how = "made no progress any more"
        case Fault.NODE:
            where, how = f"node {lost.node}", "lost"
        case Fault.LOSS:
            how = "its loss was rejected"
        case Fault.RESTORE:
            how = "did not load the checkpoint that it was told to"
        case Fault.DRIVER:
            where, how = "the run's own process", "lost"
        case _:
            how = exit_in_words(lost.exit_status)
    return f"{where}: {how} at step {lost.step}"


def draining_in_words(draining: NodeDraining) -> str:
    """``node n1 is being drained, 27.5 s are left``: by an autoscaler, a cloud or a person."""
    left = "" if draining.left_s is None else f", {number(max(0.0, draining.left_s), 3)} s are left"
    return f"node {draining.node} is being drained{left}"
