"""What "auto" becomes here is what transformers makes of the same file."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.config.schema import Config
from orchestrator.plan.layout.deepspeed_auto import filled
from orchestrator.plan.layout.layout import derive_layout
from orchestrator.plan.plan import resolved_deepspeed
from tests.unit.plan.test_deepspeed_auto import ARGS, HF
from tests.unit.plan.test_layout import config


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_it_is_what_transformers_fills_in(stage: int, precision: str) -> None:
    integration = pytest.importorskip(
        "transformers.integrations.deepspeed", reason="pip install transformers"
    )
    file = copy.deepcopy(HF)
    file["zero_optimization"]["stage"] = stage
    made = planned_of(file, precision)
    layout = derive_layout(made)
    theirs = integration.HfTrainerDeepSpeedConfig(copy.deepcopy(file))
    arguments = SimpleNamespace(
        world_size=layout.ranks, per_device_train_batch_size=layout.micro_batch,
        gradient_accumulation_steps=layout.accumulation, max_grad_norm=1.0, learning_rate=3e-4,
        adam_beta1=0.9, adam_beta2=0.95, adam_epsilon=1e-8, weight_decay=0.1, save_on_each_node=False,
        fp16=False, fp16_full_eval=False, bf16=precision == "bf16", bf16_full_eval=False,
        get_warmup_steps=lambda _steps: 0,
    )  # fmt: skip
    theirs.trainer_config_process(arguments)
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=made.model.hidden if made.model else 0))
    theirs.trainer_config_finalize(arguments, model, 500)
    assert resolved_deepspeed(made, layout) == theirs.config


def planned_of(file: dict[str, Any], precision: str) -> Config:
    return filled(config(deepspeed=file, job__args=ARGS, job__precision=precision), script_fills=True)
