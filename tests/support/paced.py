"""The main job with its steps held back until somebody makes a file."""

from __future__ import annotations

from pathlib import Path

from tests.support.folders import SCRIPTS

STRUCK = SCRIPTS / "pretrain_struck.py"
# A step of a small model is over in a twentieth of a second, and what is done to a run after one would come
# steps later on a busy machine. Waiting takes no processor time from the suites beside this one.
PACE_S = 0.3


def paced(hurry: Path | str, pace_s: float = PACE_S) -> list[str]:
    """Overrides for a job of jobs/pretrain.py: its steps take so long until the file ``hurry`` is there."""
    return [f"job.script={STRUCK}", f"+job.args.pace_s={pace_s}", f"+job.args.hurry={hurry}"]
