"""The plan: the frozen, printable result of a configuration. Launch runs exactly what it says."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.config import Config, Device
from orchestrator.errors import ConfigError
from orchestrator.plan.fabric import Setting, interconnect_environment
from orchestrator.plan.layout import Layout, derive_layout
from orchestrator.plan.memory import Memory, Zero, memory_of
from orchestrator.plan.price import Price, price_usd_per_gpu_hour
from orchestrator.plan.step import step_time_s
from orchestrator.plan.transformer import parameters, training_flops_per_token
from orchestrator.plan.what_fits import what_fits

# DeepSpeed's own estimator asks for half as much host memory again, for its buffers.
OFFLOAD_BUFFER_FACTOR = 1.5


@dataclass(frozen=True)
class ModelFacts:
    """Of the model as configured; FLOPs are forward and backward, attention counted. ``active_parameters``
    are those that one token passes: fewer than ``parameters`` where it is sent to some experts of many."""

    name: str
    parameters: int
    active_parameters: int
    training_flops_per_token: float
    tokens_per_step: int


@dataclass(frozen=True)
class Prediction:
    """What the whole run will take; None where nothing on record allows a prediction."""

    steps: int | None
    tokens: int | None
    step_time_s: float | None
    tokens_per_s: float | None
    hours: float | None
    gpu_hours: float | None
    cost_usd: float | None
    basis: str


@dataclass(frozen=True)
class Plan:
    """Everything that launch needs and a person wants to know before paying."""

    job: str
    script: str
    args: tuple[str, ...]
    cwd: str
    cluster: str
    node_type: str
    gpu_type: str
    unit: str
    device: str
    product_names: tuple[str, ...]
    gpu_memory_bytes: int
    peak_flops_per_gpu: float | None
    fabric: str
    layout: Layout
    model: ModelFacts | None
    memory: Memory | None
    price: Price
    prediction: Prediction
    environment: Mapping[str, Setting]
    deepspeed: Mapping[str, Any]
    corpus: tuple[str, ...]
    facts: Mapping[str, str]

    def command(self) -> str:
        """The command of every rank as one would type it."""
        return shlex.join(["python", self.script, *self.args])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; ``environment`` is ``{NAME: {value, source}}``."""
        body = dataclasses.asdict(self)
        body["command"] = self.command()
        if self.memory is not None:
            body["memory"]["total_bytes"] = self.memory.total_bytes
        return body


def make_plan(config: Config, script: str, cwd: str, facts: Mapping[str, str]) -> Plan:
    """Derive the plan. ``script`` and ``cwd`` are absolute; ``facts`` is what nodes must share.

    Raises :class:`ConfigError` for numbers that contradict each other and for a model that can not fit.
    """
    layout = derive_layout(config)
    price = price_usd_per_gpu_hour(config.cluster.price, config.gpu)
    deepspeed = resolved_deepspeed(config, layout)
    model = _model_facts(config, layout)
    memory = _memory(config, layout)
    return Plan(
        job=config.job.name,
        script=script,
        args=tuple(arguments(config.job.args)),
        cwd=cwd,
        cluster=config.cluster.name,
        node_type=config.cluster.node_type,
        gpu_type=config.gpu.name,
        unit=config.gpu.unit,
        device=config.gpu.device.value,
        product_names=tuple(config.gpu.product_names),
        gpu_memory_bytes=config.gpu.memory_bytes,
        peak_flops_per_gpu=config.gpu.peak_flops.get(layout.precision),
        fabric=config.fabric.name,
        layout=layout,
        model=model,
        memory=memory,
        price=price,
        prediction=_predict(config, layout, model, price),
        environment=environment_of(config, layout.nodes),
        deepspeed=deepspeed,
        corpus=tuple(config.job.corpus),
        facts=dict(facts),
    )


def arguments(args: Mapping[str, Any]) -> list[str]:
    """``--name=value`` per argument; lists joined by commas, booleans as true and false, null left out."""
    flags = []
    for name, value in args.items():
        if value is None:
            continue
        if isinstance(value, bool):
            value = str(value).lower()
        elif isinstance(value, list | tuple):
            value = ",".join(str(item) for item in value)
        flags.append(f"--{name}={value}")
    return flags


def environment_of(config: Config, nodes: int) -> dict[str, Setting]:
    """What a rank's environment gets on top of its node's, each value with its source; the user's win."""
    own = {
        "DS_ACCELERATOR": Setting(config.gpu.device.value, f"gpu.device of {config.gpu.name}"),
        "OMP_NUM_THREADS": Setting(
            str(config.cluster.cpu_threads_per_rank), f"cluster.cpu_threads_per_rank of {config.cluster.name}"
        ),
    }
    if config.gpu.device is Device.cuda:
        own["PYTORCH_NVML_BASED_CUDA_CHECK"] = Setting("1", "a forked rank must find CUDA uninitialised")
    user = {**config.job.env, **config.env}
    fabric = interconnect_environment(config.fabric, user, nodes)
    for name, setting in own.items():
        if name in user and user[name] != setting.value:
            replaced = f"{fabric[name].source} instead of {setting.value} ({setting.source})"
            fabric[name] = Setting(user[name], replaced)
        elif name not in fabric:
            fabric[name] = setting
    return dict(sorted(fabric.items()))


def resolved_deepspeed(config: Config, layout: Layout) -> dict[str, Any]:
    """The configuration's own DeepSpeed keys, with batch sizes and precision as the layout has them."""
    body = {key: value for key, value in config.deepspeed.items() if value is not None}
    body["train_batch_size"] = layout.global_batch
    body["train_micro_batch_size_per_gpu"] = layout.micro_batch
    body["gradient_accumulation_steps"] = layout.accumulation
    if layout.precision != "fp32":
        body[layout.precision] = {**(body.get(layout.precision) or {}), "enabled": True}
    return body


def _model_facts(config: Config, layout: Layout) -> ModelFacts | None:
    if config.model is None:
        return None
    size = parameters(config.model)
    return ModelFacts(
        name=config.model.name,
        parameters=size.total,
        active_parameters=size.active,
        training_flops_per_token=training_flops_per_token(config.model),
        tokens_per_step=layout.global_batch * config.model.seq_len,
    )


def _memory(config: Config, layout: Layout) -> Memory | None:
    """Refuses what can not fit, on the accelerator or, with offload, in the node's own memory."""
    if config.model is None:
        return None
    zero = Zero.from_config(config.deepspeed)
    needed = memory_of(config.model, config.gpu, layout, zero)
    if needed.total_bytes > config.gpu.memory_bytes:
        fits = what_fits(config.model, config.gpu, layout, zero)
        remedy = f"would fit: {'; or '.join(fits)}" if fits else "no layout of this job fits; use larger GPUs or more"
        short = needed.total_bytes - config.gpu.memory_bytes
        raise ConfigError(
            f"model={config.model.name}: needs {_gb(needed.total_bytes)} per {config.gpu.unit}, "
            f"{config.gpu.name} has {_gb(config.gpu.memory_bytes)}: {_gb(short)} too much; {remedy}"
        )
    host_bytes = needed.host_bytes * layout.ranks_per_node * OFFLOAD_BUFFER_FACTOR
    available = config.cluster.host_memory_bytes
    if available is not None and host_bytes > available:
        raise ConfigError(
            f"model={config.model.name}: offload needs {_gb(host_bytes)} of each node's memory, "
            f"cluster.host_memory_bytes={available} is {_gb(available)}; raise cluster.nodes or offload less"
        )
    return needed


def _predict(config: Config, layout: Layout, model: ModelFacts | None, price: Price) -> Prediction:
    steps = config.job.steps
    tokens = steps * model.tokens_per_step if steps and model else None
    seconds = None
    if config.model is not None and model is not None and layout.precision in config.gpu.peak_flops:
        seconds = step_time_s(
            config.model, config.gpu, layout.precision, layout.ranks, model.tokens_per_step, layout.recompute
        )
    if seconds is None:
        return Prediction(steps, tokens, None, None, None, None, None, "no utilisation on record")
    assert model is not None
    hours = seconds * steps / 3600 if steps else None
    gpu_hours = None if hours is None else hours * layout.ranks
    return Prediction(
        steps=steps,
        tokens=tokens,
        step_time_s=seconds,
        tokens_per_s=model.tokens_per_step / seconds,
        hours=hours,
        gpu_hours=gpu_hours,
        cost_usd=None if gpu_hours is None else gpu_hours * price.usd_per_gpu_hour,
        basis=f"constant utilisation of {config.gpu.utilisation}: {config.gpu.utilisation_source}",
    )


def _gb(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.1f} GB"
