"""The keys of serving, part of the schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from orchestrator.config.ranges import Range

PerDay = Annotated[float, Range(0, 1e12, 1e6, above=True)]
Tokens = Annotated[float, Range(1, 1e7, 500)]
PeakToMean = Annotated[float, Range(1, 100, 2)]
FirstToken = Annotated[float, Range(1e-3, 3600, 2)]
EachToken = Annotated[float, Range(1e-4, 60, 0.2)]
Elements = Annotated[int, Range(1, 1_000_000, 576)]
MemoryShare = Annotated[float, Range(0.1, 1, 0.9)]
Batch = Annotated[int, Range(1, 100_000, 256)]
PassTokens = Annotated[int, Range(1, 10_000_000, 8192)]
SoftwareShare = Annotated[float, Range(0.05, 1, 0.82)]
ServedDays = Annotated[float, Range(0, 3650, 365, above=True)]

# Keys that may be typed without `serve.` before them.
SHORT_FOR_SERVING = ("requests_per_day", "tokens_in", "tokens_out", "peak_to_mean", "ttft_s", "tpot_s")


@dataclass
class ServeConfig:
    """A load for a trained model, which ``plan serve=MODEL`` answers with accelerators and dollars a day.
    ``requests_per_day``, ``tokens_in``, ``tokens_out``, ``peak_to_mean``, ``ttft_s`` and ``tpot_s`` may be
    typed without ``serve.``"""

    # 'plan' then answers what serving takes; serve=MODEL sets it, and model=MODEL. serve=auto leaves the
    # model to a budget
    asked: bool = False
    requests_per_day: PerDay | None = None  # on the mean day
    tokens_in: Tokens | None = None  # of a prompt, mean
    tokens_out: Tokens | None = None  # of an answer, mean
    # rate of the busiest time over the mean. SemiAnalysis counts servers half idle (The Inference
    # Cost of Search Disruption, February 2023)
    peak_to_mean: PeakToMean = 2.0
    # to an answer's first token at the busiest time, mean; null is any. It and tpot_s are
    # MLPerf Inference's for Llama 2 70B served
    ttft_s: FirstToken | None = 2.0
    tpot_s: EachToken | None = 0.2  # per token after it, mean; null is any
    precision: str = "bf16"  # of the weights: bf16, fp16, fp8; int8, int4 are computed with in 16 bits
    kv_precision: str = "bf16"  # of the key-value cache: bf16, fp16, fp8, int8, int4
    # of a token in one layer's cache; null follows from the model's key-value heads. DeepSeek's
    # latent attention keeps 576
    kv_elements_per_layer: Elements | None = None
    memory_share: MemoryShare = 0.9  # of a GPU's memory, for weights and cache; vLLM's default
    max_batch: Batch = 256  # requests that a replica answers at once; vLLM's default
    prefill_tokens: PassTokens = 8192  # of prompts that are read in one pass; of vLLM's server
    # of the roofline's speed that the software reaches: the median of the medians of five
    # published tables (python -m benchmarks.serving_accuracy)
    software_share: SoftwareShare = 0.82
    days: ServedDays = 365.0  # of serving that a budget pays for beside the training
