"""A ladder of model shapes by size, between and beyond those of Llama 3."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator

from orchestrator.config.schema import ModelConfig
from orchestrator.plan.perf.transformer import parameters
from orchestrator.text import figure

LLAMA_VOCAB, LLAMA_SEQ_LEN = 128256, 8192  # as conf/model/llama3_8b.yaml has them
HEAD_DIM, KV_HEADS = 128, 8
FFN_RATIO, FFN_MULTIPLE = 3.5, 256
# Llama 3 (arXiv 2407.21783, table 3) is 128, 102 and 130 times as wide as it has layers (8B, 70B, 405B).
NARROWEST, USUAL, WIDEST = 95.0, 115.0, 135.0
LAYER_MULTIPLE = 4  # so that pipelines of two and four stages divide them
# Below it Llama 3.2 (1B and 3B) uses the embedding as its head.
TIED_BELOW = 4e9
SMALLEST, LARGEST, SIZES = 1e8, 1e12, 36


def ladder(vocab: int = LLAMA_VOCAB, seq_len: int = LLAMA_SEQ_LEN) -> tuple[ModelConfig, ...]:
    """Shapes from about 100M to 1T parameters, ascending, each about a third larger than the one before.

    For each size the closest of all widths and depths; a size that a neighbour has taken already is left out,
    as are those that a large `vocab` leaves no room for.
    """
    known = sorted(
        ((parameters(shape).total, shape) for shape in _shapes(vocab, seq_len)), key=lambda pair: pair[0]
    )
    sizes = [size for size, _ in known]
    chosen: dict[int, ModelConfig] = {}
    for rung in range(SIZES):
        target = SMALLEST * (LARGEST / SMALLEST) ** (rung / (SIZES - 1))
        above = bisect.bisect(sizes, target)
        near = known[max(0, above - 3) : above + 3]
        size, shape = min(near, key=lambda pair: _distance(pair[0], pair[1], target))
        chosen[size] = shape
    return tuple(chosen[size] for size in sorted(chosen))


def llama_shape(
    layers: int, hidden: int, vocab: int = LLAMA_VOCAB, seq_len: int = LLAMA_SEQ_LEN
) -> ModelConfig:
    """A Llama 3 of this depth and width: heads of 128, up to 8 of keys and values, SwiGLU of 3.5 times the
    width."""
    heads = hidden // HEAD_DIM
    shape = ModelConfig(
        name="",
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=math.gcd(heads, KV_HEADS),
        ffn=round(FFN_RATIO * hidden / FFN_MULTIPLE) * FFN_MULTIPLE,
        vocab=vocab,
        seq_len=seq_len,
        rope_theta=500000.0,
        tie_embeddings=True,
        source="a Llama 3 of another depth and width",
    )
    shape.tie_embeddings = parameters(shape).total < TIED_BELOW
    shape.name = f"llama_{_size(parameters(shape).total)}"
    return shape


def _shapes(vocab: int, seq_len: int) -> Iterator[ModelConfig]:
    """Widths in steps that keep the heads divisible, and the depths that go with them."""
    width = 4 * HEAD_DIM
    while width <= 32768:
        least, most = width / WIDEST, width / NARROWEST
        for layers in range(LAYER_MULTIPLE, math.floor(most) + 1, LAYER_MULTIPLE):
            if layers >= least:
                yield llama_shape(layers, width, vocab, seq_len)
        width += 2 * HEAD_DIM if width < 2048 else 4 * HEAD_DIM if width < 4096 else 8 * HEAD_DIM


def _distance(size: float, shape: ModelConfig, target: float) -> float:
    """From the wanted size, and a little from the usual proportions."""
    return abs(math.log(size / target)) + abs(math.log(shape.hidden / shape.layers / USUAL)) / 4


def _size(count: int) -> str:
    size = f"{figure(count / 1e9)}b" if count >= 1e9 else f"{figure(count / 1e6)}m"
    return size.replace(",", "")
