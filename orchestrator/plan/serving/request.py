"""What a load is served with, and what that takes. Pure values: other planners call
:func:`~orchestrator.plan.serving.serving.serve` with them."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.schema import ModelConfig, PlannerConfig
from orchestrator.plan.perf.machine import Machine

SECONDS_PER_DAY = 86_400
# Bytes of one weight, and of one element of the key-value cache, by their precision.
ELEMENT_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5, "int4": 0.5}
# Weights of these are stored smaller and computed with in 16 bits (W8A16, W4A16).
STORED_ONLY = {"int8": "bf16", "int4": "bf16", "fp4": "bf16"}


@dataclass(frozen=True)
class Load:
    """Requests, and how long each may take; a target of None is none."""

    requests_per_day: float  # on the mean day
    tokens_in: float  # of a prompt, mean
    tokens_out: float  # of an answer, mean
    peak_to_mean: float = 2.0  # rate of the busiest time over the day's mean
    ttft_s: float | None = None  # to the first token of an answer, mean at the busiest time; null is any
    tpot_s: float | None = None  # per token after it, mean at the busiest time; null is any

    @property
    def tokens_per_day(self) -> float:
        """Of prompts and answers."""
        return self.requests_per_day * (self.tokens_in + self.tokens_out)

    @property
    def peak_requests_per_s(self) -> float:
        """At the busiest time."""
        return self.requests_per_day / SECONDS_PER_DAY * self.peak_to_mean


@dataclass(frozen=True)
class Software:
    """How the serving software holds model and requests."""

    precision: str = "bf16"  # of the weights
    kv_precision: str = "bf16"  # of the key-value cache
    share: float = 1.0  # of the roofline's speed that it reaches
    memory_share: float = 0.9  # of an accelerator's memory, for weights and cache
    max_batch: int = 256  # requests that a replica, or each rank of expert parallelism, answers at once
    prefill_tokens: int = 8192  # of prompts that are read at once
    kv_elements_per_layer: int | None = None  # of one token; null follows from the model's key-value heads


@dataclass(frozen=True)
class ServingRequest:
    """A load for a model on one machine. ``usd_per_gpu_hour`` is what one accelerator costs, in use or not;
    ``degrees`` of tensor parallelism are looked at, with pipeline stages where a node is too small."""

    model: ModelConfig
    load: Load
    software: Software
    machine: Machine
    memory_bytes: float  # of one accelerator
    constants: PlannerConfig
    usd_per_gpu_hour: float
    degrees: tuple[int, ...] = (1, 2, 4, 8)


@dataclass(frozen=True)
class Replica:
    """One copy of the model at the busiest time, and the memory of one of its accelerators."""

    tp: int  # tensor parallel ranks
    pp: int  # pipeline stages
    ep: int  # expert parallel ranks, each with requests of its own
    batch: float  # requests that are answered at once, mean
    prompts_at_once: float  # that are read in one pass, mean
    requests_per_s: float  # that it is asked
    ttft_s: float  # to the first token, mean
    tpot_s: float  # per token after it, mean, the reading of others' prompts included
    prefill_s: float  # of reading one prompt alone
    decode_step_s: float  # of one token for each request of the batch
    prefill_share: float  # of its time that goes into prompts
    weights_bytes: float  # of one accelerator
    kv_bytes: float  # of one accelerator
    free_bytes: float  # of one accelerator, of the share that weights and cache may have
    limited_by: str  # what keeps the batch from growing, in words
    bound_by: str  # what takes longest of its time, in words

    @property
    def gpus(self) -> int:
        """Accelerators of one replica."""
        return self.tp * self.pp * self.ep


@dataclass(frozen=True)
class ServingResult:
    """Whole nodes of replicas that serve a load at its busiest time, and their cost."""

    replica: Replica  # each of them at the busiest time
    replicas: int  # that the nodes hold
    nodes: int  # that the busiest time needs, whole
    gpus: int  # of all these nodes, which are paid for
    most_requests_per_s: float  # that all replicas answer in time
    busy_share: float  # the day's mean over that
    usd_per_day: float  # of the whole nodes, day and night
    usd_per_million_tokens: float  # of prompts and answers
    usd_per_million_tokens_out: float  # of answers alone, which bear all of it
