"""How the ranks share the work, and whether the numbers agree with each other.

Every refusal names the key, both values and the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.config import ranges
from orchestrator.config.choices import Framework
from orchestrator.config.deepspeed_values import AUTO
from orchestrator.config.notifying import check_notify
from orchestrator.config.schema import Config, Device, ModelConfig
from orchestrator.config.signals import stop_numbers
from orchestrator.errors import ConfigError, near_miss
from orchestrator.plan.layout.framework_rules import check_framework
from orchestrator.plan.layout.stages import cuts
from orchestrator.plan.sections import count_of, section_of

MOST_STAGE = 3  # of ZeRO
# No degree of parallelism is worth more divisions than that.
_MOST_DIVIDED = 1_000_000
LEAST_LOG_BYTES = 4 * 1024 * 1024
PRECISIONS = ("auto", "bf16", "fp16", "fp32", "fp8")


@dataclass(frozen=True)
class Layout:
    """dp x tp x pp x sp x ep over ``ranks``, and what each data-parallel rank does in one step."""

    nodes: int  # that are asked for
    ranks_per_node: int  # one for each GPU
    ranks: int  # of all nodes
    dp: int  # data parallel degree
    tp: int  # tensor parallel degree
    pp: int  # pipeline stages
    sp: int  # sequence parallel degree
    ep: int  # expert parallel degree
    zero_stage: int  # of ZeRO, 0 to 3
    offload: bool  # whether ZeRO keeps anything in the host's memory
    recompute: bool  # whether activations are computed again in the backward pass
    precision: str  # `bf16`, `fp16`, `fp32` or `fp8`
    micro_batch: int  # sequences of one data parallel rank at a time
    accumulation: int  # micro-batches of one step
    global_batch: int  # sequences of one step
    vp: int = 1  # virtual pipeline stages of each rank
    # whether attention alone is computed again, or what the framework's selective recomputation repeats
    selective: bool = False
    cp: int = 1  # context parallel ranks, which pass keys and values on in a ring
    framework: str = Framework.deepspeed.value  # `deepspeed`, `megatron` or `fsdp`
    # whether tensor parallel ranks divide norms and residuals too; null is as the framework does
    sequence_parallel: bool | None = None
    ep_overlap: bool = False  # whether experts' messages go beside the computing of another micro-batch

    @property
    def sequence_ranks(self) -> int:
        """Among which the positions of a sequence are divided, in whichever way."""
        return self.sp * self.cp

    @property
    def replicas(self) -> int:
        """Ranks that hold the same weights, but for experts."""
        return self.dp * self.sequence_ranks

    @property
    def degrees(self) -> str:
        """``dp 8 × tp 2``: the degrees of parallelism above 1, and data parallel in any case."""
        named = {"dp": self.dp, "tp": self.tp, "pp": self.pp, "sp": self.sp, "cp": self.cp, "ep": self.ep}
        named["vp"] = self.vp
        return " × ".join(f"{name} {degree}" for name, degree in named.items() if degree > 1 or name == "dp")


def derive_layout(config: Config) -> Layout:
    """The layout of a configuration. Raises :class:`ConfigError`."""
    check_values(config)
    nodes, ranks_per_node = _placement(config)
    ranks = nodes * ranks_per_node
    dp = _data_parallel(config, ranks)
    micro, accumulation, global_batch = _batch(config, dp)
    if config.model is not None:
        _check_model(config.model, config)
    zero = section_of(config.deepspeed, "zero_optimization")
    precision, stage, offloads = precision_of(config), _stage(zero), _offloads(zero)
    check_framework(config, stage, offloads, precision)
    return Layout(
        nodes=nodes,
        ranks_per_node=ranks_per_node,
        ranks=ranks,
        dp=dp,
        tp=config.layout.tp,
        pp=config.layout.pp,
        sp=config.layout.sp,
        ep=config.layout.ep,
        zero_stage=stage,
        offload=offloads,
        recompute=config.layout.recompute,
        precision=precision,
        micro_batch=micro,
        accumulation=accumulation,
        global_batch=global_batch,
        vp=config.layout.vp,
        selective=config.layout.selective,
        cp=config.layout.cp,
        framework=config.job.framework.value,
        sequence_parallel=config.layout.sequence_parallel,
        ep_overlap=config.layout.ep_overlap,
    )


def check_values(config: Config) -> None:
    """Single values that no type can rule out. Raises :class:`ConfigError`."""
    ranges.check(config)
    check_notify(config.notify)
    _check_log_bound(config.launch.log_max_bytes)
    stop_numbers(config.recovery.stop_signals)


def _check_log_bound(most_bytes: int | None) -> None:
    if most_bytes and most_bytes < LEAST_LOG_BYTES:
        raise ConfigError(
            f"launch.log_max_bytes={most_bytes}: less than the beginning and the end of a log need; "
            f"use launch.log_max_bytes={LEAST_LOG_BYTES} or more, or launch.log_max_bytes=null for no bound"
        )


def precision_of(config: Config) -> str:
    """``auto``: bf16 where the accelerator has a peak for it (or none is known), else fp32."""
    asked = config.job.precision
    if asked not in PRECISIONS:
        raise ConfigError(
            f"job.precision={asked}: not one of {', '.join(PRECISIONS)}{near_miss(asked, PRECISIONS)}"
        )
    said = {name: section_of(config.deepspeed, name).get("enabled") for name in ("bf16", "fp16")}
    switched_on = [name for name, enabled in said.items() if enabled and enabled != AUTO]
    if len(switched_on) > 1:
        raise ConfigError(
            "deepspeed.bf16.enabled=true: and deepspeed.fp16.enabled=true; DeepSpeed computes in one of them,"
            " so write deepspeed.fp16.enabled=false or deepspeed.bf16.enabled=false"
        )
    if asked != "auto" and switched_on not in ([], [asked]):
        raise ConfigError(
            f"job.precision={asked}: but deepspeed.{switched_on[0]}.enabled=true; write"
            f" job.precision={switched_on[0]}, or job.precision=auto to leave it to DeepSpeed's part"
        )
    if said.get(asked) is False:
        raise ConfigError(
            f"job.precision={asked}: but deepspeed.{asked}.enabled=false; write"
            f" deepspeed.{asked}.enabled=true, or job.precision=auto to leave it to DeepSpeed's part"
        )
    if switched_on:
        return switched_on[0]
    if asked != "auto":
        return asked
    if said["bf16"] is False:
        return "fp32"
    known = config.gpu.peak_flops
    return "bf16" if "bf16" in known or (not known and config.gpu.device is Device.cuda) else "fp32"


def _placement(config: Config) -> tuple[int, int]:
    per_node, nodes = config.cluster.gpus_per_node, config.cluster.nodes
    ranks = config.job.ranks
    if ranks is None:
        return nodes, per_node
    if ranks > nodes * per_node:
        raise ConfigError(
            f"job.ranks={ranks}: more than the cluster has (cluster.nodes={nodes} × "
            f"cluster.gpus_per_node={per_node} = {nodes * per_node}); lower job.ranks or raise cluster.nodes"
        )
    if ranks <= per_node:
        return 1, ranks
    if ranks % per_node:
        raise ConfigError(
            f"job.ranks={ranks}: not a multiple of cluster.gpus_per_node={per_node}; "
            f"use {ranks // per_node * per_node} or {(ranks // per_node + 1) * per_node}"
        )
    return ranks // per_node, per_node


def _data_parallel(config: Config, ranks: int) -> int:
    layout = config.layout
    degrees = {"tp": layout.tp, "pp": layout.pp, "sp": layout.sp, "cp": layout.cp}
    supported = config.job.supports
    for name, degree in {**degrees, "ep": layout.ep, "vp": layout.vp}.items():
        if degree > 1 and supported is not None and name not in supported:
            raise ConfigError(
                f"layout.{name}={degree}: job '{config.job.name}' cannot do it "
                f"(job.supports={supported}); set layout.{name}=1 or use a script that can"
            )
    product = layout.tp * layout.pp * layout.sp * layout.cp
    if ranks % product:
        ring = " × cp" if layout.cp > 1 else ""
        raise ConfigError(
            f"layout: tp × pp × sp{ring} = {product} does not divide the {ranks} ranks; "
            "change layout.tp, layout.pp, layout.sp or cluster.nodes"
        )
    dp = ranks // product
    if dp * layout.cp % layout.ep:
        raise ConfigError(f"layout.ep={layout.ep}: does not divide the {dp * layout.cp} data-parallel ranks")
    return dp


def _batch(config: Config, dp: int) -> tuple[int, int, int]:
    """Micro-batch, accumulation and global batch; DeepSpeed's own keys win over the job's."""
    micro = count_of(config.deepspeed, "train_micro_batch_size_per_gpu") or config.job.micro_batch
    accumulation = (
        count_of(config.deepspeed, "gradient_accumulation_steps") or config.job.gradient_accumulation
    )
    total = count_of(config.deepspeed, "train_batch_size") or config.job.global_batch
    whole = _batch_key(config, "global_batch", "train_batch_size")
    part = _batch_key(config, "micro_batch", "train_micro_batch_size_per_gpu")
    turns = _batch_key(config, "gradient_accumulation", "gradient_accumulation_steps")
    if total is None:
        accumulation = accumulation or 1
        return micro, accumulation, micro * accumulation * dp
    if accumulation is None:
        if total % (micro * dp):
            below = max(1, total // (micro * dp)) * micro * dp
            raise ConfigError(
                f"{whole}={total}: not a multiple of {part}={micro} × {dp} data-parallel "
                f"ranks = {micro * dp}; use {whole}={below} or another {part}"
            )
        accumulation = total // (micro * dp)
    if micro * accumulation * dp != total:
        raise ConfigError(
            f"{whole}={total}: but {part}={micro} × {turns}="
            f"{accumulation} × {dp} data-parallel ranks = {micro * accumulation * dp}; "
            f"use {whole}={micro * accumulation * dp} or leave {turns} out"
        )
    return micro, accumulation, total


def _batch_key(config: Config, own: str, theirs: str) -> str:
    """The key that a size comes from: DeepSpeed's where it says another one than the job's."""
    value = config.deepspeed.get(theirs)
    return f"job.{own}" if value in (None, AUTO, getattr(config.job, own)) else f"deepspeed.{theirs}"


def _check_model(model: ModelConfig, config: Config) -> None:
    layout = config.layout
    rules = [
        ("model.heads", model.heads, "model.kv_heads", model.kv_heads),
        ("model.heads", model.heads, "layout.tp", layout.tp),
        ("model.kv_heads", model.kv_heads, "layout.tp", layout.tp),
        ("model.seq_len", model.seq_len, "layout.sp", layout.sp),
        ("model.heads", model.heads, "layout.sp", layout.sp),
        ("model.seq_len", model.seq_len, "layout.cp", layout.cp),
    ]
    # interleaved parts are equally long, where embedding and head do not count as layers; others may differ
    balanced = config.job.framework is not Framework.deepspeed
    if layout.vp > 1 and not cuts(model.layers, layout.pp, layout.vp, balanced):
        rules.append(("model.layers", model.layers, "layout.pp", layout.pp))
        rules.append(("model.layers / layout.pp", model.layers // layout.pp, "layout.vp", layout.vp))
    if model.head_dim is None:
        rules.insert(0, ("model.hidden", model.hidden, "model.heads", model.heads))
    if model.experts > 1:
        rules.append(("model.experts", model.experts, "layout.ep", layout.ep))
    _check_experts(model, layout.ep)
    if model.layers < layout.pp:
        raise ConfigError(
            f"model.layers={model.layers}: fewer than the layout.pp={layout.pp} stages; "
            f"use layout.pp={model.layers} or less"
        )
    for whole, amount, part, degree in rules:
        if amount % degree:
            raise ConfigError(
                f"{whole}={amount}: not divisible by {part}={degree}; "
                f"use a {part} that divides {amount}: {_divisors(amount, degree)}"
            )


def _check_experts(model: ModelConfig, ep: int) -> None:
    if model.experts_per_token > model.experts:
        raise ConfigError(
            f"model.experts_per_token={model.experts_per_token}: more than model.experts={model.experts};"
            " lower it or raise model.experts"
        )
    if ep > 1 and model.experts == 1:
        raise ConfigError(
            f"layout.ep={ep}: model={model.name} has no experts to divide (model.experts=1); use layout.ep=1"
        )


def _divisors(amount: int, near: int) -> str:
    """The divisors on both sides of a value."""
    if amount > _MOST_DIVIDED:
        return f"a smaller number than {amount}"
    divisors = [d for d in range(1, amount + 1) if amount % d == 0]
    below, above = [d for d in divisors if d < near], [d for d in divisors if d > near]
    return " or ".join(str(d) for d in below[-1:] + above[:1])


def _stage(zero: Mapping[str, Any]) -> int:
    stage = count_of(zero, "stage", where="zero_optimization.")
    if stage > MOST_STAGE:
        raise ConfigError(
            f"deepspeed.zero_optimization.stage={stage}: there are the stages 0 to {MOST_STAGE}"
        )
    return stage


def _offloads(zero: Mapping[str, Any]) -> bool:
    for key in ("offload_optimizer", "offload_param"):
        if str(section_of(zero, key, "zero_optimization.").get("device", "none")) != "none":
            return True
    return bool(zero.get("cpu_offload"))
