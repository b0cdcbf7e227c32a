"""Pretrain a GPT on text with DeepSpeed.

    torchrun --nproc_per_node=2 pretrain.py --deepspeed_config=ds.json --steps=150 --checkpoint_dir=ckpt

Batch sizes, ZeRO stage, precision and clipping come from the DeepSpeed JSON. Rank 0 prints plain lines
and, for what a machine wants to read, one JSON object per line. The run resumes from --checkpoint_dir;
on SIGTERM all ranks save after the same step and exit 0. Settings that cannot work exit with status 2.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import sys
from typing import Any

import checkpoints
import deepspeed
import order
import text
import torch
import torch.distributed as dist
from gpt import GPT, Linear, Shape
from ranks import DisagreementError, agree, join_process_group
from settings import SettingsError, parse_arguments, read_deepspeed_config
from training import Data, Run, loop, say

REFUSED = (SettingsError, text.DataError, checkpoints.CheckpointError, DisagreementError)


def make_shape(args: argparse.Namespace) -> Shape:
    try:
        return Shape(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Shape)})
    except ValueError as error:
        raise SettingsError(str(error)) from None


def open_data(args: argparse.Namespace) -> Data:
    """Map the corpus and cut it into training windows and the held-out tail."""
    tokenizer = text.make_tokenizer(args.tokenizer)
    if args.vocab < tokenizer.vocab:
        raise SettingsError(
            f"--vocab={args.vocab} is less than the {tokenizer.vocab} of the tokenizer: raise it"
        )
    if not 0 <= args.val_fraction < 1:
        raise SettingsError(f"--val_fraction={args.val_fraction} must be at least 0 and below 1")
    try:
        corpus = text.open_corpus(args.data, tokenizer, args.data_cache)
    except OSError as error:
        raise SettingsError(f"{error.filename}: {error.strerror}; see to --data or --data_cache") from None
    parts = order.split(corpus.tokens, args.val_fraction)
    train, held_out = (order.Windows(part, args.seq_len) for part in parts)
    needs = f"tokens and --seq_len={args.seq_len} needs {args.seq_len + 1}"
    if not train.count:
        named = ",".join(args.data)
        raise SettingsError(
            f"--data={named} gives {len(train.tokens)} {needs}: add text or shorten the sequences"
        )
    if args.val_every and args.val_fraction and not held_out.count:
        raise SettingsError(
            f"--val_fraction={args.val_fraction} holds out {len(held_out.tokens)} {needs}: "
            "raise it, or use --val_every=0"
        )
    return Data(tokenizer, corpus, train, held_out)


def learning_rate_factor(step: int, args: argparse.Namespace) -> float:
    """Linear warm-up to 1, then half a cosine down to `min_lr_ratio` at the last step."""
    if step < args.warmup_steps:
        return (step + 1) / args.warmup_steps
    done = (step - args.warmup_steps) / max(1, args.steps - args.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return args.min_lr_ratio + (1 - args.min_lr_ratio) * cosine


def make_engine(args: argparse.Namespace, shape: Shape, config: dict[str, Any]) -> Any:
    """Model, optimizer and schedule in a DeepSpeed engine; an optimizer or scheduler in the JSON wins."""
    try:
        parsed = deepspeed.DeepSpeedConfig(copy.deepcopy(config))
    except (AssertionError, ValueError, deepspeed.DeepSpeedConfigError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(
            f"--deepspeed_config={args.deepspeed_config} does not hold together: {reason}"
        ) from None
    torch.manual_seed(args.seed)
    with deepspeed.zero.Init(config_dict_or_path=config, enabled=parsed.zero_optimization_stage == 3):
        model = GPT(shape, args.activation_checkpointing)
    decayed = [module.weight for module in model.modules() if isinstance(module, Linear)]
    known = {id(parameter) for parameter in decayed}
    kept = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups = [{"params": decayed}, {"params": kept, "weight_decay": 0.0}]

    def adamw(parameters: Any) -> torch.optim.Optimizer:
        betas = (args.beta1, args.beta2)
        return torch.optim.AdamW(parameters, args.lr, betas, weight_decay=args.weight_decay, fused=True)

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, args))

    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=groups,
        optimizer=None if "optimizer" in config else adamw(groups),
        lr_scheduler=None if "scheduler" in config else schedule,
        config=config,
    )
    return engine


def find_checkpoint(
    args: argparse.Namespace, identity: dict[str, Any], control: dist.ProcessGroup, universal: bool
) -> str | None:
    """Tag on the disk to resume from, the same on all ranks, of a job like this one; None for a fresh
    start."""
    tag, remark = checkpoints.find(args.checkpoint_dir)
    if universal:
        tag = checkpoints.find_universal(args.checkpoint_dir)
    agree(
        checkpoints.step_of(tag),
        control,
        "the step to resume from (-1 is none)",
        f"--checkpoint_dir={args.checkpoint_dir} must be one directory that all nodes share",
    )
    if remark:
        say(remark)
    if tag is not None and (saved := checkpoints.saved_identity(args.checkpoint_dir, tag)):
        checkpoints.refuse_other_job(saved, identity, f"{args.checkpoint_dir / tag}")
    return tag


def resume(run: Run, config: dict[str, Any]) -> bool:
    """Load what there is to go on from; False on every rank when there is nothing."""
    if run.args.checkpoint_dir is None:
        return False
    universal = bool(config.get("checkpoint", {}).get("load_universal", False))
    # An engine that stages in memory may hold a later step than the disk, so it is asked first.
    if run.decoupled and not universal and run.load(None):
        return True
    tag = find_checkpoint(run.args, run.identity, run.control, universal)
    return tag is not None and run.load(tag)


def pretrain(args: argparse.Namespace) -> None:
    config, shape, data = read_deepspeed_config(args.deepspeed_config), make_shape(args), open_data(args)
    control = join_process_group()
    remedy = "--data must give every node the same text"
    agree(int(data.corpus.fingerprint[:15], 16), control, "the corpus (its fingerprint)", remedy)
    identity = {
        **dataclasses.asdict(shape),
        "corpus": data.corpus.fingerprint,
        "train_windows": data.train.count,
        "seed": args.seed,
    }
    run = Run(args, data, make_engine(args, shape, config), identity, control)
    resumed = resume(run, config)
    corpus = f"{len(data.corpus.tokens):,} tokens in {data.corpus.documents:,} documents"
    start = f"resumed from step {run.step}" if resumed else "from step 0"
    batch = f"{run.share.global_batch} x {args.seq_len} tokens a step"
    say(f"{shape.parameters:,} parameters, {corpus}, dp {run.share.ranks}, {batch}, {start}")
    stopped = loop(run)
    run.save()
    if stopped:
        where = f"saved in {args.checkpoint_dir}" if args.checkpoint_dir else "not saved: no --checkpoint_dir"
        say(f"stopped by SIGTERM after step {run.step}/{args.steps}, {where}")
    elif args.sample_tokens:
        run.sample()
    run.engine.destroy()


def main() -> int:
    args = parse_arguments(__doc__)
    try:
        pretrain(args)
    except REFUSED as error:
        print(f"pretrain: {error}", file=sys.stderr, flush=True)
        return 2
    finally:
        if dist.is_initialized() and sys.exc_info()[0] is None:
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
