"""The shortest whole run of the main job."""

from __future__ import annotations

# After tests.faults.runs.COMMON, which has two ranks on processor cores.
SHORT = ["job=tiny_gpt", "job.steps=6", "job.args.checkpoint_every=0"]
