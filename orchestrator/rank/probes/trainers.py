"""What the trainers of other libraries know better than torch does: at which step they are, that they divide
the losses of micro-batches, how many tokens a step has, and when they validate and save.

Nothing is imported for it: each library is met when the script imports it. What another version of it does
not have is left alone, and torch's own seams tell the rest.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable
from typing import Any

from orchestrator.rank.probes.import_hook import when_imported
from orchestrator.rank.probes.token_count import TokenCount
from orchestrator.rank.probes.torch_loop import TorchLoop, wrap


class Trainers:
    """The Trainer of transformers, and all that is made of it, and Lightning's under both of its names."""

    def __init__(self, loop: TorchLoop) -> None:
        self._loop = loop
        self._tokens = TokenCount(loop.link)
        self._epoch: weakref.ref[Any] | None = None  # of Lightning's loop, which counts steps

    def attach_when_imported(self) -> None:
        """Attach to each as soon as the script has imported it."""
        when_imported("transformers.trainer", self._guarded(self.attach_transformers))
        for package in ("lightning.pytorch", "pytorch_lightning"):
            attach = {
                "trainer.trainer": self.attach_lightning,
                "loops.evaluation_loop": self.attach_lightning_validation,
                "loops.training_epoch_loop": self.attach_lightning_epochs,
                "strategies.strategy": self.attach_lightning_batches,
            }
            for module, attached in attach.items():
                when_imported(f"{package}.{module}", self._guarded(attached))

    def _guarded(self, attach: Callable[[Any], None]) -> Callable[[Any], None]:
        return functools.partial(self._loop.guarded, "attach", attach)

    def attach_transformers(self, module: Any) -> None:
        trainer = module.Trainer
        _wrap_known(trainer, "training_step", self._around_training_step)
        _wrap_known(trainer, "evaluation_loop", self._around_validation)
        _wrap_known(trainer, "_save_checkpoint", self._around_trainer_save)

    def attach_lightning(self, module: Any) -> None:
        _wrap_known(module.Trainer, "save_checkpoint", self._around_lightning_save)

    def attach_lightning_validation(self, module: Any) -> None:
        _wrap_known(getattr(module, "_EvaluationLoop", None), "run", self._around_validation)

    def attach_lightning_epochs(self, module: Any) -> None:
        _wrap_known(getattr(module, "_TrainingEpochLoop", None), "advance", self._around_lightning_batch)

    def attach_lightning_batches(self, module: Any) -> None:
        _wrap_known(getattr(module, "Strategy", None), "training_step", self._around_lightning_step)

    def _around_training_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        loop = self._loop

        def training_step(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            loop.losses.summed = True
            loop.next_step = functools.partial(_next_step, weakref.ref(trainer.state))
            inputs = args[1] if len(args) > 1 else kwargs.get("inputs")
            loop.guarded("tokens", self._count_of_trainer, trainer, inputs)
            return original(trainer, *args, **kwargs)

        return training_step

    def _around_lightning_batch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        loop = self._loop

        def advance(epoch: Any, *args: Any, **kwargs: Any) -> Any:
            self._epoch = weakref.ref(epoch)
            loop.next_step = functools.partial(_next_step, self._epoch)
            return original(epoch, *args, **kwargs)

        return advance

    def _around_lightning_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def training_step(strategy: Any, *args: Any, **kwargs: Any) -> Any:
            epoch = None if self._epoch is None else self._epoch()
            if epoch is not None and args:
                self._loop.guarded("tokens", self._tokens.batch, args[0], int(epoch.global_step))
            return original(strategy, *args, **kwargs)

        return training_step

    def _count_of_trainer(self, trainer: Any, inputs: Any) -> None:
        parallel = getattr(getattr(trainer, "accelerator", None), "parallelism_config", None)
        alike = getattr(parallel, "non_data_parallel_size", 1)
        self._tokens.batch(inputs, int(trainer.state.global_step), int(alike))

    def _around_validation(self, original: Callable[..., Any]) -> Callable[..., Any]:
        loop = self._loop

        def validate(*args: Any, **kwargs: Any) -> Any:
            if loop.silent:
                return original(*args, **kwargs)
            loop.begun()
            loop.validation.begin()
            try:
                return original(*args, **kwargs)
            finally:
                loop.validation.end()

        return validate

    def _around_trainer_save(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def save(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            name = f"checkpoint-{trainer.state.global_step}"  # transformers' own, of every folder
            path = os.path.join(os.fspath(trainer.args.output_dir), name)
            return self._loop.saving(path, lambda: original(trainer, *args, **kwargs))

        return save

    def _around_lightning_save(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def save_checkpoint(trainer: Any, filepath: Any, *args: Any, **kwargs: Any) -> Any:
            path = os.fspath(filepath)
            return self._loop.saving(path, lambda: original(trainer, filepath, *args, **kwargs))

        return save_checkpoint


def _next_step(counting: weakref.ref[Any]) -> int:
    """The number of the step that is under way; 0 where what counts is gone, which must not stay for us."""
    counts = counting()
    return 0 if counts is None else int(counts.global_step) + 1


def _wrap_known(owner: Any, name: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    if hasattr(owner, name):
        wrap(owner, name, around)
