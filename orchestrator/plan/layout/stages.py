"""How a pipeline's layers are cut into stages, and how many micro-batches each stage holds at once."""

from __future__ import annotations

from enum import Enum


class Schedule(Enum):
    """In which order a stage runs forward and backward passes."""

    one_forward_one_backward = "1F1B"  # interleaved where stages have several parts
    gpipe = "GPipe"  # all forward passes first (Huang et al. 2019)
    zero_bubble = "ZB-2p"  # weights' gradients fill the bubble, for twice the memory (Qi et al. 2023)


def stage_layers(layers: int, pp: int, balanced_ends: bool = False, vp: int = 1) -> tuple[int, ...]:
    """Layers of each stage.

    Equally many where that comes out even. With ``balanced_ends`` embedding and head may count as a layer
    each, so that the first and the last stage, or the last alone, have one less: 126 layers in 16 stages are
    7, 14 times 8, and 7 (Llama 3, arXiv 2407.21783, section 3.3.2; Megatron-Core's
    account_for_embedding_in_pipeline_split). Otherwise the first stages have one more, as DeepSpeed's
    ``runtime/utils.py``, partition_uniform cuts them.
    """
    each, over = divmod(layers, pp)
    if over and balanced_ends:
        for first, last in ((1, 1), (0, 1)):
            if pp > 1 + first and (layers + first + last) % (pp * vp) == 0:
                whole = (layers + first + last) // pp
                return (whole - first, *[whole] * (pp - 2), whole - last)
    return tuple(each + (stage < over) for stage in range(pp))


def cuts(layers: int, pp: int, vp: int, balanced_ends: bool) -> bool:
    """Whether so many layers can be cut into stages of which each has ``vp`` parts."""
    if vp == 1:
        return layers >= pp
    if layers % (pp * vp) == 0:
        return True
    return balanced_ends and (
        (pp > 2 and (layers + 2) % (pp * vp) == 0) or (pp > 1 and (layers + 1) % (pp * vp) == 0)
    )


def in_flight(
    stage: int,
    pp: int,
    vp: int,
    accumulation: int,
    schedule: Schedule = Schedule.one_forward_one_backward,
) -> float:
    """Micro-batches, as whole stages' worth of activations, that a stage holds at most.

    Under GPipe all of a step, under ZB-2p twice as many as there are stages, less one. Under 1F1B as many as
    there are stages from here to the end (Narayanan et al. 2019, PipeDream-Flush).
    Interleaved, twice the stages after this one and all parts but one of a round of micro-batches come before
    the first backward pass (Narayanan et al. 2021, section 2.2): the first stage holds 1 + (p - 1) / (p v)
    times as many as without (Korthikanti et al. 2022).
    """
    if schedule is Schedule.gpipe:
        return float(accumulation)
    if schedule is Schedule.zero_bubble:
        return float(min(2 * pp - 1, accumulation))
    if vp == 1:
        return float(min(pp - stage, accumulation))
    parts = 2 * (pp - stage - 1) + (vp - 1) * pp + 1
    return min(parts / vp, float(accumulation))
