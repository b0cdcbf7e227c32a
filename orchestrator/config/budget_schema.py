"""What a run may take at most, in the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.ranges import GpuHours, Seconds, UsdAbove0


@dataclass
class BudgetConfig:
    """What a run may take at most, from its start to its end, however often it is taken up again: before a
    cap is passed it saves and stops, and can be gone on with once the cap is raised."""

    usd: UsdAbove0 | None = None  # in dollars, as the bill counts them until all is given back
    gpu_hours: GpuHours | None = None  # of accelerators held, in the unit of the bill
    # when all is to be given back: a date, as 2026-12-31 or 2026-12-31T18:00 (in this machine's time unless
    # it ends in Z or +01:00), or a number of hours since the run began
    deadline: str | None = None
    # true kills what has not saved when the cap is reached, and keeps the last committed checkpoint; false
    # lets the last save end, though the cap is passed by it
    hard: bool = False
    # starts a run though its plan says that the budget will not do: it trains as far as that goes
    may_fall_short: bool = False
    # to save and to stop, before a first save has shown how long that takes; the plan's figure
    # where that is longer
    first_save_s: Seconds = 120.0
