"""What other people's trainers tell beside the steps of their optimizers."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint

from orchestrator.rank.messages import FileSaved, StepTaken, TokensCounted
from orchestrator.rank.probes.torch_loop import TorchLoop
from orchestrator.rank.probes.trainers import Trainers
from tests.unit.rank.test_probes import FakeLink
from tests.unit.rank.test_torch_loop import parameter, sgd


@dataclass
class TrainerState:
    global_step: int


def test_a_trainer_s_batches_tell_how_many_tokens_a_step_has(
    link: FakeLink, loop: TorchLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")

    class Trainer:
        def __init__(self) -> None:
            self.state = TrainerState(40)

        def training_step(self, _model: Any, inputs: Any) -> int:
            return len(inputs)

    class Strategy:
        def training_step(self, batch: Any, _index: int) -> int:
            return len(batch)

    trainers = Trainers(loop)
    trainers.attach_transformers(SimpleNamespace(Trainer=Trainer))
    trainer = Trainer()
    for length in (10, 10, 30):
        for _ in range(2):
            assert trainer.training_step(None, {"input_ids": torch.zeros(4, length)}) == 1
        trainer.state.global_step += 1
    assert link.of(TokensCounted) == [TokensCounted(41, 160)], "which is told again after many steps"
    for length in [30] * 50:
        trainer.training_step(None, inputs={"input_ids": torch.zeros(4, length), "labels": None})
        trainer.state.global_step += 1
    assert link.of(TokensCounted)[1:] == [TokensCounted(90, round((2 * 160 + 480 + 47 * 240) / 50))]
    assert trainer.training_step(None, {"pixel_values": torch.zeros(4, 3)}) == 1, "which are no tokens"

    lightning, epoch = Trainers(loop), TrainerState(0)
    lightning.attach_lightning_batches(SimpleNamespace(Strategy=Strategy))
    lightning._epoch = weakref.ref(epoch)
    for _ in range(2):
        Strategy().training_step({"input_ids": torch.zeros(2, 8)}, 0)
        epoch.global_step += 1
    assert link.of(TokensCounted)[-1] == TokensCounted(1, 32)
    assert not loop.guarded.broken


def test_a_trainer_says_which_step_it_is_and_that_it_divides(link: FakeLink, loop: TorchLoop) -> None:
    class Trainer:
        def __init__(self, weight: Any) -> None:
            self.state, self.args = TrainerState(40), SimpleNamespace(output_dir="out")
            self.weight = weight

        def training_step(self, _model: Any, value: float) -> None:
            (self.weight * value / torch.tensor(2.0)).sum().backward()  # by a count of tokens, say

        def evaluation_loop(self) -> str:
            return link.phase

        def _save_checkpoint(self, _model: Any, _trial: Any) -> None:
            torch.save({}, "/dev/null")  # of several files

    Trainers(loop).attach_transformers(SimpleNamespace(Trainer=Trainer))
    trainer = Trainer(parameter())
    optimizer = sgd(trainer.weight, lr=1e-12)
    for _ in range(2):
        for value in (1.0, 3.0):
            trainer.training_step(None, value)
        optimizer.step()
        trainer.state.global_step += 1
    assert [(one.step, one.loss) for one in link.of(StepTaken)] == [(41, 2.0), (42, 2.0)]
    assert trainer.evaluation_loop() == "validation"
    trainer._save_checkpoint(None, None)
    (saved,) = link.of(FileSaved)
    assert (Path(saved.path).parts[-2:], saved.step) == (("out", "checkpoint-42"), 42)
    del trainer
    gc.collect()
    optimizer.step()
    assert link.of(StepTaken)[-1].step == 43, "no trainer is kept alive for its count"
