"""The plan: the frozen, printable result of a configuration. Launch runs exactly what it says."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from orchestrator.config.deepspeed_argument import argv_of, named_by
from orchestrator.config.deepspeed_values import AUTO
from orchestrator.config.placeholders import DEEPSPEED_CONFIG, asks_for
from orchestrator.config.schema import Config, Device
from orchestrator.errors import ConfigError
from orchestrator.plan.arguments import words_of
from orchestrator.plan.environment import Setting, environment_of_user, interconnect_environment
from orchestrator.plan.forecast.prediction import (
    Prediction,
    memory_and_calibration,
    predict,
    route_between_nodes,
)
from orchestrator.plan.forecast.price import Price, no_price, price_usd_per_gpu_hour
from orchestrator.plan.forecast.split import Split, places_of, split_of
from orchestrator.plan.layout.deepspeed_auto import assumed, left_to_script
from orchestrator.plan.layout.layout import Layout, derive_layout
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.calibration import Calibration, Group
from orchestrator.plan.perf.memory import Memory
from orchestrator.plan.perf.transformer import parameters, training_flops_per_token
from orchestrator.plan.perf.transport import Route
from orchestrator.plan.remarks import remarks_of
from orchestrator.plan.resuming import resuming
from orchestrator.plan.sharing import Sharing, literal_deepspeed, sharing, with_sharing
from orchestrator.plan.source import Source
from orchestrator.redact import HIDDEN, is_secret, redact
from orchestrator.topology.tree import Tree
from orchestrator.vocabulary import ProgramKind, StateSharing

# DeepSpeed's own estimator asks for half as much host memory again, for its buffers.
OFFLOAD_BUFFER_FACTOR = 1.5
# What programs are told beside the fields, so that none of them has to add them up.
DERIVED_MEMORY = ("total_bytes",)
DERIVED_FORECAST = (
    "wall_hours", "goodput", "gpu_hours", "gpu_hours_low", "gpu_hours_high", "storage_bytes_per_s",
)  # fmt: skip


@dataclass(frozen=True)
class ModelFacts:
    """What is counted of the model as configured."""

    name: str  # as in `model.name`
    parameters: int  # all of them
    # those that one token is computed with: without the embedding, and where it is sent to some experts of
    # many, without the others
    active_parameters: int
    active_parameters_with_embedding: int  # the same, the embedding counted, as some model cards have it
    training_flops_per_token: float  # forward and backward, attention counted
    tokens_per_step: int  # of the global batch


@dataclass(frozen=True)
class Plan:
    """Everything that launch needs and a person wants to know before paying."""

    job: str  # name of the job
    # absolute path of the script that every rank runs; of the module's file, of the program
    script: str
    args: tuple[str, ...]  # its arguments, one word each
    # added to them when an attempt goes on from a checkpoint: `job.resume_args`, or as the script's source
    # says
    resume_args: tuple[str, ...]
    resume: str  # how the script goes on from a checkpoint, in words; empty where nobody has looked at it
    cwd: str  # working directory of the ranks
    cluster: str  # name of the cluster
    node_type: str  # as the provider calls it
    gpu_type: str  # name of the GPU, or of the processor
    unit: str  # what an hour is counted of: `GPU` or `CPU core`
    device: str  # `cuda` or `cpu`
    product_names: tuple[str, ...]  # what a node's GPUs may call themselves; empty is not looked at
    gpu_memory_bytes: int  # of one accelerator
    # dense, a second, in the layout's precision; null where the peak is not on record
    peak_flops_per_gpu: float | None
    fabric: str  # name of the fabric
    # how ranks of different nodes reach each other, as the environment has it; null on one node
    network: Route | None
    layout: Layout  # how the ranks share the work
    # the model as configured; null where the job has none, as a script of its own may
    model: ModelFacts | None
    # of the fullest rank, by part; null where there is no model, or nothing to predict it from
    memory: Memory | None
    # what the run is billed by; null for a hypothetical node of which nobody has said what it costs
    price: Price | None
    prediction: Prediction  # what the whole run will take
    # what a rank's environment gets on top of its node's, by name; values of secrets are hidden
    environment: Mapping[str, Setting]
    deepspeed: Mapping[str, Any]  # the DeepSpeed configuration of the run; values of secrets are hidden
    corpus: tuple[str, ...]  # files of the data that every node must have
    # what all nodes must share, by name: interpreter, packages, hashes of script and data
    facts: Mapping[str, str]
    # what ``script`` is: `script`, `module` or `command`, a program that is no Python script
    program: ProgramKind = ProgramKind.SCRIPT
    module: str | None = None  # its dotted name, as `python -m` takes it; null where it is no module
    # the file of one's own that ``deepspeed`` comes from; null where it comes from `conf/` and words alone
    deepspeed_file: str | None = None
    # the argument by which the script reads that file by itself; null where it is handed the run's own
    deepspeed_argument: str | None = None
    # keys of ``deepspeed`` that are "auto" still, for transformers or accelerate to fill in
    deepspeed_auto: tuple[str, ...] = ()
    # of the layout's batch and precision, what is the script's own because neither the job nor the DeepSpeed
    # file states it: the layout has a default in its place
    assumed: tuple[str, ...] = ()
    # who makes the ranks share their states: `deepspeed`, `ddp`, `fsdp` or `unknown`, as the script's source
    # says; of `ddp` the layout's ZeRO stage is 0, of `fsdp` 3
    states: StateSharing = StateSharing.DEEPSPEED
    states_by: str = ""  # what says so; empty where an argument names a DeepSpeed file, or nothing does
    # whether ``deepspeed`` is what the script's source spells out for `deepspeed.initialize`
    deepspeed_in_source: bool = False
    corpus_tokens: int | None = None  # of ``corpus``; null where there is none, or no model to read it
    # what the cluster's storage takes of checkpoints; null where that is not on record
    storage_limit_bytes_per_s: float | None = None
    # what is possible and hardly what anybody wants, and what had to be assumed; one line each
    remarks: tuple[str, ...] = ()
    # mean error of predicted memory on published runs, as a fraction; null where runs of the cluster say more
    memory_error: float | None = None
    # in how many racks, blocks and so on the run's nodes can be had, by level, far to near, of a cluster that
    # is free; empty where no file says where its nodes are
    domains: Mapping[str, int] = field(default_factory=dict)
    # what it takes that they are in several domains between which the network carries less; null where they
    # are in one, or the fabric says nothing of its oversubscription
    split: Split | None = None

    def __str__(self) -> str:
        """The whole plan as plain text, as a person reads it: what the verb ``plan`` prints, without its
        colours."""
        from orchestrator.plan.page import plain_text  # pages know plans

        return plain_text(self)

    def _repr_html_(self) -> str:
        """The same as tables, which a notebook shows."""
        from orchestrator.plan.page_html import page_html

        return page_html(self)

    @property
    def hands_deepspeed(self) -> bool:
        """Whether the script is handed the DeepSpeed file of the plan. One that is not brings its own."""
        return asks_for(DEEPSPEED_CONFIG, self.args)

    @property
    def billed_by(self) -> Price:
        """The price of a run. Raises :class:`ConfigError` where there is none: a run has a bill."""
        if self.price is None:
            raise ConfigError(
                "cluster.hypothetical=true: can be planned, and no run be billed, without a price; set"
                " cluster.price.usd_per_gpu_hour=…"
            )
        return self.price

    def command(self) -> str:
        """The command of every rank as one would type it."""
        match self.program:
            case ProgramKind.MODULE:
                return shlex.join(["python", "-m", str(self.module), *self.args])
            case ProgramKind.COMMAND:
                return shlex.join([self.script, *self.args])
        return shlex.join(["python", self.script, *self.args])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; ``environment`` is ``{NAME: {value, source}}``."""
        body = dataclasses.asdict(self)
        body["command"] = self.command()
        if self.memory is not None:
            body["memory"] = {in_bytes(name): value for name, value in body["memory"].items()}
            body["memory"] |= {name: getattr(self.memory, name) for name in DERIVED_MEMORY}
        run = self.prediction.forecast
        if run is not None:
            body["prediction"]["forecast"] |= {name: getattr(run, name) for name in DERIVED_FORECAST}
            if math.isinf(run.hours_between_interruptions):  # which JSON has no word for
                body["prediction"]["forecast"]["hours_between_interruptions"] = None
        return body


def make_plan(
    config: Config,
    script: str,
    cwd: str,
    facts: Mapping[str, str],
    calibrations: Mapping[Group, Calibration] = MappingProxyType({}),
    sources: Sequence[Source] = (),
    program: ProgramKind = ProgramKind.SCRIPT,
    module: str | None = None,
    corpus_tokens: int | None = None,
    tree: Tree | None = None,
) -> Plan:
    """Derive the plan. ``script`` and ``cwd`` are absolute; ``facts`` is what nodes must share; of
    ``calibrations`` the one for this cluster, GPU and precision is applied; ``sources`` are the script's and
    those of the modules beside it; ``corpus_tokens`` is what one epoch of the data has; ``tree`` is of the
    cluster's nodes, where a file says where they are.

    Raises :class:`ConfigError` for numbers that contradict each other and for a model that cannot fit.
    """
    words, shared = words_of(config.job), shared_of(config, sources)
    in_source = config.deepspeed_file is None and _is_in(literal_deepspeed(sources), config.deepspeed)
    config = with_sharing(config, shared)
    try:
        layout = derive_layout(config)
    except ConfigError as error:
        if not in_source:
            raise
        raise ConfigError(f"{error}, in what {script} hands to deepspeed.initialize") from None
    resume = resuming(config.job.resume_args, sources)
    unpriced = no_price(config.cluster, config.gpu)
    price = None if unpriced else price_usd_per_gpu_hour(config.cluster.price, config.gpu)
    deepspeed = resolved_deepspeed(config, layout)
    model = _model_facts(config, layout)
    places = places_of(config, layout, tree)
    memory, step, calibration = memory_and_calibration(config, layout, calibrations, places.spread)
    if memory is not None:
        _check_memory(config, layout, memory, shared)
    prediction = predict(config, layout, step, calibration)
    return Plan(
        job=config.job.name,
        script=script,
        args=tuple(words),
        resume_args=resume.args,
        resume=resume.how,
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
        network=route_between_nodes(config, layout),
        layout=layout,
        model=model,
        memory=memory,
        price=price,
        prediction=prediction,
        environment=environment_of(config, layout.nodes),
        deepspeed=deepspeed,
        corpus=tuple(config.job.corpus),
        facts=dict(facts),
        program=program,
        module=module,
        deepspeed_file=config.deepspeed_file,
        deepspeed_argument=_own_argument(config),
        deepspeed_auto=left_to_script(config.deepspeed),
        assumed=assumed(config),
        states=shared.how,
        states_by=shared.by,
        deepspeed_in_source=in_source,
        corpus_tokens=corpus_tokens,
        storage_limit_bytes_per_s=config.cluster.storage_bytes_per_s,
        remarks=tuple(remarks_of(config, layout, prediction, corpus_tokens)),
        memory_error=None if calibration else config.planner.memory_error or None,
        domains=dict(places.domains),
        split=split_of(config, layout, calibrations, places, step, prediction.cost_usd),
    )


def shared_of(config: Config, sources: Sequence[Source]) -> Sharing:
    """Who makes the ranks of the configuration's script share their states."""
    words = words_of(config.job)
    handed = asks_for(DEEPSPEED_CONFIG, words) or _own_argument(config) is not None
    return sharing(sources, words, {**config.job.env, **config.env}, handed)


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
    user = environment_of_user(config)
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
    section = body.get(layout.precision) or {}
    if layout.precision in ("bf16", "fp16") and section.get("enabled") != AUTO:
        body[layout.precision] = {**section, "enabled": True}
    return body


def _is_in(body: Mapping[str, Any] | None, deepspeed: Mapping[str, Any]) -> bool:
    return body is not None and body.items() <= deepspeed.items()


def _own_argument(config: Config) -> str | None:
    """The argument that names the file which the plan is made from."""
    named = named_by(config.job.args, argv_of(config.job))
    return named[0] if named is not None and named[1] == config.deepspeed_file else None


def _model_facts(config: Config, layout: Layout) -> ModelFacts | None:
    if config.model is None:
        return None
    size = parameters(config.model)
    return ModelFacts(
        name=config.model.name,
        parameters=size.total,
        active_parameters=size.active,
        active_parameters_with_embedding=size.active_with_embedding,
        training_flops_per_token=training_flops_per_token(config.model),
        tokens_per_step=layout.global_batch * config.model.seq_len,
    )


def _check_memory(config: Config, layout: Layout, needed: Memory, shared: Sharing) -> None:
    """Refuses what cannot fit, on the accelerator or, with offload, in the node's own memory."""
    assert config.model is not None
    if needed.total_bytes > config.gpu.memory_bytes:
        from orchestrator.plan.search.remedies import what_fits

        fits = what_fits(config.model, config.gpu, layout, Zero.from_config(config.deepspeed))
        remedy = (
            f"would fit: {'; or '.join(fits)}"
            if fits
            else "no layout of this job fits; use larger GPUs or more"
        )
        if shared.how is StateSharing.DDP:  # which no word of ours changes
            remedy = (
                f"with the script's {shared.by} every rank holds all states: share them by FSDP or a"
                " DeepSpeed engine, or use larger GPUs"
            )
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


def in_bytes(name: str) -> str:
    """The key of a part of the memory, with its unit."""
    return name if name.endswith("_bytes") else f"{name}_bytes"


def _gb(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.1f} GB"


def plan_json(plan: Plan) -> dict[str, object]:
    """The plan for programs, secrets hidden."""
    body = plan.to_json()
    for name, setting in body["environment"].items():
        if is_secret(name):
            setting["value"] = HIDDEN
    hidden: dict[str, object] = redact({k: v for k, v in body.items() if k != "environment"})
    return {**hidden, "environment": body["environment"]}
