"""An old name of DeepSpeed's still works, and whoever wrote it is told the one to write."""

from __future__ import annotations

import orchestrator as orc

OLD = "++deepspeed.zero_optimization.cpu_offload=false"
TOLD = (
    "deepspeed.zero_optimization.cpu_offload is an old name, which DeepSpeed takes for now; write"
    " offload_optimizer instead"
)


def test_a_plan_names_keys_that_deepspeed_has_renamed() -> None:
    assert TOLD in " ".join(str(orc.make_plan(orc.compose("job=tiny_gpt", OLD))).split())
    assert "old name" not in str(orc.make_plan(orc.compose("job=tiny_gpt")))
