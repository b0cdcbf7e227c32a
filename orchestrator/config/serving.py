"""The keys of serving, part of the schema."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ServeConfig:
    """A load for a trained model, which ``plan serve=MODEL`` answers with accelerators and dollars a day.
    ``requests_per_day``, ``tokens_in``, ``tokens_out``, ``peak_to_mean``, ``ttft_s`` and ``tpot_s`` may be
    typed without ``serve.``"""

    # 'plan' then answers what serving takes; serve=MODEL sets it, and model=MODEL. serve=auto leaves the
    # model to a budget
    asked: bool = False
    requests_per_day: float | None = None  # on the mean day, above 0 to 1e12
    tokens_in: float | None = None  # of a prompt, mean, 1 to 1e7
    tokens_out: float | None = None  # of an answer, mean, 1 to 1e7
    # rate of the busiest time over the mean, 1 to 100. SemiAnalysis counts servers half idle (The Inference
    # Cost of Search Disruption, February 2023)
    peak_to_mean: float = 2.0
    # to an answer's first token at the busiest time, mean, 0.001 to 3600; null is any. It and tpot_s are
    # MLPerf Inference's for Llama 2 70B served
    ttft_s: float | None = 2.0
    tpot_s: float | None = 0.2  # per token after it, mean, 0.0001 to 60; null is any
    precision: str = "bf16"  # of the weights: bf16, fp16, fp8; int8, int4 are computed with in 16 bits
    kv_precision: str = "bf16"  # of the key-value cache: bf16, fp16, fp8, int8, int4
    # of a token in one layer's cache, 1 to 1e6; null follows from the model's key-value heads. DeepSeek's
    # latent attention keeps 576
    kv_elements_per_layer: int | None = None
    memory_share: float = 0.9  # of a GPU's memory, for weights and cache, 0.1 to 1; vLLM's default
    max_batch: int = 256  # requests that a replica answers at once, 1 to 100000; vLLM's default
    prefill_tokens: int = 8192  # of prompts that are read in one pass, 1 to 1e7; of vLLM's server
    # of the roofline's speed that the software reaches, 0.05 to 1: the median of the medians of five
    # published tables (python -m benchmarks.serving_accuracy)
    software_share: float = 0.82
    days: float = 365.0  # of serving that a budget pays for beside the training, above 0 to 3650
