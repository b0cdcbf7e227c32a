"""What rank 0 gets in its environment, so that loggers of other libraries keep one history over all attempts.
Pure.

They begin a new folder or a new run at each start, which nobody told them is the same training. A variable is
read only where the script does not say it itself, and one that the user has set is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.rank.tracking import script_run_id

# Read by transformers' Trainer alone: else each start has a folder with its time in the name.
_TENSORBOARD, _TENSORBOARD_FOLDER = "TENSORBOARD_LOGGING_DIR", "tensorboard"
_WANDB_ID, _WANDB_RESUME = "WANDB_RUN_ID", "WANDB_RESUME"
# By these somebody else has decided which run it is: the user, or an agent of a sweep.
_WANDB_DECIDED = (_WANDB_ID, _WANDB_RESUME, "WANDB_SWEEP_ID")


def one_history(run_dir: str, environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` is what the rank has without it."""
    added = {}
    if _TENSORBOARD not in environment:
        added[_TENSORBOARD] = str(Path(run_dir, _TENSORBOARD_FOLDER))
    if not any(name in environment for name in _WANDB_DECIDED):
        added |= {_WANDB_ID: script_run_id(run_dir), _WANDB_RESUME: "allow"}
    return added
