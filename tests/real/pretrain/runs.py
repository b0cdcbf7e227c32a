"""How the tests of the main job start it, and what they read of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.folders import JOBS, SCRIPTS

SCRIPT = JOBS / "pretrain.py"
OTHER_SCRIPTS = SCRIPTS
SHAPE = ["--layers=2", "--hidden=32", "--heads=4", "--kv_heads=2", "--ffn=64", "--vocab=264", "--seq_len=32"]
COMMON = [*SHAPE, "--log_every=1", "--warmup_steps=2", "--lr=0.01", "--val_fraction=0.1", "--val_batches=1"]
DEADLINE_S = 400


def deepspeed_json(place: Path, name: str, **settings: Any) -> str:
    batch = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 4, "gradient_clipping": 1.0}
    path = place / f"{name}.json"
    path.write_text(json.dumps({**batch, **settings}))
    return f"--deepspeed_config={path}"


def on(place: Path, config: str, *flags: str) -> list[str]:
    return [config, f"--data={place / 'text'}", f"--data_cache={place / 'cache'}", *COMMON, *flags]


def json_lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def losses(output: str) -> dict[int, tuple[float, float]]:
    """Loss and gradient norm of every logged step, to the last bit."""
    return {line["step"]: (line["loss"], line["grad_norm"]) for line in json_lines(output) if "loss" in line}


@dataclass(frozen=True)
class Result:
    codes: list[int]
    out: list[str]
    err: list[str]


Runner = Callable[..., Result]


def loss_curve(result: Result) -> list[float]:
    return [line["loss"] for line in json_lines(result.out[0]) if "loss" in line]
