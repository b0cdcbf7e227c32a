"""What a plan remarks on: possible, and hardly what anybody wants; and what had to be assumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from orchestrator.config.schema import Config
from orchestrator.plan.forecast.prediction import Prediction
from orchestrator.plan.perf.machine import Machine
from orchestrator.text import bytes_in_words, count, hours_in_words, percent

# Up to four epochs are nearly as good as new data, and many more hardly teach anything (Muennighoff et al.
# 2023, "Scaling Data-Constrained Language Models", arXiv 2305.16264).
MOST_EPOCHS = 4
YEAR_HOURS = 365.25 * 24
LEAST_GOODPUT = 0.8
# More than one file server writes.
ASK_STORAGE_BYTES_PER_S = 10e9


def remarks_of(config: Config, prediction: Prediction, corpus_tokens: int | None) -> Iterator[str]:
    """One line each."""
    if config.cluster.assumed:
        yield f"hypothetical hardware: {config.cluster.assumed}"
    yield from _of_builds(config)
    yield from _of_waiting(config, prediction)
    yield from _of_ep_overlap(config)
    yield from _of_epochs(prediction, corpus_tokens)
    run = prediction.forecast
    if run is None:
        return
    if run.wall_hours > YEAR_HOURS:
        yield (
            f"the run takes {hours_in_words(run.wall_hours)}, over a year: more nodes, a smaller model or"
            " fewer job.steps"
        )
    if run.goodput < LEAST_GOODPUT:
        yield (
            f"goodput {percent(run.goodput)}: interruptions and checkpoints take more than a fifth of the"
            " time; use fewer nodes, nodes that fail more rarely, or faster storage"
        )
    need, limit = run.storage_bytes_per_s, config.cluster.storage_bytes_per_s
    if limit is None and need >= ASK_STORAGE_BYTES_PER_S:
        yield (
            f"checkpoints need {bytes_in_words(need)}/s of storage that all nodes share, and nobody has said"
            " what it takes: cluster.storage_bytes_per_s=… plans with that"
        )


def not_built(config: Config) -> tuple[str, Any, Any] | None:
    """A choice of the model that the job's script does not make: its name, as wanted and as built."""
    for name, built in config.job.builds.items():
        wanted = getattr(config.model, name, built)
        if wanted != built:
            return name, wanted, built
    return None


def _of_builds(config: Config) -> Iterator[str]:
    found = not_built(config)
    if found is not None and config.model is not None:
        name, wanted, built = found
        yield (
            f"model={config.model.name} has {name}={json.dumps(wanted)}, and job '{config.job.name}' builds"
            f" {name}={json.dumps(built)} only: 'run' refuses it, and this plan is of a script that builds it"
        )


def _of_waiting(config: Config, prediction: Prediction) -> Iterator[str]:
    """Of a variable that is set to find a fault, and slows every step after that."""
    step = prediction.step
    if step is None or not Machine.of_config(config).waits_for_kernels:
        return
    alone_s = step.host_s + step.exposed_s
    yield (
        "CUDA_LAUNCH_BLOCKING makes the host wait for every kernel, and nothing travels beside computing: the"
        f" host and what ranks send take {percent(alone_s / step.total_s)} of a step; set it to 0 once the"
        " fault is found"
    )


def _of_ep_overlap(config: Config) -> Iterator[str]:
    if config.layout.ep_overlap and config.layout.recompute:
        yield (
            "layout.ep_overlap=true: Megatron-Core does not hide what experts send with full recomputation,"
            " and this plan is of software that does; layout.selective=true goes with it"
        )


def _of_epochs(prediction: Prediction, corpus_tokens: int | None) -> Iterator[str]:
    if not corpus_tokens or not prediction.tokens or prediction.tokens <= MOST_EPOCHS * corpus_tokens:
        return
    epochs = prediction.tokens / corpus_tokens
    yield (
        f"{count(prediction.tokens)} tokens are {epochs:,.0f} epochs of job.corpus, which has"
        f" {count(corpus_tokens)}: beyond {MOST_EPOCHS} the same text hardly teaches more (arXiv 2305.16264);"
        " name a larger job.corpus, or fewer job.steps"
    )
