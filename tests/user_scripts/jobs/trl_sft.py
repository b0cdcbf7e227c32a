"""Fine-tune a small Llama on instructions with TRL's SFTTrainer and DeepSpeed.

torchrun --nproc_per_node=2 trl_sft.py --output_dir=out --deepspeed=zero3.json --max_steps=20
"""

from __future__ import annotations

import builtins
import inspect
import os
import sys

import torch
from accelerate import PartialState
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer, TrlParser


def make_dataset() -> Dataset:
    """What each of Python's built-in functions and exceptions does, as questions and answers."""
    documented = {name: inspect.getdoc(value) for name, value in vars(builtins).items() if name[0] != "_"}
    rows = [
        {"prompt": f"What is {name} in Python?", "completion": " " + answer[:200]}
        for name, answer in sorted(documented.items())
        if answer
    ]
    return Dataset.from_list(rows)


def make_tokenizer(dataset: Dataset) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((row["prompt"] + row["completion"] for row in dataset), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def join_without_a_gpu() -> list[str]:
    """The Trainer names no backend to DeepSpeed where there is no GPU, and takes every rank for the only
    one."""
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"  # as `accelerate launch --use_deepspeed` sets it
    PartialState(backend="gloo")
    return ["--accelerator_config", '{"use_configured_state": true}']


def main() -> None:
    arguments = sys.argv[1:] if torch.cuda.is_available() else [*sys.argv[1:], *join_without_a_gpu()]
    (training_args,) = TrlParser(SFTConfig).parse_args_and_config(arguments)
    set_seed(training_args.seed)
    dataset = make_dataset()
    tokenizer = make_tokenizer(dataset)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    trainer = SFTTrainer(
        model=LlamaForCausalLM(config),
        args=training_args,
        train_dataset=dataset,
        processing_class=tokenizer,
    )

    checkpoint = (
        get_last_checkpoint(training_args.output_dir) if os.path.isdir(training_args.output_dir) else None
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(training_args.output_dir)
    trainer.save_state()


if __name__ == "__main__":
    main()
