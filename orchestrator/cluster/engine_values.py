"""What DeepSpeed's engine runs with beside what was planned. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from orchestrator.events import EngineConfigured
from orchestrator.rank.messages import EngineMade

Value = int | str
_PRECISIONS = ("bf16", "fp16")


def planned_values(deepspeed: Mapping[str, Any], world_size: int) -> dict[str, Value]:
    """The fields of :class:`EngineMade` as the DeepSpeed file of the plan has them."""
    precision = next((name for name in _PRECISIONS if (deepspeed.get(name) or {}).get("enabled")), "fp32")
    values = {
        "global_batch": deepspeed.get("train_batch_size"),
        "micro_batch": deepspeed.get("train_micro_batch_size_per_gpu"),
        "accumulation": deepspeed.get("gradient_accumulation_steps"),
        "precision": precision,
        "zero_stage": (deepspeed.get("zero_optimization") or {}).get("stage", 0),
        "world_size": world_size,
    }
    return {name: value for name, value in values.items() if isinstance(value, int | str)}


def configured(
    attempt: int, engine: EngineMade, planned: Mapping[str, Value], assumed: Collection[str] = ()
) -> EngineConfigured:
    """The event, with the planned value of each that differs; of these, ``assumed`` were asked for by
    nobody."""
    differing = {name: value for name, value in planned.items() if getattr(engine, name) != value}
    return EngineConfigured(
        attempt=attempt,
        global_batch=engine.global_batch,
        micro_batch=engine.micro_batch,
        accumulation=engine.accumulation,
        precision=engine.precision,
        zero_stage=engine.zero_stage,
        world_size=engine.world_size,
        planned=differing,
        assumed=[name for name in differing if name in assumed],
    )
