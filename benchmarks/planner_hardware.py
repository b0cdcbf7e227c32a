"""What a published row says of its hardware and software, as the planner's own objects."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from orchestrator.config.choices import Framework
from orchestrator.config.load import conf_dir
from orchestrator.config.schema import Config, GpuConfig, PlannerConfig
from orchestrator.plan.layout.stages import Schedule
from orchestrator.plan.perf.machine import Machine
from orchestrator.plan.perf.software import DEEPSPEED, FSDP, MEGATRON, Software

# Hopper under a lower power limit: what idling and memory leave of it goes with the clock and the square of a
# voltage that follows the clock.
STATIC_W, POWER_TO_CLOCK = 130, 0.4


HANGING_GPUS = 320
# NCCL without a plugin for Omni-Path, nodes with four adapters of 100 Gb/s each: an all-reduce of 4 GB took
# 1.53 s over four nodes of 8 A100, a bus bandwidth of 5.1 GB/s, and 1.16 s over 16 of 4 V100, 6.8 GB/s
# (bigscience-workshop/bigscience@358e3c8, experiments/bandwidth/all_reduce_bench-a100-n4.txt and README.md).
OMNI_PATH_EFFICIENCY = 0.12


class Refused(Exception):
    """Why a row cannot be planned."""


def number(row: Mapping[str, str], key: str) -> float | None:
    """A figure above 0; None where there is none, whatever stands there instead."""
    try:
        value = float(row.get(key) or "")
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def whole(row: Mapping[str, str], key: str, default: int | None = None) -> int | None:
    value = number(row, key)
    return default if value is None else max(1, round(value))


def precision_of(text: str) -> str:
    text = text.lower()
    return "fp8" if "fp8" in text else "fp32" if text in ("fp32", "tf32") else "bf16"


# Words of a row, the file of conf/gpu that is nearest, and what differs from it: dense peak in 16 bits,
# bytes, bytes per second to memory and to other accelerators, share of the sustained rate (gpu_specs of
# docs/planner_model.md).
GPUS: tuple[tuple[str, str, tuple[float, float, float, float, float] | None], ...] = (
    ("gb200", "b200", (2500e12, 186e9, 8.0e12, 900e9, 1.0)),
    ("b300", "b200", (2250e12, 288e9, 8.0e12, 900e9, 1.0)),
    ("b200", "b200", None),
    ("gh200", "h200", (989e12, 96e9, 4.0e12, 450e9, 1.0)),
    ("h200", "h200", None),
    ("h800", "h800", None),
    ("h100 pcie", "h100_sxm", (756e12, 80e9, 2.0e12, 25e9, 1.0)),
    ("h100", "h100_sxm", None),
    ("mi300", "mi300x", None),
    ("v100", "a100_40gb", (125e12, 32e9, 0.9e12, 150e9, 1.0)),
    ("a100 pcie", "a100_80gb", (312e12, 80e9, 1.94e12, 25e9, 252.9 / 271.2)),
    ("a800", "a100_80gb", (312e12, 80e9, 2.039e12, 200e9, 1.0)),
)


def gpu_of(text: str, constants: PlannerConfig) -> GpuConfig:
    """What a row's words mean. Raises :class:`Refused`."""
    words = text.lower().replace("-", " ").replace("_", " ")
    efficiencies = _efficiencies(constants)
    for word, option, differs in GPUS:
        if word in words:
            gpu = gpu_option(option, efficiencies)
            gpu = _variant(gpu, text, differs) if differs else gpu
            return _hbm2e(gpu, words) if option == "h100_sxm" and "hbm2e" in words else gpu
    if "a100" not in words:
        raise Refused(f"gpu '{text}' is not on record")
    return gpu_option("a100_40gb" if "40" in words.split("a100", 1)[1] else "a100_80gb", efficiencies)


def _variant(gpu: GpuConfig, name: str, differs: tuple[float, float, float, float, float]) -> GpuConfig:
    peak, memory_bytes, bytes_per_s, link, share = differs
    return replace(
        gpu, name=name, memory_bytes=int(memory_bytes), memory_bandwidth_bytes_per_s=bytes_per_s,
        nvlink_bytes_per_s=link,
        peak_flops={k: v * peak / gpu.peak_flops["bf16"] for k, v in gpu.peak_flops.items()},
        matmul_efficiency={k: v * share for k, v in gpu.matmul_efficiency.items()},
    )  # fmt: skip


def _hbm2e(gpu: GpuConfig, words: str) -> GpuConfig:
    """The H100 with 96 GB of HBM2e, at a lower power limit."""
    limited = "500w" in words.replace(" ", "")
    slower = ((500 - STATIC_W) / (700 - STATIC_W)) ** POWER_TO_CLOCK if limited else 1.0
    return replace(
        gpu, name="H100 SXM 96GB HBM2e", memory_bytes=int(96e9 * gpu.memory_bytes / 80e9),
        memory_bandwidth_bytes_per_s=2.4e12,
        matmul_efficiency={k: v * slower for k, v in gpu.matmul_efficiency.items()},
    )  # fmt: skip


def _efficiencies(constants: PlannerConfig) -> tuple[tuple[str, tuple[tuple[str, float], ...]], ...]:
    return tuple((arch, tuple(values.items())) for arch, values in constants.matmul_efficiency.items())


@functools.lru_cache(maxsize=64)
def gpu_option(option: str, efficiencies: tuple[Any, ...]) -> GpuConfig:
    root = OmegaConf.create(
        {"planner": {"matmul_efficiency": {arch: dict(values) for arch, values in efficiencies}}}
    )
    path = conf_dir() / "gpu" / f"{option}.yaml"
    if not path.exists():
        raise Refused(f"no file of conf/gpu describes '{option}'")
    root["gpu"] = OmegaConf.load(path)
    body: dict[str, Any] = OmegaConf.to_container(root.gpu, resolve=True)  # type: ignore[assignment]
    fields = {f.name for f in dataclasses.fields(GpuConfig)} - {"reference_price", "device"}
    return GpuConfig(**{k: v for k, v in body.items() if k in fields})


def machine_of(row: Mapping[str, str], gpu: GpuConfig) -> Machine:
    per_node = whole(row, "gpus_per_node", 8) or 8
    config = Config(gpu=gpu)
    config.cluster.gpus_per_node = per_node
    machine = Machine.of(config.cluster, gpu, config.fabric)
    fabric = row.get("interconnect") or ""
    omni_path = "omni-path" in fabric.lower()
    return replace(
        machine,
        node_bytes_per_s=node_bits_per_s(fabric, gpu, per_node) / 8,
        fabric_efficiency=OMNI_PATH_EFFICIENCY if omni_path else machine.fabric_efficiency,
        waits_for_kernels=waits_for_kernels(row),
    )


def waits_for_kernels(row: Mapping[str, str]) -> bool:
    """Whether the run had CUDA_LAUNCH_BLOCKING=1: as its notes say, or as BigScience had it, whose runs on
    320 GPUs and more hung without (chronicles-prequel.md, "dealing with JZ hanging on the large model")."""
    if "cuda_launch_blocking=1" in (row.get("notes") or "").lower():
        return True
    return "bigscience" in (row.get("source") or "").lower() and (whole(row, "gpus") or 0) >= HANGING_GPUS


def node_bits_per_s(text: str, gpu: GpuConfig, per_node: int) -> float:
    """``8x400Gb IB``, ``1600 Gb/s RoCE per node``, ``400 Gb/s RDMA per GPU``; else what such GPUs usually
    have."""
    if match := re.search(r"(\d+)\s*x\s*(\d+)\s*G", text):
        return int(match[1]) * int(match[2]) * 1e9
    if match := re.search(r"(\d+)\s*G", text):
        return int(match[1]) * 1e9 * (per_node if "per gpu" in text.lower() else 1)
    return per_node * (200e9 if "A100" in gpu.name else 100e9 if "V100" in gpu.name else 400e9)


# Megatron of 2021, and DeepSpeed's fork of it: fused softmax and activations, attention in parts.
MEGATRON_2021 = Software(
    fused_attention=False, elementwise_share=0.6, logit_bytes=10, gradient_bytes=10, float32_gradients=True,
    dropout=True, pads_vocabulary=True,
)  # fmt: skip
# Of 2022, with what Korthikanti et al. describe: gradients added within the products that make them, and
# outputs that were sent on freed.
MEGATRON_2022 = replace(MEGATRON_2021, gradient_bytes=2, frees_outputs=True)


def software_of(row: Mapping[str, str]) -> Software:
    """What is known of a framework at the time of its table, and of the schedule that its row names."""
    return replace(_framework(row), schedule=schedule_of(row))


def framework_of(row: Mapping[str, str]) -> str:
    """As ranges tell them apart: whose engine it is."""
    name = (row.get("framework") or "").lower()
    if "deepspeed" in name:
        return Framework.deepspeed.value
    if any(word in name for word in ("megatron", "nemo", "core")):
        return Framework.megatron.value
    if any(word in name for word in ("fsdp", "torchtitan", "foundry")):
        return Framework.fsdp.value
    return Framework.megatron.value if _divides(row) and not _jax(name) else "other"


def _divides(row: Mapping[str, str]) -> bool:
    """Whether the row's software divides tensors or layers."""
    return any((whole(row, key) or 1) > 1 for key in ("tp", "pp"))


def _jax(name: str) -> bool:
    return any(word in name for word in ("jax", "maxtext", "paxml"))


def schedule_of(row: Mapping[str, str]) -> Schedule:
    text = " ".join((row.get(key) or "").lower() for key in ("framework", "notes", "source_ref"))
    if "gpipe" in text:
        return Schedule.gpipe
    return Schedule.zero_bubble if re.search(r"\bzb-?2p", text) else Schedule.one_forward_one_backward


def _framework(row: Mapping[str, str]) -> Software:
    name, notes = (row.get("framework") or "").lower(), (row.get("notes") or "").lower()
    if "megatron" in name and not any(word in name for word in ("core", "nemo")):
        parallel = "sequence" in (row.get("recompute") or "").lower()
        if "deepspeed" in name:
            return replace(
                MEGATRON_2021, gradient_bytes=6, float32_gradients=False, sequence_parallel=parallel
            )
        return MEGATRON_2021 if "ptd" in name else replace(MEGATRON_2022, sequence_parallel=parallel)
    if any(word in name for word in ("nemo", "core", "transformer engine")):
        return MEGATRON
    if _jax(name):
        return Software(
            hopper_attention=True, elementwise_share=0.4, sequence_parallel=True, tp_overlap=True,
            host_factor=0.1, selective_share=0.45, copies_loss=False, logit_bytes=4, half_copy=False,
            pads_vocabulary=True,
        )  # fmt: skip
    if "torchtitan" in name:
        compiled = (
            ("compile" in notes and "no compile" not in notes)
            or "fp8" in (row.get("precision") or "")
            or "tp" in notes
        )
        return replace(
            FSDP, elementwise_share=0.5 if compiled else 1.0, tp_overlap="async" in notes,
            host_factor=0.4 if compiled else 1.0,
            logit_bytes=FSDP.logit_bytes if "2025" in (row.get("source") or "") else DEEPSPEED.logit_bytes,
        )  # fmt: skip
    if "foundry" in name:
        return Software(skips_masked=False, copies_loss=False, logit_bytes=4, half_copy=False)
    if "deepspeed" not in name and "fsdp" not in name and _divides(row):
        return MEGATRON  # software of one's own that divides models descends from it, or does the same
    return Software(half_copy="fsdp" not in name)
