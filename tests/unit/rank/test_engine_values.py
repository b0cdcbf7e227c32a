"""What an engine says of its values, and what of them is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.rank.messages import EngineMade
from orchestrator.rank.probes.deepspeed import Probes
from orchestrator.rank.probes.engine_values import values_of
from tests.unit.rank.test_probes import FakeLink, Loss, fake_deepspeed


def says(value: Any) -> Any:
    return lambda *_self: value


def engine_of(**changes: Any) -> Any:
    parameters = [SimpleNamespace(dtype="torch.float32")]
    about = {
        "train_batch_size": says(32), "train_micro_batch_size_per_gpu": says(8), "world_size": 2,
        "gradient_accumulation_steps": says(2), "zero_optimization_stage": says(3),
        "bfloat16_enabled": says(False), "fp16_enabled": says(False), "torch_autocast_enabled": says(False),
        "torch_autocast_dtype": says("torch.bfloat16"), "module": SimpleNamespace(parameters=says(parameters)),
    }  # fmt: skip
    return SimpleNamespace(**{**about, **changes})


@pytest.mark.parametrize(
    ("changes", "precision"),
    [
        ({}, "fp32"),
        ({"bfloat16_enabled": says(True)}, "bf16"),
        ({"fp16_enabled": says(True)}, "fp16"),
        ({"torch_autocast_enabled": says(True)}, "bf16"),
        ({"module": SimpleNamespace(parameters=says([SimpleNamespace(dtype="torch.bfloat16")]))}, "bf16"),
        ({"module": SimpleNamespace(parameters=says([]))}, "fp32"),
    ],
)
def test_an_engine_says_what_it_runs_with(changes: dict[str, Any], precision: str) -> None:
    assert values_of(engine_of(**changes)) == EngineMade(32, 8, 2, precision, 3, 2)


def test_an_engine_of_another_deepspeed_says_nothing() -> None:
    assert values_of(SimpleNamespace(train_batch_size=says(32))) is None
    assert values_of(engine_of(train_batch_size=says(None))) is None


def test_the_values_are_told_once_and_again_where_another_engine_trains() -> None:
    link, deepspeed = FakeLink(), fake_deepspeed()
    for name, value in vars(engine_of()).items():
        if name not in ("world_size", "fp16_enabled"):
            setattr(deepspeed.DeepSpeedEngine, name, value)
    Probes(link).attach(deepspeed)  # type: ignore[arg-type]
    engines = [deepspeed.DeepSpeedEngine() for _ in range(3)]
    for engine, ranks in zip(engines, (1, 2, 3), strict=True):
        engine.world_size = ranks
        deepspeed.initialize(engine)
    assert [told.world_size for told in link.of(EngineMade)] == [1]
    for _ in range(2):
        engines[1].backward(Loss(1.0))
        engines[1].step()
    assert [told.world_size for told in link.of(EngineMade)] == [1, 2]
