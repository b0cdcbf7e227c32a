"""Supervised fine-tuning with TRL, by DDP alone. It looks for its newest checkpoint by itself.

torchrun --nproc_per_node=8 sft.py --output_dir=out --max_steps=20 --save_steps=5 --logging_steps=1
"""

import json
import os

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer, TrlParser

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
WORDS = [*NUMBERS, "plus", "is", "what"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def make_dataset() -> Dataset:
    rows = [
        {"prompt": f"what is {NUMBERS[a]} plus {NUMBERS[b]}", "completion": f" {NUMBERS[(a + b) % 11]}"}
        for a in range(11)
        for b in range(11)
    ]
    return Dataset.from_list(rows * 3)


class WriteLosses(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and "loss" in logs:
            with open(os.path.join(args.output_dir, "losses.jsonl"), "a") as log:
                log.write(json.dumps({"step": state.global_step, "loss": logs["loss"]}) + "\n")


def main() -> None:
    (args,) = TrlParser(SFTConfig).parse_args_and_config()
    set_seed(args.seed)
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    trainer = SFTTrainer(
        model=LlamaForCausalLM(config),
        args=args,
        train_dataset=make_dataset(),
        processing_class=tokenizer,
        callbacks=[WriteLosses()],
    )
    newest = get_last_checkpoint(args.output_dir) if os.path.isdir(args.output_dir) else None
    trainer.train(resume_from_checkpoint=newest)
    trainer.save_model()


if __name__ == "__main__":
    main()
