"""The scaling law, the batch rule and the ladder of shapes."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan.layout.deepspeed_rules import tensor_degrees
from orchestrator.plan.perf.transformer import parameters
from orchestrator.plan.sizing.model_ladder import ladder, llama_shape
from orchestrator.plan.sizing.scaling_law import CHINCHILLA, MOST_BATCH_TOKENS, batch_sequences, batch_tokens

SIZES = st.floats(1e7, 1e13)
FLOPS = st.floats(1e19, 1e27)


@given(SIZES, SIZES, st.floats(1.01, 100))
def test_more_of_either_lowers_the_loss_and_nothing_gets_below_the_irreducible_one(
    size: float, tokens: float, more: float
) -> None:
    loss = CHINCHILLA.loss(size, tokens)
    assert CHINCHILLA.irreducible < CHINCHILLA.loss(size * more, tokens) < loss
    assert CHINCHILLA.irreducible < CHINCHILLA.loss(size, tokens * more) < loss


@given(FLOPS, st.floats(0.05, 20))
def test_no_other_size_is_better_for_the_same_flops(flops: float, factor: float) -> None:
    best = CHINCHILLA.optimal_parameters(flops)
    assert (
        CHINCHILLA.loss(best, flops / 6 / best)
        <= CHINCHILLA.loss(best * factor, flops / 6 / (best * factor)) + 1e-12
    )


@given(FLOPS)
def test_the_optimum_by_size_and_by_flops_is_the_same(flops: float) -> None:
    best = CHINCHILLA.optimal_parameters(flops)
    assert CHINCHILLA.optimal_tokens(best) == pytest.approx(flops / 6 / best)


@given(st.floats(1e22, 1e26))
def test_about_twenty_tokens_per_parameter_are_optimal(flops: float) -> None:
    best = CHINCHILLA.optimal_parameters(flops)
    assert 16 < flops / 6 / best / best < 22


def test_chinchilla_itself_was_compute_optimal() -> None:
    """70B parameters on 1.4T tokens, and Gopher with 280B on 300B, of as much compute, was not."""
    assert CHINCHILLA.optimal_tokens(70e9) == pytest.approx(1.4e12, rel=0.1)
    assert CHINCHILLA.loss(70e9, 1.4e12) < CHINCHILLA.loss(280e9, 300e9) - 0.02


@given(SIZES, st.floats(1, 10))
def test_larger_models_have_no_smaller_batches(size: float, more: float) -> None:
    assert batch_tokens(size) <= batch_tokens(size * more) <= MOST_BATCH_TOKENS


def test_batches_are_those_of_llama_3() -> None:
    assert batch_tokens(8.03e9) == 2**22
    assert batch_tokens(405e9) == 2**24


@given(st.sampled_from(ladder()), st.integers(1, 4096))
def test_a_batch_is_divided_by_the_ranks_or_divides_them(model: object, ranks: int) -> None:
    sequences = batch_sequences(model, ranks)  # type: ignore[arg-type]
    if sequences is not None:
        assert sequences % ranks == 0 or ranks % sequences == 0
        assert sequences * 8192 <= batch_tokens(parameters(model).active_with_embedding)  # type: ignore[arg-type]


@pytest.mark.parametrize("vocab", [32000, 128256])
def test_the_ladder_climbs_evenly_from_a_hundred_million_to_a_trillion(vocab: int) -> None:
    sizes = [parameters(shape).total for shape in ladder(vocab)]
    assert 24 <= len(sizes) <= 40
    assert sizes[0] < 2e8
    assert sizes[-1] == pytest.approx(1e12, rel=0.05)
    assert all(1.05 < larger / smaller < 2 for smaller, larger in itertools.pairwise(sizes))
    assert all(larger / smaller < 1.6 for smaller, larger in itertools.pairwise(sizes) if smaller > 1e9)


def test_shapes_are_like_llama_and_can_be_divided() -> None:
    for shape in ladder():
        assert 90 <= shape.hidden / shape.layers <= 140
        assert (shape.hidden // shape.heads, shape.layers % 4, shape.ffn % 256) == (128, 0, 0)
        assert math.isclose(shape.ffn / shape.hidden, 3.5, rel_tol=0.05)
        if parameters(shape).total > 8e9:
            assert tensor_degrees(shape, 8) == [1, 2, 4, 8]
    assert len({shape.name for shape in ladder()}) == len(ladder())


@pytest.mark.parametrize(
    ("layers", "hidden", "count"), [(32, 4096, 8_030_261_248), (80, 8192, 70_553_706_496)]
)
def test_a_shape_of_llamas_depth_and_width_is_llama(layers: int, hidden: int, count: int) -> None:
    shape = llama_shape(layers, hidden)
    assert parameters(shape).total == count
    assert parameters(replace(shape, tie_embeddings=True)).total == count - 128256 * hidden
