"""transformers' Trainer with DeepSpeed and "auto" in its file. It goes on where --resume_from_checkpoint says.

torchrun --nproc_per_node=8 trainer_deepspeed.py --deepspeed=zero2_auto.json --output_dir=out --max_steps=20
"""

import json
import os
import sys
from dataclasses import dataclass

import torch
from accelerate import PartialState
from torch.utils.data import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    HfArgumentParser,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

BLOCK = 16


@dataclass
class ModelArguments:
    width: int = 32
    layers: int = 2


class Numbers(Dataset):
    """Sequences that count up, each from where its number says."""

    def __len__(self) -> int:
        return 512

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = (torch.arange(BLOCK) * (1 + index % 3) + index) % 64
        return {"input_ids": tokens, "labels": tokens}


class WriteLosses(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and "loss" in logs:
            with open(os.path.join(args.output_dir, "losses.jsonl"), "a") as log:
                log.write(json.dumps({"step": state.global_step, "loss": logs["loss"]}) + "\n")


def without_a_gpu() -> list[str]:
    """The Trainer names no backend to DeepSpeed there, and would take every rank for the only one."""
    if torch.cuda.is_available():
        return []
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    PartialState(backend="gloo")
    return ["--accelerator_config", '{"use_configured_state": true}']


def main() -> None:
    parser = HfArgumentParser((ModelArguments, TrainingArguments))
    model_args, args = parser.parse_args_into_dataclasses([*sys.argv[1:], *without_a_gpu()])
    set_seed(args.seed)
    config = GPT2Config(
        vocab_size=64,
        n_positions=BLOCK,
        n_embd=model_args.width,
        n_layer=model_args.layers,
        n_head=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    trainer = Trainer(
        model=GPT2LMHeadModel(config), args=args, train_dataset=Numbers(), callbacks=[WriteLosses()]
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_state()


if __name__ == "__main__":
    main()
