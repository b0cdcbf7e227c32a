"""The numbers of the policy. docs/fleet.md has what they reach."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    hysteresis: float = 0.9  # who runs is worth 1 / 0.9 as much
    unknown_hysteresis: float = 0.6  # the same where nobody knows how long a job takes
    aging: float = 0.1  # a delay as long as the job itself makes it worth a tenth more
    deadline_boost: float = 30.0  # once a deadline's slack is short
    deadline_slack_s: float = 1800.0  # short: below this and half of what is left to do
    min_run_s: float = 150.0
    min_run_prices: float = 50.0  # a victim loses at most a fiftieth of its time to being stopped
    stop_unsaved: bool = False  # one that has saved nothing yet may be stopped, too: it loses all
    fair: float = 0.0  # 0: what a team has used lately does not count
    most_moves: int = 8  # for one start
