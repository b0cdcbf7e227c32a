"""How often the daemon's process looks for garbage."""

from __future__ import annotations

import gc

# A decision over ten thousand jobs makes as many objects, which are gone by the next. Each few thousand of
# them the collector would walk through all jobs for nothing, which takes as long as the decision.
_NEW_OBJECTS, _OF_A_GENERATION = 200_000, 20


def collect_seldom() -> None:
    """From here on, in this process."""
    gc.set_threshold(_NEW_OBJECTS, _OF_A_GENERATION, _OF_A_GENERATION)
