"""Who asks for GPUs: a team's quota, what it may borrow, and what it has used lately."""

from __future__ import annotations

import calendar
import math
import time
from dataclasses import dataclass

USAGE_HALF_LIFE_S = 7 * 86400.0


@dataclass(frozen=True)
class Team:
    """``quota`` is what the team gets before anybody borrows; what it does not use is lent."""

    name: str
    quota: tuple[tuple[str, int], ...] = ()  # pool, GPUs
    weight: float = 1.0
    borrow_limit: int | None = None  # GPUs beyond its quotas; None: as many as there are
    usd_per_month: float | None = None  # 0: nothing of it starts; None: as much as it asks for
    spent_usd: float = 0.0  # in this month
    used_gpu_s: float = 0.0  # decayed, as of used_at
    used_at: float = 0.0

    def quota_in(self, pool: str) -> int:
        return sum(gpus for name, gpus in self.quota if name == pool)

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left of its budget of this month."""
        return self.usd_per_month is not None and self.spent_usd >= self.usd_per_month

    def usage(self, at: float) -> float:
        """GPU-seconds, of which half is forgotten in a week."""
        return self.used_gpu_s * math.pow(0.5, max(at - self.used_at, 0.0) / USAGE_HALF_LIFE_S)


def next_month_at(now: float) -> float:
    """When budgets begin anew: months are those of UTC."""
    year, month, *_ = time.gmtime(now)
    return float(calendar.timegm((year + month // 12, month % 12 + 1, 1, 0, 0, 0)))
