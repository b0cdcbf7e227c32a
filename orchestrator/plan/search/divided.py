"""What tensor and pipeline parallelism would bring a job whose script has neither."""

from __future__ import annotations

import dataclasses

from orchestrator.config.choices import Framework
from orchestrator.config.schema import ModelConfig
from orchestrator.errors import ConfigError
from orchestrator.plan.layout.deepspeed_rules import divisors, pipeline_degrees, tensor_degrees
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.search.search import Search, explore, search
from orchestrator.plan.search.space import Candidate, Sharding, Space, Subject, best_of

# Parts of a pipeline's stage that are worth a look.
INTERLEAVED = (1, 2, 3, 4, 5, 6, 8, 10, 12)
# A ring of more ranks is for sequences of millions of tokens.
MOST_CONTEXT_RANKS = 64
# What is less is not worth another script.
LEAST_GAIN = 0.1


def context_degrees(model: ModelConfig) -> list[int]:
    """A ring passes keys and values on, of equally many positions each: twice as many parts as ranks, so that
    each has an early and a late one, which the causal mask leaves as much of (Brandon et al. 2023)."""
    return [
        degree for degree in divisors(MOST_CONTEXT_RANKS) if degree == 1 or model.seq_len % (2 * degree) == 0
    ]


def search_with_hint(space: Space, subject: Subject) -> Search:
    """The search, with the best layout that Megatron would have where the job's script divides neither
    tensors nor layers and that would be faster by ``LEAST_GAIN``.

    Raises :class:`ConfigError` as the search does; where nothing fits, with what would.
    """
    alone = space.framework is Framework.deepspeed and space.tp == space.pp == (1,)
    try:
        found = search(space, subject)
    except ConfigError as error:
        better = best_divided(space, subject) if alone else None
        if better is None:
            raise
        raise ConfigError(
            f"{error}; a script of tensor and pipeline parallelism would fit with {better.layout.degrees}"
            f" (job.framework=megatron job.supports=[tp,pp,vp])"
        ) from None
    better = best_divided(space, subject) if alone else None
    if better is None or better.step_time_s > (1 - LEAST_GAIN) * found.best.step_time_s:
        return found
    return dataclasses.replace(found, divided=better)


def best_divided(space: Space, subject: Subject) -> Candidate | None:
    """The best of Megatron's layouts that divide the model, on the same machines; None where none fits, or
    one that does not divide it would be nearly as fast, so that its kernels and not its layout gain."""
    if space.ranks_per_node < 2 and space.nodes < 2:
        return None
    model = subject.model
    wider = dataclasses.replace(
        space,
        tp=tuple(tensor_degrees(model, space.ranks_per_node)),
        pp=tuple(pipeline_degrees(model)),
        sp=(1,),
        ep=(1,) if model.experts == 1 else tuple(divisors(model.experts)),
        vp=INTERLEAVED,
        recompute=(False, True),
        selective=(False, True),
        shardings=(Sharding(Zero(stage=1, overlap_comm=True)),),
        micro_batch=None,
        accumulation=None,
        framework=Framework.megatron,
    )
    uncalibrated = dataclasses.replace(subject, calibration=None)
    fitting = explore(wider, uncalibrated).fitting
    divided = [one for one in fitting if one.layout.tp * one.layout.pp > 1]
    whole = [one for one in fitting if one.layout.tp * one.layout.pp == 1]
    if not divided:
        return None
    best = best_of(divided)
    if whole and best.step_time_s > (1 - LEAST_GAIN) * best_of(whole).step_time_s:
        return None
    return best
