"""A small GPT-2 trained by transformers' Trainer with DeepSpeed, which resumes by itself, and notes how far
it has come in the form of trains_on.py's notes.

It knows nothing of who started it.
"""

import time

BEGAN_UNIX_S = time.time()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402

import deepspeed  # noqa: E402
import torch  # noqa: E402
from accelerate import PartialState  # noqa: E402
from transformers import (  # noqa: E402
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)
from transformers.trainer_utils import get_last_checkpoint  # noqa: E402

IMPORTED_UNIX_S = time.time()
TOKENS, VOCABULARY, MICRO_BATCH = 64, 256, 4
DEEPSPEED = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "zero_optimization": {"stage": 1},
}


class Notes(TrainerCallback):
    """What this rank has done. A line is in the file when `add` returns, so that a killed rank's notes
    stay."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"rank-{os.environ['RANK']}.{os.getpid()}.jsonl"

    def add(self, what: str, at: float | None = None, **more: float) -> None:
        line = json.dumps({"what": what, "at": time.time() if at is None else at, **more})
        with self.path.open("a") as file:
            file.write(line + "\n")

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step:
            self.add("loaded", step=state.global_step)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.add("step", step=state.global_step)


class Tokens(torch.utils.data.Dataset):
    """The same made-up text for everybody."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = (torch.arange(TOKENS) * 7 + index) % VOCABULARY
        return {"input_ids": tokens, "labels": tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stamps", type=Path, required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--every", type=int, required=True, help="steps from one checkpoint to the next")
    args = parser.parse_args()
    notes = Notes(args.stamps)
    notes.add("script", BEGAN_UNIX_S)
    notes.add("imported", IMPORTED_UNIX_S)
    more = {}
    if not torch.cuda.is_available():
        # Built on first use, for a minute and more; off for all who run this script.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        # The Trainer names no backend to DeepSpeed where there is no GPU.
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        PartialState(backend="gloo")
        more = {"accelerator_config": {"use_configured_state": True}}
    training = TrainingArguments(
        output_dir=args.output_dir,
        max_steps=args.steps,
        save_steps=args.every,
        save_total_limit=2,
        per_device_train_batch_size=MICRO_BATCH,
        deepspeed=DEEPSPEED,
        disable_tqdm=True,
        logging_strategy="no",
        report_to="none",
        dataloader_pin_memory=False,
        **more,
    )
    shape = {"n_positions": TOKENS, "n_embd": 128, "n_layer": 2, "n_head": 4}
    config = GPT2Config(vocab_size=VOCABULARY, bos_token_id=None, eos_token_id=None, **shape)
    trainer = Trainer(
        model=GPT2LMHeadModel(config),
        args=training,
        train_dataset=Tokens(1 << 20),
        data_collator=default_data_collator,
        callbacks=[notes],
    )
    notes.add("initialized")
    there = os.path.isdir(args.output_dir)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(args.output_dir) if there else None)


if __name__ == "__main__":
    main()
