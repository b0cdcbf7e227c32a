"""The Trainer of transformers_trainer.py, which goes on only when --resume_from_checkpoint tells it to, as most
public scripts do. Rank 0 dies once within a save: DeepSpeed has written its part, and the Trainer not its
own."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import textwrap

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers_trainer import BLOCK, Blocks, join_without_a_gpu

DIES_AT = 15


class Dying(Trainer):
    """Random states are what it writes after DeepSpeed's part."""

    def _save_rng_state(self, output_dir: str) -> None:
        died = os.path.join(self.args.output_dir, "died")
        if self.state.global_step == DIES_AT and self.args.process_index == 0 and not os.path.exists(died):
            open(died, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        super()._save_rng_state(output_dir)


def main() -> None:
    arguments = sys.argv[1:] if torch.cuda.is_available() else [*sys.argv[1:], *join_without_a_gpu()]
    (training_args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(arguments)
    set_seed(training_args.seed)
    shape = {"vocab_size": 256, "n_positions": BLOCK, "n_embd": 64, "n_layer": 2, "n_head": 2}
    trainer = Dying(
        model=GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=None, eos_token_id=None)),
        args=training_args,
        train_dataset=Blocks(inspect.getsource(textwrap)),
        data_collator=default_data_collator,
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_state()


if __name__ == "__main__":
    main()
