"""Probes at torch's own seams, for training without a DeepSpeed engine: plain loops, DDP, FSDP, and what
libraries make of them.

A step is one of an optimizer's, which torch tells of itself (``register_optimizer_step_post_hook``): however
many micro-batches it was accumulated from, it is one. The first optimizer to take one is followed; another is
when that one is gone, or has stood still for :data:`STANDS_STILL_STEPS` of the other's. The loss is what
``backward`` was called on, the gradient norm what ``clip_grad_norm_`` has returned.

Steps are counted on from where the script is: a trainer's own count where one is known
(:mod:`~orchestrator.rank.probes.trainers`), else the one in the optimizer's state, which Adam and its kind
keep and load, else from 1.

As soon as a DeepSpeed engine with an optimizer is made, these probes are silent for ever: its own tell.
As those, they wait for no device but once, after the first step, for an optimizer that counts on the device.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from itertools import islice
from typing import Any

from orchestrator.rank.link import Link
from orchestrator.rank.messages import FileSaved, MemoryPeak, OptimizerFollowed, PhaseEnded, StepTaken
from orchestrator.rank.probes.guard import Guard
from orchestrator.rank.probes.import_hook import replace_where_taken, when_imported
from orchestrator.rank.probes.micro_losses import MicroLosses
from orchestrator.rank.probes.own_time import OwnTime, ThreadClock
from orchestrator.rank.probes.peak_memory import PeakMemory
from orchestrator.rank.probes.readout import Readout, number
from orchestrator.rank.probes.validation import Validation

STANDS_STILL_STEPS = 20
_LOOKED_AT_PARAMETERS = 8


class TorchLoop:
    """The probes of one rank."""

    def __init__(self, link: Link, clock: ThreadClock | None = None) -> None:
        self.link = link
        self.guarded = Guard(link)
        self.losses = MicroLosses()
        # What a trainer says the next step's number is; None where nobody says so.
        self.next_step: Callable[[], int] | None = None
        self.own_time = OwnTime(clock)
        self.validation = Validation(link, self.own_time)
        self.handles: list[Any] = []
        self._silent = False
        self._readout = Readout()
        self._peak_memory = PeakMemory(lambda step, peak_bytes: link.send(MemoryPeak(step, peak_bytes)))
        self._optimizer: weakref.ref[Any] | None = None
        self._other: weakref.ref[Any] | None = None
        self._other_steps = 0
        self._step = 0
        self._lr: float | None = None
        self._grad_norm: Any = None
        self._boundary: float | None = None
        self._paused_s = 0.0
        self._stepping = self._saving = self._in_backward = self._has_gradients = False

    def attach_when_imported(self) -> None:
        """Attach to torch now if it is there, or as soon as the script has imported it."""
        when_imported("torch", self.attach)
        when_imported("torch.distributed.fsdp", self.attach_fsdp)
        when_imported("torch.distributed.checkpoint", self.attach_distributed_checkpoint)
        when_imported("safetensors.torch", self.attach_safetensors)
        when_imported("torch._dynamo.trace_rules", leave_uncompiled)

    def attach(self, torch: Any) -> None:
        self.guarded("attach", self._attach, torch)

    def _attach(self, torch: Any) -> None:
        optim = sys.modules["torch.optim.optimizer"]  # torch.optim takes the name away again
        for register, hook in (
            (optim.register_optimizer_step_pre_hook, self._before_step),
            (optim.register_optimizer_step_post_hook, self._after_step),
        ):
            self.handles.append(register(hook))
        wrap(torch.autograd, "backward", self._around_backward)
        wrap(torch.nn.Module, "eval", self._around_eval)
        wrap(torch.nn.Module, "zero_grad", self._around_zero_grad)
        wrap(torch.optim.Optimizer, "zero_grad", self._around_zero_grad)
        wrap(torch.nn.utils, "clip_grad_norm_", self._around_clip)
        wrap(torch.amp.GradScaler, "scale", self._around_scale)
        wrap(torch.amp.GradScaler, "step", self._around_scaled_step)
        wrap(torch, "save", self._around_save)
        ddp = torch.nn.parallel.DistributedDataParallel
        wrap(ddp, "__init__", self._around_wrapping)
        wrap(ddp, "train", self._around_train)
        batches = getattr(torch.utils.data.dataloader, "_BaseDataLoaderIter", None)
        if batches is not None:
            wrap(batches, "__next__", self._around_next)

    def attach_fsdp(self, fsdp: Any) -> None:
        self.guarded("attach", self._attach_fsdp, fsdp)

    def _attach_fsdp(self, fsdp: Any) -> None:
        wrap(fsdp.FullyShardedDataParallel, "__init__", self._around_wrapping)
        if hasattr(fsdp, "fully_shard"):
            wrap(fsdp, "fully_shard", self._around_wrapping)

    def attach_distributed_checkpoint(self, checkpoint: Any) -> None:
        for name in ("save", "async_save"):
            self.guarded("attach", wrap, checkpoint, name, self._around_distributed_save)

    def attach_safetensors(self, safetensors: Any) -> None:
        self.guarded("attach", wrap, safetensors, "save_file", self._around_save_file)

    def give_way(self) -> None:
        """A DeepSpeed engine trains, and its own probes tell of it."""
        if not self._silent:
            self._silent = True
            self.validation.end()

    def flush(self) -> None:
        """Send what is still on its way from the device."""
        self.guarded("flush", self._readout.flush)

    def abandon(self) -> None:
        """Send what is still on its way without its numbers: after an error the device may be gone."""
        self.guarded("abandon", self._readout.abandon)

    @property
    def silent(self) -> bool:
        return self._silent or self.guarded.broken

    def _around_wrapping(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapping(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if not self.silent and self._boundary is None:
                self.link.progress += 1
                self.link.enter("first_step")
            return result

        return wrapping

    def _around_next(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def __next__(batches: Any) -> Any:  # noqa: N807 - it stands in for that method
            if not self.silent:
                self.begun()
            return original(batches)

        return __next__

    def begun(self) -> None:
        """Something goes on; the first step lasts from the first time on."""
        self.link.progress += 1
        if self._boundary is None:
            self._boundary = time.perf_counter()
            self.own_time.take()

    def _around_eval(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def eval(module: Any) -> Any:
            # Parts of a model that are never trained are set to this while it is built.
            if not self.silent and self._boundary is not None:
                self.validation.begin()
            return original(module)

        return eval

    def _around_train(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def train(module: Any, mode: bool = True) -> Any:
            if mode:
                self.validation.end()
            return original(module, mode)

        return train

    def _around_backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            # It is called within itself where activations are computed again.
            if self.silent or self._in_backward:
                return original(tensors, *args, **kwargs)
            self.validation.end()
            self.begun()
            self._in_backward = self._has_gradients = True
            self.guarded("backward", self.losses.note, tensors)
            try:
                with self.own_time.pause():
                    return original(tensors, *args, **kwargs)
            finally:
                self._in_backward = False

        return backward

    def _around_scale(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def scale(scaler: Any, outputs: Any) -> Any:
            result = original(scaler, outputs)
            if not self.silent and result is not outputs:
                self.guarded("scale", self.losses.scaled, outputs, result)
            return result

        return scale

    def _around_scaled_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            before = self._step
            result = original(scaler, optimizer, *args, **kwargs)
            if self._step == before and self._is_followed(optimizer):
                self.losses.drop()  # the loss scale was too high, and no step was taken
            return result

        return step

    def _around_zero_grad(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def zero_grad(owner: Any, *args: Any, **kwargs: Any) -> Any:
            # What a script has thrown away, for it was no number perhaps, is no part of the next step.
            if not hasattr(owner, "param_groups") or self._optimizer is None or self._is_followed(owner):
                self.losses.drop()
            return original(owner, *args, **kwargs)

        return zero_grad

    def _is_followed(self, optimizer: Any) -> bool:
        return self._optimizer is not None and self._optimizer() is optimizer

    def _around_clip(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def clip_grad_norm_(*args: Any, **kwargs: Any) -> Any:
            norm = original(*args, **kwargs)
            if not self.silent:
                self._grad_norm = norm.detach() if hasattr(norm, "detach") else norm
            return norm

        return clip_grad_norm_

    def _before_step(self, optimizer: Any, _args: Any, _kwargs: Any) -> None:
        if self.silent:
            return
        if not self._stepping:
            self._stepping = True
            self.own_time.pause()
        groups = optimizer.param_groups
        self._lr = number(groups[0].get("lr")) if groups else None

    def _after_step(self, optimizer: Any, _args: Any, _kwargs: Any) -> None:
        if self.silent:
            return
        if self._stepping:
            self._stepping = False
            self.own_time.resume()
        self.link.progress += 1
        has_gradients, self._has_gradients = self._has_gradients, False
        if self._lr == 0 and not has_gradients:
            return  # no training: torch has an optimizer make its state so, to load one into it
        if self._follows(optimizer):
            self.guarded("step", self._step_done, optimizer)
        else:
            self.losses.drop()

    def _follows(self, optimizer: Any) -> bool:
        if self._is_followed(optimizer):
            self._other_steps = 0
            return True
        if self._optimizer is None or self._optimizer() is None:
            self._follow(optimizer)
            return True
        other = None if self._other is None else self._other()
        if other is None:
            self._other, self._other_steps = weakref.ref(optimizer), 0
        if other is optimizer:
            self._other_steps += 1
        if self._other_steps < STANDS_STILL_STEPS:
            return False
        self._follow(optimizer)
        return True

    def _follow(self, optimizer: Any) -> None:
        self._optimizer, self._other, self._other_steps = weakref.ref(optimizer), None, 0
        self.link.send(OptimizerFollowed(type(optimizer).__name__))

    def _number(self, optimizer: Any) -> int:
        """Of the step that is just done."""
        if self.next_step is not None:
            return max(self._step + 1, self.next_step())
        return self._step + 1 if self._step else max(1, _steps_in_state(optimizer))

    def _step_done(self, optimizer: Any) -> None:
        now, first = time.perf_counter(), self._step == 0
        step_time_s = now - (now if self._boundary is None else self._boundary) - self._paused_s
        self._boundary, self._paused_s, local_time_s = now, 0.0, self.own_time.take()
        step = self._step = self._number(optimizer)
        losses, scale = self.losses.take()
        lr, grad_norm, self._grad_norm = self._lr, self._grad_norm, None
        link = self.link
        link.step = step
        if first:
            link.enter("step")
            link.send(PhaseEnded("first_step", step_time_s))

        def emit(loss: float | None, norm: float | None) -> None:
            link.send(StepTaken(step, step_time_s, local_time_s, loss, lr, norm))

        self._readout.read(losses, scale, grad_norm, emit)
        self._peak_memory.step_done(step, _device_of(optimizer))

    def _around_save(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
            if self.silent or not isinstance(f, str | os.PathLike):
                return original(obj, f, *args, **kwargs)
            return self.saving(os.fsdecode(f), lambda: original(obj, f, *args, **kwargs))

        return save

    def _around_save_file(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def save_file(*args: Any, **named: Any) -> Any:
            path = args[1] if len(args) > 1 else named.get("filename")
            if self.silent or not isinstance(path, str | os.PathLike):
                return original(*args, **named)
            return self.saving(os.fsdecode(path), lambda: original(*args, **named))

        return save_file

    def _around_distributed_save(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def save(*args: Any, **named: Any) -> Any:
            given = named.get("checkpoint_id")
            path = given if given is not None else getattr(named.get("storage_writer"), "path", None)
            if self.silent or not isinstance(path, str | os.PathLike):
                return original(*args, **named)
            return self.saving(os.fsdecode(path), lambda: original(*args, **named))

        return save

    def saving(self, path: str, save: Callable[[], Any]) -> Any:
        """Do what saves, be it in parts, and tell that it is done; it is no part of a step. What is saved by
        another thread holds no step up."""
        if self.silent or self._saving:
            return save()
        if threading.current_thread() is not threading.main_thread():
            result = save()
            self.link.send(FileSaved(os.path.abspath(path), self._step, 0.0))
            return result
        before, since = self.link.phase, time.perf_counter()
        self.link.enter("save")
        self.link.progress += 1
        self.own_time.pause()
        self._saving = True
        saved = False
        try:
            result = save()
            saved = True
            return result
        finally:
            seconds = time.perf_counter() - since
            self._saving = False
            self._paused_s += seconds
            self.own_time.resume()
            self.link.progress += 1
            if saved:
                self.link.send(FileSaved(os.path.abspath(path), self._step, seconds))
            self.link.enter(before)


def wrap(owner: Any, name: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put ``around(original)`` in the place of a function or a method, also in the module that it comes from,
    where whoever pickles it looks for it."""
    original = getattr(owner, name)
    put = functools.wraps(original)(around(original))
    home = sys.modules.get(getattr(original, "__module__", ""))
    for place in (owner, home):
        if getattr(place, name, None) is original:
            setattr(place, name, put)
    replace_where_taken(name, original, put)


def leave_uncompiled(rules: Any) -> None:
    """A script may compile its whole step: what is ours in it has to run as it is, and not to be traced once.
    ``torch.compiler.disable`` says so of a function, but imports the compiler, which takes seconds."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if hasattr(rules, "SKIP_DIRS") and hasattr(rules, "_recompile_re"):
        rules.SKIP_DIRS.append(folder + os.sep)
        rules._recompile_re()


def _steps_in_state(optimizer: Any) -> int:
    """How many steps an optimizer counts by itself, those of a checkpoint that it has loaded included; 0
    where it does not count."""
    states = islice(optimizer.state.values(), _LOOKED_AT_PARAMETERS)
    counts = (state.get("step") for state in states if isinstance(state, dict))
    return max((int(count) for count in counts if count is not None), default=0)


def _device_of(optimizer: Any) -> Any:
    groups = optimizer.param_groups
    return getattr(groups[0]["params"][0], "device", None) if groups and groups[0]["params"] else None
