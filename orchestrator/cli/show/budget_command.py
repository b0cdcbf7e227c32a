"""The command that plans in detail what a budget was found to allow."""

from __future__ import annotations

import shlex

from orchestrator.config.schema import ModelConfig
from orchestrator.plan.sizing.limits import RunCandidate
from orchestrator.planner.budget import DEFAULT_JOB, DEGREES, FREE_OF_SHAPE, BudgetResult
from orchestrator.redact import redact

SHAPE_OF = "llama3_8b"  # the option that a shape of the ladder differs from in size only
GENERAL_JOB = "pretrain"  # trains any model


def command(found: BudgetResult, option: RunCandidate) -> str:
    """What plans this option in detail, to be typed; with the command line's own words as far as they still
    hold."""
    asked, config, layout = found.asked, option.config, option.candidate.layout
    ours = {"budget_usd", "deadline_days", "cluster.nodes", "layout", "job.global_batch", "job.micro_batch"}
    if option is found.any_size or not asked.model_given:
        ours |= {"model", *(f"model.{name}" for name in FREE_OF_SHAPE)}
    kept = [
        word
        for word in asked.words
        if _key(word) not in ours
        and not _key(word).startswith("serve.")
        and not _key(word).startswith(("env.", "job.env."))
    ]
    if "job" not in asked.values and found.standing.job.name == DEFAULT_JOB:
        kept.append(f"job={GENERAL_JOB}")
    given = [] if asked.cluster_given else [f"cluster={found.choices[config.cluster.name]}"]
    given.append(f"cluster.nodes={layout.nodes}")
    if "model" in ours:
        given += _shape_words(option.model)
    given += option.candidate.sharding.overrides
    for name in (*DEGREES, "recompute"):
        value, standing = getattr(layout, name), getattr(found.standing.layout, name)
        if value != standing and f"layout.{name}" not in asked.values:
            given.append(f"layout.{name}={str(value).lower()}")
    if found.standing.job.gradient_accumulation is not None:
        given.append("job.gradient_accumulation=null")
    given += [f"job.global_batch={layout.global_batch}", f"job.micro_batch={layout.micro_batch}"]
    given.append(f"job.steps={option.prediction.steps}")
    return shlex.join(["python", "-m", "orchestrator", "plan", *(str(redact(word)) for word in kept), *given])


def _shape_words(model: ModelConfig) -> list[str]:
    words = [f"model={SHAPE_OF}", f"model.name={model.name}"]
    words += [
        f"model.{name}={getattr(model, name)}" for name in ("layers", "hidden", "heads", "kv_heads", "ffn")
    ]
    other = {
        name: getattr(model, name) for name, usual in FREE_OF_SHAPE.items() if getattr(model, name) != usual
    }
    words += [f"model.{name}={value}" for name, value in other.items()]
    return words + ["model.tie_embeddings=true"] * model.tie_embeddings


def _key(word: str) -> str:
    return word.split("=", 1)[0].lstrip("+~") if "=" in word and not word.startswith("-") else ""
