"""With which values DeepSpeed trains, as its engine says: a script may have brought a file of its own."""

from __future__ import annotations

from typing import Any

from orchestrator.rank.messages import EngineMade


def values_of(engine: Any) -> EngineMade | None:
    """None where the engine is of a DeepSpeed that does not say so: that must not end the script."""
    try:
        return EngineMade(
            global_batch=int(engine.train_batch_size()),
            micro_batch=int(engine.train_micro_batch_size_per_gpu()),
            accumulation=int(engine.gradient_accumulation_steps()),
            precision=_precision(engine),
            zero_stage=int(engine.zero_optimization_stage()),
            world_size=int(engine.world_size),
        )
    except (AttributeError, TypeError, ValueError):
        return None


def _precision(engine: Any) -> str:
    """That of DeepSpeed's own sections, of torch's autocast where DeepSpeed has switched it on, else that of
    the weights."""
    if engine.bfloat16_enabled():
        return "bf16"
    if engine.fp16_enabled():
        return "fp16"
    if engine.torch_autocast_enabled():
        return _short(engine.torch_autocast_dtype())
    first = next(iter(engine.module.parameters()), None)
    return "fp32" if first is None else _short(first.dtype)


def _short(dtype: Any) -> str:
    name = str(dtype).removeprefix("torch.")
    return {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.get(name, name)
