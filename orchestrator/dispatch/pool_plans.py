"""What a job would be in each pool that it may run in: a plan each, of the gang's size, its hours and its
dollars there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.config.schema import Config
from orchestrator.dispatch.fleet_file import PoolEntry
from orchestrator.dispatch.start_words import address_words, joined, shape_words
from orchestrator.driver.beforehand import remarks_before
from orchestrator.driver.planning import make_plan
from orchestrator.errors import ConfigError
from orchestrator.fleet.jobs import PoolPlan
from orchestrator.fleet.pools import Pool
from orchestrator.plan.forecast.failure_rates import Checkpoints
from orchestrator.plan.forecast.prediction import CHECKPOINT_BYTES_PER_PARAMETER
from orchestrator.plan.plan import Plan
from orchestrator.text import plural

# Of a published run's step time; a plan's hours depend on more than that.
_LEAST_ERROR, _UNKNOWN_ERROR = 0.1, 0.5

Compose = Callable[[Sequence[str]], Config]


def compose_words(words: Sequence[str]) -> Config:
    """The configuration that words mean."""
    from orchestrator.config.composing import compose

    return compose(*words)


@dataclass(frozen=True)
class Planned:
    """A job in one pool: what the queue keeps of it, the whole plan, what it was made of, and what there is
    to say of its start."""

    kept: PoolPlan
    plan: Plan
    config: Config
    remarks: tuple[str, ...] = ()


def plans_in(
    words: tuple[str, ...],
    pools: Sequence[PoolEntry],
    named: bool,
    compose: Compose,
    now: float,
    is_new: bool = False,
) -> list[Planned]:
    """A plan for each pool that can have the job, now or once it has grown. One that was not ``named`` may
    refuse it. Of a job that ``is_new`` it is asked as well what its run would be refused for at its start.

    Raises :class:`ConfigError` where none can, or a named one cannot.
    """
    composed: list[tuple[PoolEntry, Config]] = []
    found: list[Planned] = []
    refused: list[ConfigError] = []
    too_small: list[tuple[Pool, int]] = []
    for each in pools:
        try:
            config = compose(joined(each.words, words, address_words(each)))
        except ConfigError as error:
            if named or len(pools) == 1:
                raise
            refused.append(error)
            continue
        if (gpus := _gpus(config)) <= (largest := each.largest(now)).gpus:
            composed.append((each, config))
        else:
            too_small.append((largest, gpus))
    if too_small and (named or not (composed or refused)):
        _refuse_too_large(too_small)
    for each, config in composed:
        try:
            found.append(_planned(words, each, config, compose, is_new))
        except ConfigError as error:
            if named or len(composed) == 1:
                raise
            refused.append(error)
    if not found:
        raise refused[0]
    return found


def _gpus(config: Config) -> int:
    return config.cluster.nodes * config.cluster.gpus_per_node


def _planned(
    words: tuple[str, ...], each: PoolEntry, config: Config, compose: Compose, is_new: bool
) -> Planned:
    """As it lies on the nodes of the pool, which may be otherwise than it was composed."""
    pool, gpus = each.pool, _gpus(config)
    shape = shape_words(gpus, pool.gpus_per_node)
    if config.cluster.gpus_per_node != min(gpus, pool.gpus_per_node):
        config = compose(joined(each.words, words, (*shape, *address_words(each))))
    plan = make_plan(config, observed=False)
    remarks = remarks_before(config, plan) if is_new else []
    predicted, ranks = plan.prediction, plan.layout.ranks
    error = predicted.step_time_error
    load_s, memory_load_s = _loads_s(config, plan)
    kept = PoolPlan(
        pool.name,
        ranks,
        predicted.hours,
        max(error, _LEAST_ERROR) if error is not None else _UNKNOWN_ERROR,
        predicted.step_time_s,
        predicted.hours * ranks * pool.usd_per_gpu_hour if predicted.hours is not None else None,
        load_s,
        memory_load_s,
        _park_s(config),
    )
    return Planned(kept, plan, config, tuple(remarks))


def _loads_s(config: Config, plan: Plan) -> tuple[float | None, float | None]:
    """What loading a checkpoint takes: its bytes at the rate of the disks, and at that of nodes' memory."""
    if plan.model is None:
        return None, None
    loads = Checkpoints.of(
        CHECKPOINT_BYTES_PER_PARAMETER * plan.model.parameters, plan.layout.ranks, plan.layout.nodes,
        staged=True, storage_bytes_per_s=config.cluster.storage_bytes_per_s,
    )  # fmt: skip
    return loads.load_s, loads.stall_s


def _park_s(config: Config) -> float:
    """For how long nodes keep a snapshot in memory once the run has left."""
    stages = config.snapshot.enabled and any(one != "durable" for one in config.snapshot.dirs)
    return config.snapshot.park_s if stages and config.launch.zygote else 0.0


def _refuse_too_large(too_small: Sequence[tuple[Pool, int]]) -> None:
    """Says what the largest of these pools can have."""
    pools = sorted((pool for pool, _ in too_small), key=lambda pool: -pool.gpus)
    told = [
        f"{pool.name} has {pool.gpus} ({plural(pool.nodes, 'node')} of {pool.gpus_per_node})"
        for pool in pools
    ]
    most, asked = pools[0], " or ".join(dict.fromkeys(str(gpus) for _, gpus in too_small))
    of = f", of {most.name}" if len(pools) > 1 else ""
    raise ConfigError(
        f"cluster.nodes × cluster.gpus_per_node is {asked}, and pool {', '.join(told)}: it would wait for"
        f" ever; the largest that fits is cluster.nodes={most.nodes} cluster.gpus_per_node="
        f"{most.gpus_per_node}{of}"
    )
