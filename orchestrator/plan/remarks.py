"""What a plan remarks on: possible, and hardly what anybody wants; and what had to be assumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from orchestrator.config.choices import THIS_MACHINE, Framework
from orchestrator.config.placeholders import DEEPSPEED_CONFIG, asks_for
from orchestrator.config.schema import Config
from orchestrator.plan.arguments import words_of
from orchestrator.plan.forecast.prediction import COMMUNICATION, Prediction
from orchestrator.plan.forecast.price import no_price, remark_on
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.perf.machine import Machine
from orchestrator.text import bytes_in_words, count, hours_in_words, percent

# Up to four epochs are nearly as good as new data, and many more hardly teach anything (Muennighoff et al.
# 2023, "Scaling Data-Constrained Language Models", arXiv 2305.16264).
MOST_EPOCHS = 4
LOOPBACK = "loopback"
YEAR_HOURS = 365.25 * 24
LEAST_GOODPUT = 0.8
# More than one file server writes.
ASK_STORAGE_BYTES_PER_S = 10e9
# Checkpoints that take more of the storage than this leave too little to all else that uses it.
MOST_OF_STORAGE = 0.5
# Of a step, from which on ranks wait for each other more than they compute.
MUCH_COMMUNICATION = 0.5
# The largest published run that the planner was measured beside (Megatron-Core on H100).
MOST_PUBLISHED_GPUS = 6144


def remarks_of(
    config: Config, layout: Layout, prediction: Prediction, corpus_tokens: int | None
) -> Iterator[str]:
    """One line each."""
    if config.cluster.assumed:
        yield f"hypothetical hardware: {config.cluster.assumed}"
    yield from _of_price(config)
    yield from _of_builds(config)
    yield from _of_framework(config)
    yield from _of_loopback(config, layout)
    if prediction.step_time_error is not None and layout.ranks > MOST_PUBLISHED_GPUS:
        yield (
            f"{layout.ranks:,} {config.gpu.unit}s: no published run that the planner was measured beside had"
            f" more than {MOST_PUBLISHED_GPUS:,}; expect it to be slower"
        )
    yield from _of_communication(config, layout, prediction)
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
    if limit is not None and need > MOST_OF_STORAGE * limit:
        yield (
            f"checkpoints take {need / limit:.0%} of the {bytes_in_words(limit)}/s that the storage takes"
            " (cluster.storage_bytes_per_s), day and night: little else gets through beside them; use faster"
            " storage, or have the job save less often"
        )
    if limit is None and need >= ASK_STORAGE_BYTES_PER_S:
        yield (
            f"checkpoints need {bytes_in_words(need)}/s of storage that all nodes share, and nobody has said"
            " what it takes: cluster.storage_bytes_per_s=… plans with that"
        )


def _of_price(config: Config) -> Iterator[str]:
    """Nobody is billed for this machine, and there is nothing to ask about a price that is not known."""
    cluster = config.cluster
    if cluster.name == THIS_MACHINE or no_price(cluster, config.gpu):
        return
    if (remark := remark_on(cluster.price)) is not None:
        yield remark


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


def _of_framework(config: Config) -> Iterator[str]:
    """Of a script that is handed a DeepSpeed file, and a plan of what it does not train with."""
    job = config.job
    if job.framework is not Framework.deepspeed and asks_for(DEEPSPEED_CONFIG, words_of(job)):
        yield (
            f"job.framework={job.framework.value}, and the script of job '{job.name}' takes a DeepSpeed file:"
            " this plan is of another script, named with job.script=…"
        )


def _of_loopback(config: Config, layout: Layout) -> Iterator[str]:
    if config.fabric.name == LOOPBACK and layout.nodes > 1:
        yield (
            f"fabric={LOOPBACK} reaches no other node: planned as if {layout.nodes:,} nodes spoke TCP over"
            f" their adapters; write fabric=ethernet for that, or leave it out for those of"
            f" cluster={config.cluster.name}"
        )


def _of_communication(config: Config, layout: Layout, prediction: Prediction) -> Iterator[str]:
    """Of ranks that send more than they compute, in a layout that somebody has written down."""
    step = prediction.step
    if step is None or config.layout.auto:
        return
    sent_s = sum(getattr(step, name) for name in COMMUNICATION)
    if sent_s <= MUCH_COMMUNICATION * step.total_s:
        return
    other = "" if layout.tp * layout.pp > 1 else ", and says what tensor and pipeline parallelism would bring"
    yield (
        f"communication takes {percent(sent_s / step.total_s)} of a step: layout=auto looks for the layout"
        f" whose step is the shortest{other}"
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
