"""What a budget or a deadline can train, for programs."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, TypedDict

from orchestrator.cli.show.budget_command import command
from orchestrator.cli.show.owning import OwnershipJson, RentJson, ownership_json, rents_json
from orchestrator.config.schema import ModelConfig
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.serving.request import ServingResult
from orchestrator.plan.sizing.limits import RunCandidate, ServedModel
from orchestrator.plan.sizing.scaling_law import ScalingLaw
from orchestrator.planner.budget import BudgetResult
from orchestrator.vocabulary import StateSharing


class ServedModelJson(TypedDict):
    """A trained model that is served for some days."""

    cluster: str  # that serves it, which need not be the one that trains it
    days: float  # of serving
    usd: float  # of all these days
    price_usd_per_gpu_hour: float  # of one accelerator
    result: Annotated[dict[str, Any], ServingResult]  # what serves it at the busiest time


class RunCandidateJson(TypedDict):
    """One run within the limits, interruptions included."""

    cluster: str  # name of the cluster
    nodes: int  # of it
    gpus: int  # of all these nodes
    gpu: str  # name of the GPU
    model: Annotated[dict[str, Any], ModelConfig]  # its shape, by the keys of the configuration
    parameters: int  # of the model, embedding and head included
    tokens: int  # to train on
    tokens_per_parameter: float  # tokens over parameters
    # above 1 the model is trained for longer than is the best use of the FLOPs
    share_of_compute_optimal_tokens: float
    predicted_loss_nats_per_token: float  # by the scaling law
    steps: int | None  # of the whole run; null where it is not predicted
    batch_sequences: int  # of one step
    batch_tokens: int  # of one step
    layout: Annotated[dict[str, Any], Layout]  # how the ranks share the work
    step_time_s: float | None  # predicted; null where it is not
    mfu: float | None  # model FLOPs over the dense peak, 0 to 1; null where it is not predicted
    days: float  # of the whole run
    gpu_hours: float | None  # of the whole run; null where they are not predicted
    cost_usd: float  # expected
    cost_low_usd: float  # with few interruptions and fast steps
    cost_high_usd: float  # with many interruptions and slow steps
    price_kind: str  # how it is paid: `list`, `reserved`, `spot` or `owned`
    # what the price is worth: `list`, `quote`, `estimate` or `assumption`
    price_quality: str
    price_usd_per_gpu_hour: float  # of one accelerator
    price_source: str  # where the price comes from
    served: ServedModelJson | None  # what the budget pays for beside it; null where no load is given
    total_usd: float  # training, and serving where it is paid for too
    command: str  # what plans this run in detail, to be typed


class OwnedRunJson(TypedDict):
    """A run on hardware that has to be bought first."""

    run: RunCandidateJson  # with its share of what the hardware costs
    capital_usd: float  # that buys all of its nodes
    ownership: OwnershipJson  # what one accelerator costs
    against: list[RentJson]  # cheapest rent first; empty where nobody rents the same accelerator


class BudgetResultJson(TypedDict):
    """What ``plan budget_usd=… --json`` and ``plan deadline_days=… --json`` print."""

    budget_usd: float | None  # what the run may cost; null where no budget was given
    # the deadline, given or assumed; null where the nodes are given and no deadline is
    within_days: float | None
    deadline_was_given: bool  # false where one is assumed, as neither it nor the nodes were given
    model_was_given: bool  # false where a size of a ladder is chosen
    scaling_law: Annotated[dict[str, Any], ScalingLaw]  # what the losses are predicted by
    # the best run of each cluster that is for rent, best loss first; of a cluster that was named, or where
    # none is for rent, of what there is
    options: list[RunCandidateJson]
    owned: list[OwnedRunJson]  # the best run on each that has to be bought first, best loss first
    sooner: list[RunCandidateJson]  # the winner's with other numbers of nodes, which end sooner
    # what the winner's nodes could train of any size; null where no model was given
    any_size: RunCandidateJson | None
    clusters_left_out: dict[str, str]  # why, by cluster
    resume: str  # how the script goes on from a checkpoint, in words; empty where nobody has looked at it
    # who makes its ranks share their states: `deepspeed`, `ddp`, `fsdp` or `unknown`, as its source says
    states: StateSharing
    states_by: str  # what says so; empty where an argument names a DeepSpeed file, or nothing does


def answer_json(found: BudgetResult) -> BudgetResultJson:
    """The same for programs; losses are in nats per token."""
    limits = found.asked.limits
    return {
        "budget_usd": limits.usd,
        "within_days": limits.days,
        "deadline_was_given": not found.asked.days_assumed,
        "model_was_given": found.asked.model_given,
        "scaling_law": dataclasses.asdict(found.law),
        "options": [_option_json(found, option) for option in found.options],
        "owned": [
            {
                "run": _option_json(found, one.run),
                "capital_usd": one.capital_usd,
                "ownership": ownership_json(one.ownership),
                "against": rents_json(one.against),
            }
            for one in found.owned
        ],
        "sooner": [_option_json(found, option) for option in found.sooner],
        "any_size": None if found.any_size is None else _option_json(found, found.any_size),
        "clusters_left_out": dict(found.left_out),
        "resume": found.script.resume,
        "states": found.script.shared.how,
        "states_by": found.script.shared.by,
    }


def _option_json(found: BudgetResult, option: RunCandidate) -> RunCandidateJson:
    run, layout, cost = option.prediction, option.candidate.layout, option.prediction.costs[0]
    return {
        "cluster": option.config.cluster.name,
        "nodes": layout.nodes,
        "gpus": layout.ranks,
        "gpu": option.config.gpu.name,
        "model": dataclasses.asdict(option.model),
        "parameters": option.parameters,
        "tokens": option.tokens,
        "tokens_per_parameter": option.tokens / option.parameters,
        "share_of_compute_optimal_tokens": option.share_of_optimal_tokens,
        "predicted_loss_nats_per_token": option.loss,
        "steps": run.steps,
        "batch_sequences": layout.global_batch,
        "batch_tokens": layout.global_batch * option.model.seq_len,
        "layout": dataclasses.asdict(layout),
        "step_time_s": run.step_time_s,
        "mfu": run.mfu,
        "days": option.days,
        "gpu_hours": run.gpu_hours,
        "cost_usd": cost.usd,
        "cost_low_usd": cost.low_usd,
        "cost_high_usd": cost.high_usd,
        "price_kind": cost.kind,
        "price_quality": option.config.cluster.price.quality.value,
        "price_usd_per_gpu_hour": cost.usd_per_gpu_hour,
        "price_source": cost.source,
        "served": None if option.served is None else _served_json(option.served),
        "total_usd": option.total_usd,
        "command": command(found, option),
    }


def _served_json(served: ServedModel) -> ServedModelJson:
    return {
        "cluster": served.config.cluster.name,
        "days": served.days,
        "usd": served.cost_usd,
        "price_usd_per_gpu_hour": served.usd_per_gpu_hour,
        "result": dataclasses.asdict(served.result),
    }
