"""The training loop: optimizer steps, and what happens between them."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoints
import order
import text
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.zero.utils import ZeRORuntimeException
from deepspeed.utils import logger as deepspeed_logger
from intervals import Every, SaveTimer, usual_mtbf_s
from ranks import Vote, agree


def say(line: str) -> None:
    """Print from rank 0 only."""
    if dist.get_rank() == 0:
        print(line, flush=True)


@dataclass(frozen=True)
class Data:
    tokenizer: text.Tokenizer
    corpus: text.Corpus
    train: order.Windows
    held_out: order.Windows


class Run:
    """The engine, its place in the data, and everything that happens between optimizer steps."""

    def __init__(
        self,
        args: argparse.Namespace,
        data: Data,
        engine: Any,
        identity: dict[str, Any],
        control: dist.ProcessGroup,
    ) -> None:
        self.args, self.data, self.engine, self.identity, self.control = args, data, engine, identity, control
        group = engine.data_parallel_group
        self.share = order.Share(
            rank=dist.get_rank(group),
            ranks=dist.get_world_size(group),
            micro_batch=engine.train_micro_batch_size_per_gpu(),
            accumulation=engine.gradient_accumulation_steps(),
        )
        self.step = 0
        self.consumed_samples = 0
        self.saved_step = -1
        self.rate = 0.0

    @property
    def decoupled(self) -> bool:
        """Whether the engine stages what is saved, puts it on disk behind the training, names and prunes
        it."""
        return bool(self.engine.checkpoint_engine.is_decoupled())

    def batch(self, windows: order.Windows, indices: Any) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = windows.read(indices)
        device = self.engine.device
        return torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)

    def train_step(self) -> torch.Tensor:
        """One optimizer step; returns this rank's mean loss, not yet waited for."""
        self.skip()
        total = torch.zeros((), device=self.engine.device)
        self.rate = self.engine.get_lr()[0]
        for micro_step in range(self.share.accumulation):
            samples = self.share.samples(self.consumed_samples, micro_step)
            indices = self.data.train.shuffled(samples, self.args.seed)
            loss = self.engine(*self.batch(self.data.train, indices))
            self.engine.backward(loss)
            self.engine.step()
            total += loss.detach() / self.share.accumulation
        self.step += 1
        self.consumed_samples += self.share.global_batch
        return total

    def skip(self) -> None:
        """Move past batches that are not to be trained on."""
        place = order.past_skipped(self.consumed_samples, self.share.global_batch, self.args.skip_batches)
        if place != self.consumed_samples:
            say(f"step {self.step + 1} skips samples {self.consumed_samples} to {place - 1}: --skip_batches")
            self.consumed_samples = place

    def mean_over_ranks(self, total: torch.Tensor, count: int) -> float:
        sums = torch.stack((total.double(), torch.tensor(float(count), device=total.device).double()))
        dist.all_reduce(sums)
        return (sums[0] / sums[1]).item()

    def log(self, loss: torch.Tensor, steps: int, seconds: float) -> None:
        mean = self.mean_over_ranks(loss, 1)
        norm = self.engine.get_global_grad_norm()
        tokens_per_s = steps * self.share.global_batch * self.args.seq_len / seconds
        metrics = {"step": self.step, "loss": mean, "lr": self.rate, "tokens_per_s": round(tokens_per_s, 1)}
        grad = ""
        if norm is not None:
            metrics["grad_norm"] = float(norm)
            grad = f"  grad {float(norm):.2f}"
        width = len(str(self.args.steps))
        place = f"step {self.step:{width}d}/{self.args.steps}"
        say(f"{place}  loss {mean:.4f}  lr {self.rate:.1e}{grad}  {tokens_per_s:,.0f} tokens/s")
        say(json.dumps(metrics))

    @torch.no_grad()
    def validate(self) -> None:
        """Mean loss over the same held-out windows each time, the same ones for any number of ranks."""
        held_out, share = self.data.held_out, self.share
        batches = min(self.args.val_batches, max(1, held_out.count // share.global_batch))
        samples = batches * share.global_batch
        self.engine.eval()
        total = torch.zeros((), device=self.engine.device)
        passes = batches * share.accumulation
        for micro_step in range(passes):
            indices = held_out.spread(share.samples(0, micro_step), samples)
            total += self.engine(*self.batch(held_out, indices)).detach()
        self.engine.train()
        loss = self.mean_over_ranks(total, passes)
        say(json.dumps({"step": self.step, "val_loss": loss, "val_tokens": samples * self.args.seq_len}))

    def position(self) -> dict[str, Any]:
        return {"step": self.step, "consumed_samples": self.consumed_samples, **self.identity}

    def save(self) -> None:
        """Checkpoint this step, unless it is the one that was last saved or loaded."""
        directory, tag = self.args.checkpoint_dir, checkpoints.tag_of(self.step)
        if directory is None or self.step == self.saved_step:
            return
        if self.decoupled:
            # Nothing is on disk yet, and what lies there under this name stays good until it is replaced.
            self.engine.save_checkpoint(str(directory), tag=tag, client_state=self.position())
        else:
            self.save_to_disk(directory, tag)
        self.saved_step = self.step

    def save_to_disk(self, directory: Path, tag: str) -> None:
        if dist.get_rank() == 0:
            checkpoints.discard_leftover(directory, tag)
        self.engine.save_checkpoint(str(directory), tag=tag, client_state=self.position(), save_latest=False)
        if os.environ["LOCAL_RANK"] == "0":
            checkpoints.make_durable(directory / tag)
        dist.barrier(group=self.control)
        if dist.get_rank() == 0:
            checkpoints.commit(directory, tag, self.position(), self.args.checkpoint_keep)

    def load(self, tag: str | None) -> bool:
        """Restore a checkpoint, or raise: a rank never goes on at step 0 because its files were missing.

        With no tag the engine chooses; False when it has none, on every rank.
        """
        directory = self.args.checkpoint_dir
        place = directory if tag is None else directory / tag
        try:
            with without_warning_of_latest():
                path, state = self.engine.load_checkpoint(str(directory), tag=tag)
        except ZeRORuntimeException as error:  # Sharded for another number of ranks.
            raise checkpoints.CheckpointError(
                f"{place}: {error} Convert it with python -m deepspeed.checkpoint.ds_to_universal "
                'and set "checkpoint": {"load_universal": true} in the DeepSpeed JSON'
            ) from None
        step = -1 if path is None else int(state["step"])
        remedy = f"see that every file of {place} can be read from every node"
        agree(step, self.control, "the step they loaded", remedy)
        if path is None and tag is None:
            return False
        if path is None:
            raise checkpoints.CheckpointError(f"DeepSpeed found nothing to load in {place}: {remedy}")
        checkpoints.refuse_other_job(state, self.identity, f"{place}")
        self.step = self.saved_step = step
        self.consumed_samples = int(state["consumed_samples"])
        return True

    def sample(self) -> None:
        """Text of the model's own. Every rank takes part: with ZeRO-3 each holds a part of the weights."""
        tokenizer = self.data.tokenizer
        prompt = tokenizer.encode(self.args.sample_prompt) or [tokenizer.end_of_document]
        self.engine.eval()
        tokens = self.engine.module.generate(
            torch.tensor([prompt], device=self.engine.device),
            count=self.args.sample_tokens,
            temperature=self.args.sample_temperature,
            vocab=tokenizer.vocab,
            generator=torch.Generator().manual_seed(self.args.seed),
        )
        written = tokenizer.decode(tokens[0].tolist())
        say(f"--- sample after step {self.step} ---\n{written}\n--- end of sample ---")


@contextlib.contextmanager
def without_warning_of_latest() -> Iterator[None]:
    """DeepSpeed warns on every rank when it finds no `latest`; what that means is for the caller to say."""

    def wanted(record: logging.LogRecord) -> bool:
        return "Unable to find latest file" not in record.getMessage()

    deepspeed_logger.addFilter(wanted)
    try:
        yield
    finally:
        deepspeed_logger.removeFilter(wanted)


def timed_save(run: Run, timer: SaveTimer) -> None:
    get_accelerator().synchronize()  # Steps still in the GPU's queue are not the save's time.
    begun = time.monotonic()
    run.save()
    first = not timer.stalls_s
    timer.saved(run.step, time.monotonic() - begun)
    if timer.every.auto and first:
        failures = f"a failure is expected every {timer.mtbf_s / 3600:,.1f} h"
        say(f"a save takes {timer.stall_s:.2f} s, {failures}: saving every {timer.interval_s:,.0f} s")


def loop(run: Run) -> bool:
    """Train to the last step; True when SIGTERM ended it before."""
    args, vote = run.args, Vote(run.control)
    every = Every() if args.checkpoint_dir is None else args.checkpoint_every
    timer = SaveTimer(every, args.mtbf_s or usual_mtbf_s(dist.get_world_size()), run.step)
    logged_step, since = run.step, time.perf_counter()
    while run.step < args.steps:
        vote.start(save=timer.due(run.step))
        loss = run.train_step()
        last = run.step == args.steps
        if args.log_every and (run.step % args.log_every == 0 or last):
            run.log(loss, run.step - logged_step, time.perf_counter() - since)
            logged_step, since = run.step, time.perf_counter()
        stop, save = vote.read()
        pause = time.perf_counter()
        if args.val_every and run.data.held_out.count and (run.step % args.val_every == 0 or last):
            run.validate()
        if save or timer.falls_on(run.step):
            timed_save(run, timer)
        if stop and not last:
            return True
        since += time.perf_counter() - pause
    return False
