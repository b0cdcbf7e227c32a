"""Published measurements, one row each, as the planner's own inputs.

What a row leaves blank is filled in by what its software does, or chosen as the planner would choose it: the
fastest value that fits into memory. A row that lacks more is refused with the reason.
"""

from __future__ import annotations

import collections
import csv
import functools
import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import OmegaConf

from benchmarks.planner_hardware import (
    Refused,
    framework_of,
    gpu_of,
    machine_of,
    number,
    precision_of,
    software_of,
    whole,
)
from orchestrator.config.load import conf_dir
from orchestrator.config.schema import GpuConfig, ModelConfig, PlannerConfig
from orchestrator.errors import ConfigError
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.layout.stages import cuts
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.machine import Machine
from orchestrator.plan.perf.memory import memory_of
from orchestrator.plan.perf.software import Software
from orchestrator.plan.perf.step import StepModel, StepTime
from orchestrator.plan.perf.transformer import parameters, recompute_flops_per_token, training_flops_per_token

GIB = 2**30
GATED = ("llama", "mistral", "mixtral", "qwen", "grok", "gemma", "deepseek", "nemotron-h", "phi-3")
SHAPES = {
    "grok1": "grok1_314b",
    "llama3-8b": "llama3_8b",
    "llama3-70b": "llama3_70b",
    "llama3-405b": "llama3_405b",
    "llama2-70b": "llama2_70b",
    "llama2-13b": "llama2_13b",
    "llama2-7b": "llama2_7b",
    "gpt3-175b": "gpt3_175b",
    "mixtral-8x7b": "mixtral_8x7b",
    "mistral-7b": "mistral_7b",
}


@dataclass(frozen=True)
class Case:
    """One row: what to predict, and what was measured."""

    table: str
    ref: str
    gpu_words: str
    model: ModelConfig
    gpu: GpuConfig
    machine: Machine
    layout: Layout
    zero: Zero
    software: Software
    precision: str
    step_s: float
    memory_bytes: float | None
    memory_kind: str
    group: str  # rows of one group differ in layout only


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def case_of(row: Mapping[str, str], constants: PlannerConfig) -> Case:
    """Raises :class:`Refused`."""
    model = model_of(row)
    parameters(model)  # refuses a shape that contradicts itself
    precision = precision_of(row.get("precision") or "")
    gpu = gpu_of(row.get("gpu") or "", constants)
    if precision not in gpu.matmul_efficiency:
        raise Refused(f"no {precision} peak on record for {gpu.name}")
    machine = machine_of(row, gpu)
    software = software_of(row)
    layout, zero = fill_in(row, model, gpu, machine, software, precision, constants)
    memory = number(row, "mem_gb")
    return Case(
        table=row.get("table") or "",
        ref=f"{row.get('source', '')} {row.get('source_ref', '')}",
        gpu_words=row.get("gpu") or "",
        model=model,
        gpu=gpu,
        machine=machine,
        layout=layout,
        zero=zero,
        software=software,
        precision=precision,
        step_s=measured_step_s(row, model, gpu, layout, precision),
        memory_bytes=None if memory is None else memory * GIB,
        memory_kind=row.get("mem_kind") or "",
        group="|".join(
            str(v)
            for v in (
                row.get("table"),
                row.get("model"),
                model.layers,
                model.hidden,
                model.heads,
                model.seq_len,
                layout.global_batch,
                layout.ranks,
                gpu.name,
                precision,
                row.get("framework"),
                row.get("source"),
            )
        ),
    )


def model_of(row: Mapping[str, str]) -> ModelConfig:
    name = (row.get("model") or "").strip()
    known = next((option for prefix, option in SHAPES.items() if name.lower().startswith(prefix)), None)
    base = model_option(known) if known else None
    layers, hidden, seq_len = whole(row, "layers"), whole(row, "hidden"), whole(row, "seq_len")
    if base is not None:
        base = replace(base, layers=layers or base.layers, seq_len=seq_len or base.seq_len)
        if hidden in (None, base.hidden):
            return replace(base, vocab=whole(row, "vocab") or base.vocab)
    if not layers or not hidden or not seq_len:
        raise Refused(f"the shape of {name or 'the model'} is not given (layers, hidden, seq_len)")
    heads = whole(row, "heads") or whole(row, "usual_heads") or max(1, hidden // 128)
    gated = any(word in name.lower() for word in GATED)
    ffn = whole(row, "ffn") or (int(hidden * 8 / 3 / 256 + 0.999) * 256 if gated else 4 * hidden)
    return ModelConfig(
        name=name, layers=layers, hidden=hidden, heads=heads, kv_heads=whole(row, "kv_heads") or heads,
        ffn=ffn, vocab=whole(row, "vocab") or 51200, seq_len=seq_len, gated_mlp=gated,
        tie_embeddings=not gated, head_dim=None if hidden % heads == 0 else max(1, hidden // heads),
    )  # fmt: skip


@functools.cache
def model_option(option: str) -> ModelConfig:
    return ModelConfig(**OmegaConf.to_container(OmegaConf.load(conf_dir() / "model" / f"{option}.yaml")))  # type: ignore[arg-type]


def fill_in(
    row: Mapping[str, str],
    model: ModelConfig,
    gpu: GpuConfig,
    machine: Machine,
    software: Software,
    precision: str,
    constants: PlannerConfig,
) -> tuple[Layout, Zero]:
    """The row's layout; blanks are the fastest values that fit."""
    candidates = list(layouts(row, model, precision))
    if not candidates:
        raise Refused("its degrees of parallelism do not multiply to its GPUs, or its batch is not given")
    if len(candidates) == 1:
        return candidates[0]
    times = StepModel(model, machine, constants, precision, software)
    fitting = [
        c for c in candidates if memory_of(model, gpu, c[0], c[1], software).total_bytes <= gpu.memory_bytes
    ]
    return min(fitting or candidates[-1:], key=lambda c: times.time(c[0], c[1]).total_s)


def layouts(row: Mapping[str, str], model: ModelConfig, precision: str) -> Iterator[tuple[Layout, Zero]]:
    gpus, batch = whole(row, "gpus"), whole(row, "global_batch")
    if not gpus or not batch:
        return
    per_node = whole(row, "gpus_per_node", 8) or 8
    cp, ep = whole(row, "cp", 1) or 1, whole(row, "ep", 1) or 1
    stages = _zero_stages(row)
    offload = (row.get("offload") or "").strip().lower() not in ("", "no", "none", "false")
    for tp, pp in itertools.product(
        _choices(row, "tp", (1, 2, 4, 8)), _choices(row, "pp", (1, 2, 4, 6, 8, 12, 16))
    ):
        dp = gpus // (tp * pp * cp)
        if dp * tp * pp * cp != gpus or dp < 1 or dp * cp % ep:
            continue
        for micro, vp, (full, selective), stage in itertools.product(
            _choices(row, "micro_batch", (1, 2, 4, 8)), _interleaving(row, model, pp), _recompute(row), stages
        ):
            if (stage == 3 and (pp > 1 and len(stages) > 1)) or (
                micro * dp > batch and len(_choices(row, "micro_batch", (1, 2))) > 1
            ):
                continue
            layout = Layout(
                nodes=math.ceil(gpus / per_node), ranks_per_node=min(gpus, per_node), ranks=gpus, dp=dp,
                tp=tp, pp=pp, sp=1, ep=ep, zero_stage=stage, offload=offload, recompute=full,
                precision="bf16" if precision == "fp8" else precision, micro_batch=micro,
                accumulation=max(1, math.ceil(batch / (micro * dp))), global_batch=batch, vp=vp,
                selective=selective, cp=cp, framework=framework_of(row),
            )  # fmt: skip
            yield layout, replace(Zero.of_layout(layout), overlap_comm=True)


def _zero_stages(row: Mapping[str, str]) -> tuple[int, ...]:
    """As stated (0 included), else by the framework: fully sharded, a distributed optimizer, or none."""
    text, framework = (row.get("zero_stage") or "").strip(), (row.get("framework") or "").lower()
    if text in ("0", "0.0", "1", "1.0", "2", "2.0", "3", "3.0"):
        return (int(text[0]),)
    if (whole(row, "fsdp", 0) or 0) > 1:
        return (3,)
    if "nemo" in framework:
        return (1,)
    return (0,) if "megatron" in framework and "core" not in framework else (0, 1, 3)


def _choices(row: Mapping[str, str], key: str, otherwise: tuple[int, ...]) -> tuple[int, ...]:
    value = whole(row, key)
    return otherwise if value is None else (value,)


def _interleaving(row: Mapping[str, str], model: ModelConfig, pp: int) -> tuple[int, ...]:
    value = whole(row, "vp")
    if value is not None:
        return (value,)
    framework = (row.get("framework") or "").lower()
    if pp == 1 or "deepspeed" in framework:
        return (1,)
    return tuple(v for v in (1, 2, 3, 4, 6, 8, 12) if cuts(model.layers, pp, v, balanced_ends=True))


def _recompute(row: Mapping[str, str]) -> tuple[tuple[bool, bool], ...]:
    text = (row.get("recompute") or "").lower()
    if not text and "jax" in (row.get("framework") or "").lower():
        return ((False, True), (True, False))  # its layers are scanned, and rematerialised by a policy
    if not text or text == "unknown":
        return ((False, False), (False, True), (True, False))
    return ((text.startswith("full") or text in ("true", "yes"), "selective" in text),)


def measured_step_s(
    row: Mapping[str, str], model: ModelConfig, gpu: GpuConfig, layout: Layout, precision: str
) -> float:
    """Step time as printed, else from tokens/s, else from FLOP/s by the source's own way of counting."""
    printed = number(row, "step_time_s") or number(row, "derived_step_time_s")
    if printed:
        return printed
    tokens = layout.global_batch * model.seq_len
    rate = number(row, "tokens_per_s_per_gpu")
    if rate:
        return tokens / (rate * layout.ranks)
    flops = training_flops_per_token(model)
    tflops = number(row, "tflops_per_gpu")
    if tflops and "hardware" in (row.get("tflops_kind") or ""):
        # the model's FLOPs, and the layers' forward pass once more
        return tokens * (flops + recompute_flops_per_token(model)) / (tflops * 1e12 * layout.ranks)
    peak = gpu.peak_flops[precision]
    for share in (tflops and tflops * 1e12 / peak, number(row, "mfu")):
        if share:
            return tokens * flops / (share * peak * layout.ranks)
    raise Refused("neither step time nor a rate is given")


def rebase(case: Case, constants: PlannerConfig) -> Case:
    """The same case with the efficiencies of other constants."""
    gpu = gpu_of(case.gpu_words, constants)
    return replace(case, gpu=gpu, machine=replace(case.machine, matmul_efficiency=gpu.matmul_efficiency))


def predict(case: Case, constants: PlannerConfig) -> StepTime:
    return StepModel(case.model, case.machine, constants, case.precision, case.software).time(
        case.layout, case.zero
    )


def cases(
    rows: list[dict[str, str]], constants: PlannerConfig
) -> tuple[list[Case], list[tuple[dict[str, str], str]]]:
    """Rows as cases, and those refused with the reason."""
    answered, refused = [], []
    for row in with_usual_heads(rows):
        try:
            answered.append(case_of(row, constants))
        except Refused as reason:
            refused.append((row, str(reason)))
        except ConfigError as error:
            refused.append((row, str(error)))
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            refused.append((row, f"its figures make no sense together ({type(error).__name__}: {error})"))
    return answered, refused


def with_usual_heads(rows: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """The rows with what is taken for the number of heads where it is blank: the commonest of the same table
    and hidden size, which a sweep of layouts keeps, else of the table."""
    plain = [dict(row) for row in rows]
    by_shape: dict[tuple[str, ...], list[str]] = collections.defaultdict(list)
    for row in plain:
        if row.get("heads"):
            for key in _shapes(row):
                by_shape[key].append(row["heads"])
    for row in plain:
        found = next((by_shape[key] for key in _shapes(row) if key in by_shape), None)
        row["usual_heads"] = statistics.mode(found) if found else ""
    return plain


def _shapes(row: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    table = row.get("table") or ""
    return (table, row.get("hidden") or ""), (table,)
