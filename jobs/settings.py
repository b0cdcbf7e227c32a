"""Flags of pretrain.py, and the error for settings that cannot work."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from intervals import Every, parse_every


class SettingsError(Exception):
    """The settings cannot work; the message is one line that says what to change."""


def parse_arguments(description: str | None, argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    flag: Callable[..., Any] = parser.add_argument
    flag("--deepspeed_config", type=Path, required=True, help="DeepSpeed JSON")
    flag("--deepspeed", nargs="?", const=True, type=_boolean, help="accepted and ignored")
    flag("--local_rank", type=int, help="accepted and ignored: LOCAL_RANK counts")
    _data_flags(flag)
    _model_flags(flag)
    flag("--steps", type=int, default=150, help="optimizer steps of the whole run, resumed or not")
    flag("--warmup_steps", type=int, default=10)
    flag("--lr", type=float, default=1.5e-3)
    flag("--min_lr_ratio", type=float, default=0.1, help="last learning rate as a part of --lr")
    flag("--weight_decay", type=float, default=0.1)
    flag("--beta1", type=float, default=0.9)
    flag("--beta2", type=float, default=0.95)
    flag("--seed", type=int, default=1234)
    flag("--checkpoint_dir", type=Path, help="shared by all nodes; without it nothing is saved")
    every = "steps (50), time (90s, 10min, 2h) or auto; 0 saves at the end and on SIGTERM only"
    flag("--checkpoint_every", type=_every, default="0", help=every)
    flag(
        "--mtbf_s",
        type=_duration,
        default=0.0,
        help="between failures of any rank, for auto; 0 is a usual one",
    )
    keep = "complete checkpoints to keep, 0 all; an engine that commits by itself has its own say"
    flag("--checkpoint_keep", type=int, default=2, help=keep)
    flag("--log_every", type=int, default=10, help="steps; 0 is never")
    flag("--sample_tokens", type=int, default=200, help="length of the text written at the end; 0 is none")
    flag("--sample_prompt", default="def ")
    flag("--sample_temperature", type=float, default=0.8, help="0 is greedy")
    args = parser.parse_args(argv)
    args.data = [source for item in args.data for source in item.split(",") if source]
    return args


def _data_flags(flag: Callable[..., Any]) -> None:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pretrain-tokens"
    flag(
        "--data", nargs="+", default=["stdlib"], help="files, directories, globs, or stdlib; commas work too"
    )
    flag("--data_cache", type=Path, default=cache, help="where token files are kept")
    flag("--tokenizer", default="bytes", help="bytes, a tokenizer.json, or a Hugging Face name")
    flag("--skip_batches", type=_numbers, default="", help="global batches, from 0, not to train on: 3,17")
    flag("--val_fraction", type=float, default=0.005, help="tail of the tokens that is never trained on")
    flag("--val_every", type=int, default=50, help="steps; 0 is never")
    flag("--val_batches", type=int, default=4, help="global batches per validation")


def _model_flags(flag: Callable[..., Any]) -> None:
    flag("--layers", type=int, default=4)
    flag("--hidden", type=int, default=192)
    flag("--heads", type=int, default=6)
    flag("--kv_heads", type=int, default=2)
    flag("--ffn", type=int, default=512)
    flag("--vocab", type=int, default=320, help="rows of the embedding, at least the tokenizer's vocabulary")
    flag("--seq_len", type=int, default=256)
    flag("--rope_theta", type=float, default=10_000.0)
    flag("--norm_eps", type=float, default=1e-5)
    flag("--tie_embeddings", type=_boolean, nargs="?", const=True, default=True)
    flag("--activation_checkpointing", type=_boolean, nargs="?", const=True, default=False)


def _boolean(value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{value!r} is neither true nor false")
    return value.lower() == "true"


def _every(value: str) -> Every:
    try:
        return parse_every(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _duration(value: str) -> float:
    seconds = float(value)
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"{value} must be 0 or more seconds")
    return seconds


def _numbers(value: str) -> frozenset[int]:
    numbers = [item.strip() for item in value.split(",") if item.strip()]
    if not all(item.isascii() and item.isdigit() for item in numbers):
        raise argparse.ArgumentTypeError(
            f"{value!r} must be numbers of batches with commas between them, or empty"
        )
    return frozenset(map(int, numbers))


def read_deepspeed_config(path: Path) -> dict[str, Any]:
    """The DeepSpeed JSON as a dict.

    Raises:
        SettingsError: no such file, or no JSON object in it.
    """
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise SettingsError(
            f"--deepspeed_config={path}: {error.strerror}; give the path of a DeepSpeed JSON"
        ) from None
    except ValueError as error:
        raise SettingsError(f"--deepspeed_config={path} is not JSON ({error}): correct it") from None
    if not isinstance(config, dict):
        raise SettingsError(
            f"--deepspeed_config={path} holds a {type(config).__name__}: it must be a JSON object"
        )
    return config
