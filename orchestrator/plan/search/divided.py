"""What tensor and pipeline parallelism would bring a job whose script has neither."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from orchestrator.config.schema import ModelConfig
from orchestrator.errors import ConfigError
from orchestrator.plan.layout.deepspeed_rules import divisors
from orchestrator.plan.search.runners_up import in_words
from orchestrator.plan.search.search import Search, explore, search
from orchestrator.plan.search.space import Candidate, Space, Subject, best_of

# Parts of a pipeline's stage that are worth a look.
INTERLEAVED = (1, 2, 3, 4, 5, 6, 8, 10, 12)
# A ring of more ranks is for sequences of millions of tokens.
MOST_CONTEXT_RANKS = 64
# What is less is not worth another script.
LEAST_GAIN = 0.1


@dataclass(frozen=True)
class OtherScript:
    """A script that divides tensors and layers: the ``overrides`` that name it, and what a search with them
    looks through."""

    overrides: tuple[str, ...]
    space: Space
    subject: Subject


def context_degrees(model: ModelConfig) -> list[int]:
    """A ring passes keys and values on, of equally many positions each: twice as many parts as ranks, so that
    each has an early and a late one, which the causal mask leaves as much of (Brandon et al. 2023)."""
    return [
        degree for degree in divisors(MOST_CONTEXT_RANKS) if degree == 1 or model.seq_len % (2 * degree) == 0
    ]


def search_with_hint(space: Space, subject: Subject, other: OtherScript | None = None) -> Search:
    """The search, with what it would choose for another script that divides the model, where that would be
    faster by ``LEAST_GAIN``. The other one's overrides find the very same, as it is the same search.

    Raises :class:`ConfigError` as the search does; where nothing fits, with what would.
    """
    try:
        found = search(space, subject)
    except ConfigError as error:
        better = None if other is None else best_divided(other)
        if other is None or better is None:
            raise
        raise ConfigError(
            f"{error}; a script of tensor and pipeline parallelism would fit with {in_words(better)}"
            f" ({' '.join(other.overrides)})"
        ) from None
    better = None if other is None else best_divided(other)
    if other is None or better is None or better.step_time_s > (1 - LEAST_GAIN) * found.best.step_time_s:
        return found
    return dataclasses.replace(found, divided=better, divided_by=other.overrides)


def best_divided(other: OtherScript) -> Candidate | None:
    """What the search for the other script chooses, if that divides the model; None where nothing fits, or a
    layout that does not divide it would be nearly as fast, so that its kernels and not its layout gain."""
    if other.space.ranks < 2:
        return None
    fitting = explore(other.space, other.subject).fitting
    if not fitting:
        return None
    best = best_of(fitting)
    whole = [one for one in fitting if one.layout.tp * one.layout.pp == 1]
    if best.layout.tp * best.layout.pp == 1:
        return None
    if whole and best.step_time_s > (1 - LEAST_GAIN) * best_of(whole).step_time_s:
        return None
    return best
