"""Train a small GPT-2 from scratch with transformers' Trainer and DeepSpeed, as the language-modeling
examples do.

torchrun --nproc_per_node=2 transformers_trainer.py --output_dir=out --deepspeed=zero2.json --max_steps=20
"""

from __future__ import annotations

import inspect
import os
import sys
import textwrap

import torch
from accelerate import PartialState
from torch.utils.data import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

BLOCK = 64


class Blocks(Dataset):
    """The bytes of a text, cut into blocks of equal length."""

    def __init__(self, text: str) -> None:
        tokens = torch.tensor(list(text.encode()))
        self.blocks = tokens[: len(tokens) // BLOCK * BLOCK].view(-1, BLOCK)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.blocks[index], "labels": self.blocks[index]}


def join_without_a_gpu() -> list[str]:
    """The Trainer names no backend to DeepSpeed where there is no GPU, and takes every rank for the only
    one."""
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"  # as `accelerate launch --use_deepspeed` sets it
    PartialState(backend="gloo")
    return ["--accelerator_config", '{"use_configured_state": true}']


def main() -> None:
    arguments = sys.argv[1:]
    if not torch.cuda.is_available() and any(word.startswith("--deepspeed") for word in arguments):
        arguments += join_without_a_gpu()
    (training_args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(arguments)
    set_seed(training_args.seed)
    config = GPT2Config(
        vocab_size=256,
        n_positions=BLOCK,
        n_embd=64,
        n_layer=2,
        n_head=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    trainer = Trainer(
        model=GPT2LMHeadModel(config),
        args=training_args,
        train_dataset=Blocks(inspect.getsource(textwrap)),
        data_collator=default_data_collator,
    )

    checkpoint = None
    if os.path.isdir(training_args.output_dir):
        checkpoint = get_last_checkpoint(training_args.output_dir)
    result = trainer.train(resume_from_checkpoint=checkpoint)

    trainer.save_model()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()


if __name__ == "__main__":
    main()
