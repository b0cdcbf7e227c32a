"""Probes at DeepSpeed's own seams: what a rank tells about a script that knows nothing of us.

They wrap `deepspeed.initialize`, and of the engines `forward`, `backward`, `step`, `train_batch`,
`eval_batch`, `eval`, `train`, `save_checkpoint` and `load_checkpoint`. Nothing they do waits for the
device, and nothing that goes wrong in them reaches the script: the probe says so once, and is silent
from then on.

What they tell is in :mod:`~orchestrator.rank.messages`. The link's phase is `validation` from `eval()` to
`train()` or the next backward pass, and in `eval_batch`.

`local_time_s` are the step's seconds outside of `backward`, `step`, `train_batch`, validation, saves and
loads: what a rank does by itself, loading data and the forward pass above all. It is the host's clock. On a
GPU the forward pass is only handed over in that time, unless something in it waits for the device; so a rank
stands out by slow data or a slow host, and not by a slow GPU. With ZeRO-3 the forward pass gathers weights:
where that blocks, as on CPUs, the others wait in it for a slow rank, and their own time is as long. With a
pipeline only what is outside of `train_batch` counts.
"""

from __future__ import annotations

import functools
import os
import time
import weakref
from collections.abc import Callable
from typing import Any

from orchestrator.checkpoint.engine import RankSnapshots
from orchestrator.rank.link import Link
from orchestrator.rank.messages import (
    LoadBegun,
    Loaded,
    LoadFailed,
    MemoryPeak,
    Message,
    PhaseBegun,
    PhaseEnded,
    SaveBegun,
    Saved,
    SaveFailed,
    Staged,
    StepTaken,
)
from orchestrator.rank.probes.engine_values import values_of
from orchestrator.rank.probes.guard import Guard
from orchestrator.rank.probes.import_hook import replace_where_taken, when_imported
from orchestrator.rank.probes.own_time import OwnTime, ThreadClock
from orchestrator.rank.probes.peak_memory import PeakMemory
from orchestrator.rank.probes.readout import Readout, number
from orchestrator.rank.probes.validation import Validation

SHARED_MEMORY_COLLECTIVE = "deepspeed_shm_comm"


class Probes:
    """The probes of one rank. They follow one engine: the first that completes a step."""

    def __init__(
        self,
        link: Link,
        snapshot: dict[str, Any] | None = None,
        engine_trains: Callable[[], None] = lambda: None,
        clock: ThreadClock | None = None,
    ) -> None:
        """``engine_trains`` is called when an engine with an optimizer is made, and before its steps."""
        self._link = link
        self._engine_trains = engine_trains
        self._snapshots = RankSnapshots(link, snapshot)
        self._readout = Readout()
        self._guarded = Guard(link)
        self._engine: weakref.ref[Any] | None = None
        self._told: weakref.ref[Any] | None = None  # whose values have been told
        self._losses: list[Any] = []
        self._loss_scale = 1.0
        self._boundary = time.perf_counter()
        self._paused_s = 0.0
        self._own_time = OwnTime(clock)
        self._had_step = False
        self._validation = Validation(link, self._own_time)
        self._peak_memory = PeakMemory(lambda step, peak_bytes: link.send(MemoryPeak(step, peak_bytes)))

    def attach_when_imported(self) -> None:
        """Attach to DeepSpeed now if it is there, or as soon as the script has imported it."""
        when_imported("deepspeed", self.attach)

    def attach(self, deepspeed: Any) -> None:
        if deepspeed.get_accelerator().device_name() == "cpu":
            # Built on first use, in a minute or two; and segments that a killed rank left in
            # /dev/shm make the next attempt hang for ever.
            deepspeed.ops.__compatible_ops__[SHARED_MEMORY_COLLECTIVE] = False
        engine, pipeline = deepspeed.DeepSpeedEngine, deepspeed.PipelineEngine
        _wrap(deepspeed, "initialize", self._around_initialize)
        _wrap(engine, "forward", self._around_forward)
        _wrap(engine, "eval", self._validation.around_eval)
        _wrap(engine, "train", self._validation.around_train)
        _wrap(engine, "backward", self._around_backward)
        _wrap(engine, "step", self._around_step)
        _wrap(engine, "save_checkpoint", self._around_save)
        _wrap(engine, "load_checkpoint", self._around_load)
        for owner in (pipeline, getattr(deepspeed, "DualPipeVEngine", None)):
            if owner is not None and "train_batch" in vars(owner):
                _wrap(owner, "train_batch", self._around_train_batch)
            if owner is not None and "eval_batch" in vars(owner):
                _wrap(owner, "eval_batch", self._validation.around_eval_batch)

    def flush(self) -> None:
        """Send what is still on its way from the device."""
        self._guarded("flush", self._readout.flush)

    def abandon(self) -> None:
        """Send what is still on its way without its numbers: after an error the device may be gone."""
        self._guarded("abandon", self._readout.abandon)

    def _around_initialize(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def initialize(*args: Any, **kwargs: Any) -> Any:
            before = self._link.phase
            self._link.enter("initialize")
            self._link.send(PhaseBegun("initialize"))
            begin = time.perf_counter()
            try:
                result = original(*args, **kwargs)
            except BaseException:
                self._link.enter(before)
                raise
            self._boundary = time.perf_counter()
            self._own_time.take()
            self._link.send(PhaseEnded("initialize", self._boundary - begin))
            self._link.progress += 1
            self._link.enter("step" if self._had_step else "first_step")
            if result[1] is not None:
                self._engine_trains()
            self._guarded("adopt", self._snapshots.adopt, result[0])
            if self._told is None:
                self._guarded("engine", self._tell_engine, result[0])
            return result

        return initialize

    def _tell_engine(self, engine: Any) -> None:
        """Of the first engine that is made, and again of the one that trains where that is another."""
        self._told = weakref.ref(engine)
        if (values := values_of(engine)) is not None:
            self._link.send(values)

    def _around_forward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        link = self._link

        def forward(engine: Any, *args: Any, **kwargs: Any) -> Any:
            link.progress += 1
            return original(engine, *args, **kwargs)

        return forward

    def _around_backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def backward(engine: Any, *args: Any, **kwargs: Any) -> Any:
            self._validation.end()  # a script may go on in that mode
            with self._own_time.pause():
                result = original(engine, *args, **kwargs)
            self._guarded("backward", self._note_loss, engine, args, kwargs)
            return result

        return backward

    def _note_loss(self, engine: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._link.progress += 1
        if not self._follows(engine):
            return
        loss = args[0] if args else kwargs["loss"]
        # DeepSpeed divides what it is passed by the number of micro-batches, and multiplies that by
        # the loss scale; with scale_wrt_gas=False the script has divided already.
        divided = not (args[2] if len(args) > 2 else kwargs.get("scale_wrt_gas", True))
        self._loss_scale = 1.0 if divided else 1.0 / (len(self._losses) + 1)
        loss = loss.detach()
        self._losses.append(loss if loss.device.type != "cpu" else loss.item())

    def _around_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(engine: Any, *args: Any, **kwargs: Any) -> Any:
            self._engine_trains()  # before its optimizer says that it does a step
            self._snapshots.before_step(engine)
            before, skipped, lr = engine.global_steps, _skipped_steps(engine), _learning_rate(engine)
            with self._own_time.pause():
                result = original(engine, *args, **kwargs)
            if engine.global_steps != before:
                self._guarded("step", self._step_done, engine, lr, _skipped_steps(engine) != skipped)
            return result

        return step

    def _around_train_batch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def train_batch(engine: Any, *args: Any, **kwargs: Any) -> Any:
            self._engine_trains()  # before its optimizer says that it does a step
            self._snapshots.before_step(engine)
            before, skipped, lr = engine.global_steps, _skipped_steps(engine), _learning_rate(engine)
            with self._own_time.pause():
                result = original(engine, *args, **kwargs)
            if engine.global_steps != before:
                # The last stage has been through `backward`; all stages are told the mean in the end.
                self._losses = [result.detach()] if hasattr(result, "detach") else []
                self._loss_scale = 1.0
                self._guarded("train_batch", self._step_done, engine, lr, _skipped_steps(engine) != skipped)
            return result

        return train_batch

    def _follows(self, engine: Any) -> bool:
        """Whether this engine's steps are reported. A script may train several, or make a new one."""
        return self._engine is None or self._engine() in (None, engine)

    def _step_done(self, engine: Any, lr: float | None, skipped: bool) -> None:
        if not self._follows(engine):
            return
        if self._engine is None or self._engine() is None:
            self._engine = weakref.ref(engine)
            if self._told is None or self._told() is not engine:
                self._tell_engine(engine)
        now = time.perf_counter()
        step_time_s = now - self._boundary - self._paused_s
        self._boundary, self._paused_s, local_time_s = now, 0.0, self._own_time.take()
        losses, self._losses = self._losses, []
        link, step = self._link, int(engine.global_steps)
        link.step = step
        link.progress += 1
        if not self._had_step:
            self._had_step = True
            link.enter("step")
            link.send(PhaseEnded("first_step", step_time_s))

        def emit(loss: float | None, grad_norm: float | None) -> None:
            link.send(StepTaken(step, step_time_s, local_time_s, loss, lr, grad_norm, skipped))

        self._readout.read(losses, self._loss_scale, engine.get_global_grad_norm(), emit)
        self._peak_memory.step_done(step, getattr(engine, "device", None))

    def _around_save(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def save_checkpoint(
            engine: Any,
            save_dir: Any,
            tag: Any = None,
            client_state: Any = None,
            save_latest: bool = True,
            **kwargs: Any,
        ) -> Any:
            step, folder = int(engine.global_steps), os.fsdecode(save_dir)
            name = f"global_step{step}" if tag is None else str(tag)
            state = {} if client_state is None else client_state
            self.flush()
            begun, failed = SaveBegun(folder, name, step), functools.partial(SaveFailed, folder, name, step)
            with _Stretch(self, "save", begun, failed) as stretch:
                if not self._snapshots.adopted(engine):
                    result = original(engine, save_dir, tag, state, save_latest, **kwargs)
                    done: Callable[[float], Message] = functools.partial(Saved, folder, name, step)
                else:
                    saving = self._snapshots.staging.begin(engine, folder, name, save_latest)
                    result = False
                    try:
                        result = original(engine, str(saving.folder.parent), name, state, False, **kwargs)
                    finally:
                        self._snapshots.staging.end(bool(result))
                    done = functools.partial(
                        Staged,
                        os.path.abspath(folder),
                        name,
                        step,
                        attempt=self._snapshots.staging.attempt,
                        to=str(saving.folder),
                        slot=saving.slot_index,
                        files=saving.direct,
                        given_up=saving.given_up,
                        save_latest=bool(save_latest),
                    )
                stretch.end = done if result else failed
            return result

        return save_checkpoint

    def _around_load(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def load_checkpoint(engine: Any, load_dir: Any, tag: Any = None, *args: Any, **kwargs: Any) -> Any:
            folder, asked = os.fsdecode(load_dir), None if tag is None else str(tag)
            begun, failed = LoadBegun(folder, asked), functools.partial(LoadFailed, folder, asked)
            with _Stretch(self, "load", begun, failed) as stretch:
                ours = self._snapshots.adopted(engine) and not engine.load_universal_checkpoint()
                lead_to, led_tag, wanted = self._snapshots.lead(folder, tag) if ours else (folder, tag, None)
                if ours:
                    self._snapshots.depart(engine, lead_to, led_tag, wanted)
                result = original(engine, lead_to, led_tag, *args, **kwargs)
                path = result[0]
                if ours:
                    self._snapshots.arrived(engine, path is not None, wanted)
                if path is not None:
                    step = self._link.step = int(engine.global_steps)
                    found = (
                        led_tag if led_tag is not None else os.path.dirname(os.path.relpath(path, lead_to))
                    )
                    stretch.end = functools.partial(Loaded, folder, str(found), step)
            return result

        return load_checkpoint


class _Stretch:
    """A checkpoint being saved or loaded: its two messages, its phase, and its time, which no step took.

    `end` makes the second message from the seconds that it took: that it failed, until somebody knows better.
    """

    def __init__(
        self, probes: Probes, phase: str, begun: Message, failed: Callable[[float], Message]
    ) -> None:
        self._probes = probes
        self._phase = phase
        self._begun = begun
        self.end = failed

    def __enter__(self) -> _Stretch:
        link = self._probes._link
        self._phase_before = link.phase
        link.enter(self._phase)
        link.progress += 1
        self._probes._own_time.pause()
        link.send(self._begun)
        self._since = time.perf_counter()
        return self

    def __exit__(self, *_raised: object) -> None:
        seconds = time.perf_counter() - self._since
        self._probes._paused_s += seconds
        self._probes._own_time.resume()
        link = self._probes._link
        link.progress += 1
        link.send(self.end(seconds))
        link.enter(self._phase_before)


def _wrap(owner: Any, name: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    original = getattr(owner, name)
    put = functools.wraps(original)(around(original))
    setattr(owner, name, put)
    replace_where_taken(name, original, put)


def _skipped_steps(engine: Any) -> int:
    """Steps in which DeepSpeed found an overflow and left the weights as they were, to lower the loss scale
    of fp16. In other precisions there is none: what is skipped there had gradients that are no numbers, which
    is a fault."""
    # an engine of another DeepSpeed must not end the script here
    half = getattr(engine, "fp16_enabled", None)
    return int(getattr(engine, "skipped_steps", 0)) if callable(half) and half() else 0


def _learning_rate(engine: Any) -> float | None:
    """That of the first parameter group; of no use where it lives on a device (capturable optimizers)."""
    groups = getattr(engine.optimizer, "param_groups", None)
    return number(groups[0].get("lr")) if groups else None
