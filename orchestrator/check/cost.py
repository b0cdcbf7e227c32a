"""What it would cost to train on regardless: in a step all wait for the slowest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from orchestrator.check.findings import Finding
from orchestrator.check.reports import What


@dataclass(frozen=True)
class Spent:
    """What a run takes: the share of a step in matrix products, in what memory bounds, and in communication
    that nothing hides; and its dollars. Where no step is predicted, all of it counts as what is slow."""

    usd: float | None = None  # of the whole run, or of an hour of the cluster
    matmul_share: float | None = None
    memory_share: float | None = None
    communication_share: float | None = None

    def share_of(self, what: What) -> float:
        """Of a step, that a figure slows."""
        shares = {
            What.MATMUL: self.matmul_share,
            What.GIVEN: self.matmul_share,
            What.MEMORY: self.memory_share,
            What.ALL_REDUCE: self.communication_share,
            What.EXCHANGE: self.communication_share,
        }
        share = shares.get(what)
        return 1.0 if share is None else share


def lost_share(slow: float, of_step: float) -> float:
    """Of the time of a run, where a part of each step, which is ``of_step`` of it, goes at ``slow`` times its
    rate."""
    if slow <= 0.0:
        return 1.0
    longer = 1.0 + of_step * (1.0 / slow - 1.0)
    return 1.0 - 1.0 / longer


def priced(findings: Iterable[Finding], spent: Spent) -> list[Finding]:
    """The findings with what each costs. A run of given length takes longer by it: of an hour paid, the lost
    share buys nothing."""
    return [_priced(one, spent) for one in findings]


def _priced(finding: Finding, spent: Spent) -> Finding:
    slow = finding.slow_share
    if slow is None:
        return finding
    share = lost_share(slow, spent.share_of(finding.what))
    return replace(finding, lost_share=share, lost_usd=None if spent.usd is None else share * spent.usd)
