"""What DeepSpeed 0.19 runs together, and what it does not.

Each rule of :func:`refusal` names where DeepSpeed's source says so. What it neither refuses nor anywhere
provides for, pipelines with offload for instance, counts as refused: a search may only propose what is known
to run.
"""

from __future__ import annotations

from orchestrator.config.schema import ModelConfig
from orchestrator.plan.layout.zero import Zero


def refusal(tp: int, pp: int, sp: int, ep: int, zero: Zero) -> str | None:
    """Why DeepSpeed does not run these degrees with this ZeRO configuration; None where it does.

    - Pipelines: ``runtime/pipe/engine.py``, PipelineEngine.__init__ asserts a ZeRO stage below 2. Nothing in
      ``runtime/pipe`` provides for offload. Its grid (``runtime/pipe/topology.py``) has axes for stages, data
      and tensors only: ``utils/groups.py``, _get_sequence_parallel_world_size then answers 1, and expert
      groups within a stage are refused with tensor parallelism (``module_inject/auto_ep_folding.py``,
      validate_folding_global).
    - Sequence parallelism: AutoTP makes ``utils/groups.py`` its mpu (``runtime/engine.py``,
      _configure_tensor_parallel_states), which answers 1 as above; folding calls the two mutually exclusive.
      AutoEP with ZeRO-3 refuses it (``runtime/engine.py``, _validate_zero3_moe_compatibility).
    - Experts: the same function refuses DeepSpeed's own MoE with ZeRO-3; AutoEP's is for listed models only.
      validate_folding_global refuses tensor parallelism with offload.
    - hpZ: ``utils/groups.py``, _create_zero_param_parallel_group puts neighbouring ranks together, and with
      tensor parallelism neighbours hold different weights. Only ``runtime/zero/stage3.py`` reads it.
    - Offload: stage 0 has no ZeRO optimizer (``runtime/engine.py``, _do_optimizer_sanity_check), and
      ``runtime/zero/stage_1_and_2.py`` takes no offload_param.

    Tensor parallelism goes with every stage (``runtime/engine.py``, _configure_tensor_parallel_states).
    """
    offload = zero.offload_optimizer or zero.offload_parameters
    rules = (
        (
            pp > 1 and zero.stage >= 2,
            f"DeepSpeed's pipelines (layout.pp={pp}) work with ZeRO-0 and ZeRO-1 only",
        ),
        (pp > 1 and offload, f"DeepSpeed's pipelines (layout.pp={pp}) work without offload only"),
        (
            pp > 1 and sp > 1,
            f"DeepSpeed's pipelines (layout.pp={pp}) have no sequence parallel ranks (layout.sp={sp})",
        ),
        (
            pp > 1 and ep > 1,
            f"DeepSpeed's pipelines (layout.pp={pp}) have no expert parallel ranks (layout.ep={ep})",
        ),
        (
            sp > 1 and tp > 1,
            f"DeepSpeed has sequence (layout.sp={sp}) or tensor parallel ranks (layout.tp={tp})",
        ),
        (
            sp > 1 and ep > 1,
            f"DeepSpeed has sequence (layout.sp={sp}) or expert parallel ranks (layout.ep={ep})",
        ),
        (ep > 1 and zero.stage == 3, f"DeepSpeed's experts (layout.ep={ep}) work with ZeRO-0 to ZeRO-2 only"),
        (
            ep > 1 and tp > 1 and offload,
            "DeepSpeed's expert and tensor parallel ranks work without offload only",
        ),
        (offload and zero.stage == 0, "ZeRO-0 has nothing that can be offloaded"),
        (
            zero.offload_parameters and zero.stage < 3,
            f"offload_param needs ZeRO-3, this is ZeRO-{zero.stage}",
        ),
        (zero.hpz > 1 and zero.stage < 3, f"zero_hpz_partition_size needs ZeRO-3, this is ZeRO-{zero.stage}"),
        (
            zero.hpz > 1 and tp > 1,
            f"zero_hpz_partition_size puts tensor parallel ranks (layout.tp={tp}) together",
        ),
    )
    return next((reason for holds, reason in rules if holds), None)


def tensor_degrees(model: ModelConfig, ranks_per_node: int) -> list[int]:
    """Heads are divided, those of keys and values too. Within a node: two all-reduces in every layer and pass
    need its links."""
    return [d for d in divisors(model.kv_heads) if model.heads % d == 0 and ranks_per_node % d == 0]


def pipeline_degrees(model: ModelConfig) -> list[int]:
    """A layer in each stage at least; ``runtime/utils.py``, partition_uniform gives some one more than
    others."""
    return list(range(1, model.layers + 1))


def sequence_degrees(model: ModelConfig) -> list[int]:
    """Each rank has whole heads during attention; ``sequence/layer.py``, _resolve_kv_heads asserts at least
    one of keys and values."""
    return [d for d in divisors(model.kv_heads) if model.heads % d == 0 and model.seq_len % d == 0]


def expert_degrees(model: ModelConfig) -> list[int]:
    """``moe/layer.py``, MoE.__init__ asserts equally many experts on each rank."""
    return divisors(model.experts)


def divisors(amount: int) -> list[int]:
    """All of them, ascending."""
    return [d for d in range(1, amount + 1) if amount % d == 0]
