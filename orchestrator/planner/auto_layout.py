"""``layout=auto``: the search's choice, made in what Hydra composed, as if it had been typed.

The choice goes into the composed and unresolved configuration, because a job's arguments refer to it
(``${layout.recompute}``). What the command line names is kept, and the rest is searched.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from orchestrator.config import load
from orchestrator.config.choices import Framework
from orchestrator.config.deepspeed_keys import check_deepspeed
from orchestrator.config.deepspeed_values import AUTO
from orchestrator.config.origin import from_composed
from orchestrator.config.placeholders import asks_for, refers_to, texts_of
from orchestrator.config.schema import Config, LayoutConfig
from orchestrator.errors import ConfigError
from orchestrator.plan.layout.deepspeed_auto import BY_SCRIPT, filled
from orchestrator.plan.layout.deepspeed_rules import (
    expert_degrees,
    pipeline_degrees,
    sequence_degrees,
    tensor_degrees,
)
from orchestrator.plan.layout.framework_rules import LEAST_STAGE
from orchestrator.plan.layout.layout import Layout, check_values, derive_layout, precision_of
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.baseline import group_of
from orchestrator.plan.perf.machine import Machine, unrecorded
from orchestrator.plan.search.divided import INTERLEAVED, OtherScript, context_degrees, search_with_hint
from orchestrator.plan.search.search import Search
from orchestrator.plan.search.space import Sharding, Space, Subject
from orchestrator.plan.sections import count_of
from orchestrator.planner.calibration_file import calibrations_of

_DEGREES = ("tp", "pp", "sp", "ep")
_MORE_DEGREES = ("cp", "vp")  # of Megatron and FSDP
_AGAIN = ("recompute", "selective")
_CHOICES = (*_AGAIN, "ep_overlap")
_FILES = ("zero0", "zero1", "zero2", "zero3", "zero3_offload")
# DeepSpeed would refuse a script's own optimizer beside offload, whichever it is (runtime/engine.py,
# _configure_optimizer); a script that brings none gets DeepSpeed's CPU Adam in any case.
_ANY_OPTIMIZER = "zero_force_ds_cpu_optimizer"
# DeepSpeed's names for the batch, which win over the job's.
_OWN_NAMES = {
    "micro_batch": "train_micro_batch_size_per_gpu",
    "gradient_accumulation": "gradient_accumulation_steps",
}


@dataclass(frozen=True)
class Choice:
    """``config`` has the choice applied, which ``search`` found in ``space`` for ``subject``; ``overrides``
    make the same without a search, ``kept`` were given."""

    config: Config
    search: Search
    space: Space
    subject: Subject
    overrides: tuple[str, ...]
    kept: tuple[str, ...]


def choose(composed: DictConfig, words: Sequence[str]) -> Choice:
    """Search and apply. ``words``: the command line's overrides, whose keys are kept.

    Raises :class:`ConfigError` where nothing fits, and where no step time can be predicted.
    """
    config = load.load(composed)
    check_values(config)
    config = filled(config, script_fills=True)
    check_deepspeed(config.deepspeed, BY_SCRIPT)
    kept = _kept(composed, words)
    base = _base(config, kept)
    sections = {_as_composed(config): None} if "deepspeed" in kept else _shardings(base, config.job.framework)
    space, subject = _space(composed, config, base, kept, tuple(sections)), _subject(config, base)
    found = search_with_hint(space, subject, _other_script(composed, config, space, kept))
    best = found.best
    changes = _changes(config, best.layout, kept)
    chosen = copy.deepcopy(composed)
    with open_dict(chosen):
        for key, value in changes.items():
            OmegaConf.update(chosen, key, value)
        section = sections[best.sharding]
        if section is not None:
            chosen.deepspeed.zero_optimization = section
            if best.layout.offload:
                chosen.deepspeed[_ANY_OPTIMIZER] = False
    typed = tuple(f"{key}={str(value).lower()}" for key, value in changes.items())
    given = tuple(dict.fromkeys(itertools.chain.from_iterable(kept.values())))
    config = from_composed(chosen, tuple(words), searched=True)
    return Choice(config, found, space, subject, (*best.sharding.overrides, *typed), given)


def _kept(composed: DictConfig, words: Sequence[str]) -> dict[str, list[str]]:
    """What is not searched, and the overrides that name it; or DeepSpeed's section, if it spells batch sizes
    out."""
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    keys = {name: f"layout.{name}" for name in (*_DEGREES, *_MORE_DEGREES, *_CHOICES)} | {
        name: f"job.{name}" for name in _OWN_NAMES
    }
    kept = {name: [word for word in overrides if _key(word) == key] for name, key in keys.items()}
    kept["deepspeed"] = [
        word
        for word in overrides
        if _key(word) == "deepspeed" or _key(word).startswith("deepspeed.zero_optimization")
    ]
    if composed.deepspeed_file is not None:  # which an argument of the script may have named
        kept["deepspeed"] = kept["deepspeed"] or [f"deepspeed={composed.deepspeed_file}"]
    own = OmegaConf.to_container(composed.deepspeed, resolve=False)
    assert isinstance(own, dict)
    for name, theirs in _OWN_NAMES.items():
        if own.get(theirs) not in (None, AUTO) and not refers_to("job", own[theirs]):
            kept[name].append(f"deepspeed.{theirs}={own[theirs]}")
    return {name: named for name, named in kept.items() if named}


def _key(word: str) -> str:
    """``deepspeed.gradient_clipping`` of ``++deepspeed.gradient_clipping=1``."""
    return word.split("=", 1)[0].lstrip("+~").split("@", 1)[0]


def _as_composed(config: Config) -> Sharding:
    return Sharding(Zero.from_config(config.deepspeed))


def _base(config: Config, kept: Mapping[str, object]) -> Layout:
    """Nodes, ranks and precision, and the degrees that are given. Raises :class:`ConfigError` where those are
    wrong."""
    if config.model is None:
        raise ConfigError(
            "layout=auto: nothing to choose by without a model; name one with model=…, or layout=default"
        )
    named = [name for name in (*_DEGREES, *_MORE_DEGREES, *_CHOICES) if name in kept]
    given = LayoutConfig(**{name: getattr(config.layout, name) for name in named})
    job = dataclasses.replace(config.job, micro_batch=1, gradient_accumulation=None, global_batch=None)
    stage = {"stage": LEAST_STAGE[config.job.framework]}
    derived = derive_layout(
        dataclasses.replace(config, layout=given, job=job, deepspeed={"zero_optimization": stage})
    )
    return dataclasses.replace(derived, precision=precision_of(config))


def can_recompute(composed: DictConfig, key: str = "recompute") -> bool:
    """Whether the job's script can be told to: its arguments refer to the key, or it knows every kind."""
    arguments = OmegaConf.to_container(composed.job.args)
    assert isinstance(arguments, dict)
    return composed.job.supports is None or asks_for(f"${{layout.{key}}}", texts_of(arguments))


def zero_section(name: str) -> dict[str, Any]:
    """``zero_optimization`` of a file of ``conf/deepspeed``."""
    body = OmegaConf.to_container(
        OmegaConf.load(load.conf_dir() / "deepspeed" / f"{name}.yaml"), resolve=False
    )
    assert isinstance(body, dict)
    section: dict[str, Any] = body["zero_optimization"]
    return section


def _shardings(base: Layout, framework: Framework) -> dict[Sharding, dict[str, Any] | None]:
    """Every ZeRO configuration of ``conf/deepspeed``, those with the optimizer alone offloaded, and ZeRO-3
    with a second copy of the weights within each node; with the section that each is. Of Megatron and FSDP
    those that say how they divide their states."""
    found: dict[Sharding, dict[str, Any] | None] = {}
    if framework is not Framework.deepspeed:
        for name in ("zero0", "zero1") if framework is Framework.megatron else ("zero2", "zero3"):
            section = zero_section(name)
            found[Sharding(Zero.from_config({"zero_optimization": section}), (f"deepspeed={name}",))] = (
                section
            )
        return found
    hpz = {"zero_hpz_partition_size": base.ranks_per_node}
    offload = {"offload_optimizer": {"device": "cpu", "pin_memory": True}}
    for name in _FILES:
        plain = zero_section(name)
        several = base.nodes > 1 and base.ranks_per_node > 1
        if name == "zero3_offload" or plain["stage"] == 0:
            additions: list[dict[str, Any]] = [{}]
        elif plain["stage"] == 3 and several:
            additions = [{}, offload, hpz, hpz | offload]
        else:
            additions = [{}, offload]
        for addition in additions:
            section = plain | addition
            words = [
                f"++deepspeed.zero_optimization.{key}={value}"
                for key, value in load.flatten(addition).items()
            ]
            words += [f"++deepspeed.{_ANY_OPTIMIZER}=false"] * ("offload_optimizer" in section)
            overrides = (f"deepspeed={name}", *(word.replace("=True", "=true") for word in words))
            found[Sharding(Zero.from_config({"zero_optimization": section}), overrides)] = section
    return found


def _space(
    composed: DictConfig,
    config: Config,
    base: Layout,
    kept: Mapping[str, object],
    shardings: tuple[Sharding, ...],
) -> Space:
    model, job = config.model, config.job
    assert model is not None
    names = (*_DEGREES, *_MORE_DEGREES)
    able = names if job.supports is None else job.supports
    free = {
        "tp": tensor_degrees(model, base.ranks_per_node),
        "pp": pipeline_degrees(model),
        "sp": sequence_degrees(model),
        "ep": expert_degrees(model),
        "cp": (1,),
        "vp": (1,),
    }
    if job.framework is not Framework.deepspeed:
        free |= {"sp": [1], "cp": context_degrees(model), "vp": INTERLEAVED}
    degrees = {
        name: tuple(choices) if name in able and name not in kept else (getattr(base, name),)
        for name, choices in free.items()
    }
    chosen: dict[str, tuple[bool, ...]] = {key: (getattr(config.layout, key),) for key in _CHOICES}
    for key in _CHOICES if job.framework is not Framework.deepspeed else _AGAIN[:1]:
        if (job.supports is None or can_recompute(composed, key)) and key not in kept:
            chosen[key] = (False, True)
    micro_batch = count_of(config.deepspeed, "train_micro_batch_size_per_gpu") or job.micro_batch
    accumulation = count_of(config.deepspeed, "gradient_accumulation_steps") or job.gradient_accumulation
    total = count_of(config.deepspeed, "train_batch_size") or job.global_batch
    return Space(
        nodes=base.nodes,
        ranks_per_node=base.ranks_per_node,
        global_batch=total or micro_batch * (accumulation or 1) * base.dp,
        precision=base.precision,
        **degrees,
        recompute=chosen["recompute"],
        selective=chosen["selective"],
        shardings=shardings,
        micro_batch=micro_batch if "micro_batch" in kept else None,
        accumulation=accumulation if "gradient_accumulation" in kept else None,
        framework=job.framework,
        sequence_parallel=config.layout.sequence_parallel,
        ep_overlap=chosen["ep_overlap"],
        layers=model.layers,
    )


def _other_script(
    composed: DictConfig, config: Config, space: Space, kept: Mapping[str, object]
) -> OtherScript | None:
    """What a search for Megatron on the same machines would look through; None where this script divides the
    model itself, or something that is given does not go with another."""
    if space.framework is not Framework.deepspeed or not space.tp == space.pp == (1,):
        return None
    job = dataclasses.replace(config.job, framework=Framework.megatron, supports=None)
    there = dataclasses.replace(config, job=job)
    words: tuple[str, ...] = ("job.framework=megatron", "job.supports=null")
    try:
        base = _base(there, kept)
        shardings = tuple(_shardings(base, job.framework))
        if "deepspeed" in kept:  # DeepSpeed's own, which takes another word
            shardings, words = shardings[-1:], (*words, *shardings[-1].overrides)
        return OtherScript(words, _space(composed, there, base, kept, shardings), _subject(there, base))
    except ConfigError:
        return None


def _subject(config: Config, base: Layout) -> Subject:
    gpu, precision = config.gpu, base.precision
    missing = unrecorded(gpu, precision)
    if missing:
        raise ConfigError(
            f"layout=auto: no step time can be predicted for {gpu.name}, as it has no"
            f" {' and no '.join(missing)}; set that, choose a cluster with another gpu, or name the layout"
            " yourself (layout=default) and 'calibrate' after a run"
        )
    assert config.model is not None
    return Subject(
        model=config.model,
        gpu=gpu,
        machine=Machine.of_config(config),
        constants=config.planner,
        host_memory_bytes=config.cluster.host_memory_bytes,
        calibration=calibrations_of(config).get(group_of(config, base)),
    )


def _changes(config: Config, layout: Layout, kept: Mapping[str, object]) -> dict[str, Any]:
    """Keys whose composed values are not the choice's yet."""
    job = config.job
    wanted = {
        name: (f"layout.{name}", getattr(config.layout, name), getattr(layout, name))
        for name in (*_DEGREES, *_MORE_DEGREES, *_CHOICES)
    }
    wanted["micro_batch"] = ("job.micro_batch", job.micro_batch, layout.micro_batch)
    if job.gradient_accumulation is not None or job.global_batch is None:
        now = job.gradient_accumulation
        wanted["gradient_accumulation"] = ("job.gradient_accumulation", now, layout.accumulation)
    return {key: new for name, (key, now, new) in wanted.items() if name not in kept and now != new}
