"""Stands where DeepSpeed is imported from: an engine that computes nothing, with the seams the probes wrap.

The numbers it hands out are torch scalars, as DeepSpeed's are, so reading them costs what it costs there.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

ops = SimpleNamespace(__compatible_ops__={})


class DeepSpeedEngine:
    def __init__(self) -> None:
        self.global_steps = 0
        self.optimizer = SimpleNamespace(param_groups=[{"lr": 1e-3}])
        self._norm = torch.tensor(0.25)

    def forward(self, loss: Any) -> Any:
        return loss

    def train(self, mode: bool = True) -> None: ...

    def eval(self) -> None: ...

    def backward(self, loss: Any, retain_graph: bool = False, scale_wrt_gas: bool = True) -> Any:
        return loss

    def step(self, lr_kwargs: Any = None) -> None:
        self.global_steps += 1

    def get_global_grad_norm(self) -> Any:
        return self._norm

    def save_checkpoint(self, save_dir: str, tag: str | None = None) -> bool:
        raise NotImplementedError("this engine holds nothing to save")

    def load_checkpoint(self, load_dir: str, tag: str | None = None) -> Any:
        raise NotImplementedError("this engine holds nothing to load into")


class PipelineEngine(DeepSpeedEngine):
    def train_batch(self, data_iter: Any = None) -> Any:
        raise NotImplementedError("this engine has no stages")

    def eval_batch(self, data_iter: Any) -> Any:
        raise NotImplementedError("this engine has no stages")


def get_accelerator() -> Any:
    return SimpleNamespace(device_name=lambda: "cpu")


def initialize() -> tuple[DeepSpeedEngine, None, None, None]:
    return DeepSpeedEngine(), None, None, None
