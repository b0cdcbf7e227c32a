"""The model: causal, grouped attention equal to the full one, and as many parameters as the formula says."""

from __future__ import annotations

import dataclasses
import importlib
import math
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.folders import JOBS

sys.path.insert(0, str(JOBS))
gpt = importlib.import_module("gpt")

SMALL = gpt.Shape(layers=2, hidden=32, heads=4, kv_heads=2, ffn=48, vocab=50, seq_len=16)


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def build(shape: Any = SMALL, **options: bool) -> Any:
    """A model whose weights are larger than at the start of training, so that small errors would show."""
    model = gpt.GPT(shape, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5) if parameter.dim() > 1 else parameter.add_(torch.randn_like(parameter) / 5)
    return model


def tokens(batch: int, length: int, vocab: int = SMALL.vocab) -> torch.Tensor:
    return torch.randint(vocab, (batch, length))


@settings(max_examples=25, deadline=None)
@given(
    layers=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    head_dim=st.integers(1, 4).map(lambda half: 2 * half),
    ffn=st.integers(1, 40),
    vocab=st.integers(1, 60),
    tie=st.booleans(),
)
def test_parameters_are_what_the_formula_says(
    layers: int, kv_heads: int, group: int, head_dim: int, ffn: int, vocab: int, tie: bool
) -> None:
    heads = kv_heads * group
    hidden = heads * head_dim
    shape = gpt.Shape(layers, hidden, heads, kv_heads, ffn, vocab, 8, tie_embeddings=tie)
    embeddings = vocab * hidden * (1 if tie else 2)
    attention = hidden * hidden + 2 * hidden * hidden * kv_heads // heads + hidden * hidden
    expected = embeddings + layers * (attention + 3 * hidden * ffn + 2 * hidden) + hidden
    assert sum(parameter.numel() for parameter in gpt.GPT(shape).parameters()) == expected
    assert shape.parameters == expected


@pytest.mark.parametrize("position", [1, 7, 15])
def test_a_later_token_does_not_change_earlier_logits(position: int) -> None:
    model, before = build(), tokens(2, 16)
    after = before.clone()
    after[:, position] = (after[:, position] + 1) % SMALL.vocab
    changed = (model(before) - model(after)).abs().amax(dim=(0, 2))
    assert changed[:position].max() < 1e-5
    assert changed[position:].min() > 1e-4


def test_grouped_attention_is_full_attention_with_repeated_key_value_heads() -> None:
    grouped = build()
    full = gpt.GPT(dataclasses.replace(SMALL, kv_heads=SMALL.heads))
    weights = grouped.state_dict()
    for name, weight in weights.items():
        if "k_proj" in name or "v_proj" in name:
            by_head = weight.view(SMALL.kv_heads, SMALL.head_dim, SMALL.hidden)
            repeated = by_head.repeat_interleave(SMALL.heads // SMALL.kv_heads, dim=0)
            weights[name] = repeated.reshape(SMALL.hidden, SMALL.hidden)
    full.load_state_dict(weights)
    x = tokens(3, 16)
    torch.testing.assert_close(grouped(x), full(x))


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    table = gpt.rotary_table(32, 8, 10_000.0, torch.device("cpu"))
    q, k = (torch.randn(8).expand(1, 1, 32, 8) for _ in range(2))
    scores = (gpt.rotate(q, table) @ gpt.rotate(k, table).transpose(-1, -2))[0, 0]
    for distance in (0, 1, 5, 20):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scores[0, 0], scores[0, 5], atol=1e-3)


def test_positions_keep_float32_when_the_model_is_cast_to_bf16() -> None:
    model = build().bfloat16()
    assert not list(model.buffers())
    cos, _ = gpt.rotary_table(SMALL.seq_len, SMALL.head_dim, SMALL.rope_theta, torch.device("cpu"))
    assert cos.dtype == torch.float32
    assert model(tokens(1, 16)).dtype == torch.bfloat16


def test_the_loss_is_the_mean_cross_entropy_of_the_targets() -> None:
    model, x, y = build(), tokens(2, 16), tokens(2, 16)
    log_probabilities = model(x).log_softmax(-1)
    expected = -log_probabilities.gather(-1, y[..., None]).mean()
    torch.testing.assert_close(model(x, y), expected)


def test_an_untrained_model_is_no_better_than_chance() -> None:
    loss = gpt.GPT(SMALL)(tokens(8, 16), tokens(8, 16)).item()
    assert loss == pytest.approx(math.log(SMALL.vocab), abs=0.1)


@pytest.mark.parametrize("tie", [True, False])
def test_activation_checkpointing_gives_equal_gradients(tie: bool) -> None:
    shape = dataclasses.replace(SMALL, tie_embeddings=tie)
    plain, saving = build(shape), build(shape, activation_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    x, y = tokens(2, 16), tokens(2, 16)
    forwards = 0

    def count(*_: object) -> None:
        nonlocal forwards
        forwards += 1

    saving.blocks[0].register_forward_pre_hook(count)
    for model in (plain, saving):
        model(x, y).backward()
    assert forwards == 2, "the block was not run again in the backward pass"
    pairs = zip(plain.parameters(), saving.parameters(), strict=True)
    assert all(torch.equal(one.grad, other.grad) for one, other in pairs)


def test_residual_projections_start_smaller_with_depth() -> None:
    deep = gpt.GPT(dataclasses.replace(SMALL, layers=8, hidden=64))
    residual = torch.cat([block.attention.o_proj.weight.flatten() for block in deep.blocks]).std()
    inner = torch.cat([block.attention.q_proj.weight.flatten() for block in deep.blocks]).std()
    assert (residual / inner).item() == pytest.approx(1 / math.sqrt(16), rel=0.05)


def test_greedy_text_is_the_most_likely_and_stays_in_the_vocabulary() -> None:
    model, prompt = build(), tokens(1, 3, vocab=20)
    written = model.generate(prompt, 20, 0.0, vocab=20, generator=torch.Generator())
    assert written.shape == (1, 23)
    assert torch.equal(written[:, :3], prompt)
    assert written.max() < 20
    assert written[0, 3] == model(prompt)[0, -1, :20].argmax()
    last_window = written[:, -SMALL.seq_len - 1 : -1]
    assert written[0, -1] == model(last_window)[0, -1, :20].argmax()


def test_sampled_text_is_reproducible_and_follows_the_seed() -> None:
    model, prompt = gpt.GPT(SMALL), tokens(1, 3)

    def write(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return model.generate(prompt, 30, 1.0, SMALL.vocab, generator)[0].tolist()

    assert write(1) == write(1)
    assert write(1) != write(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, r"hidden=32 must be a multiple of 2 x heads=10"),
        ({"hidden": 36}, r"hidden=36 must be a multiple of 2 x heads=8"),
        ({"kv_heads": 3}, r"heads=4 must be a multiple of kv_heads=3"),
        ({"layers": 0}, r"every size must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_their_numbers(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)
