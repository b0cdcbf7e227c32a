"""Owned hardware beside what is for rent: the capital it takes, and when it has paid off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from orchestrator.config.catalog import read_all
from orchestrator.config.choices import THIS_MACHINE
from orchestrator.config.origin import base_of
from orchestrator.config.schema import Config, PriceKind
from orchestrator.errors import ConfigError
from orchestrator.plan.forecast.owning import BreakEven, Ownership, break_even
from orchestrator.plan.forecast.price import can_be_owned, is_offered, offers, ownership
from orchestrator.plan.sizing.limits import RunCandidate

NOT_OFFERED = (
    "nobody rents at their price, which is an {} (cluster=… plans on one all the same, and"
    " cluster.price.quality=quote says that you were offered it)"
)


@dataclass(frozen=True)
class Rent:
    """What a cluster asks for one accelerator on demand."""

    cluster: str  # its name
    gpu: str  # name of the accelerator
    usd_per_gpu_hour: float  # of one of them
    source: str  # where the price comes from


@dataclass(frozen=True)
class AgainstRent:
    """An owned accelerator beside the same one for rent."""

    rent: Rent
    break_even: BreakEven


@dataclass(frozen=True)
class OwnedRun:
    """A run on hardware that has to be bought first. ``against`` is the cheapest rent of the same accelerator
    first; it is empty where nobody rents it."""

    run: RunCandidate
    ownership: Ownership
    capital_usd: float
    against: tuple[AgainstRent, ...]


@dataclass(frozen=True)
class OwnedCluster:
    """A cluster whose hardware can be bought, beside what asks rent for the same. ``against`` has the
    cheapest rent first; it is empty where nobody rents it."""

    config: Config
    ownership: Ownership
    against: tuple[AgainstRent, ...]


@dataclass(frozen=True)
class OwnAnswer:
    """``owned`` by the name of their clusters; ``left_out`` are clusters that could not be read, and why."""

    owned: tuple[OwnedCluster, ...]
    left_out: Mapping[str, str]


def answer(composed: DictConfig, words: Sequence[str]) -> OwnAnswer:
    """Owning against renting: of the cluster that is named, or of all that can be owned.

    Raises :class:`ConfigError` for a cluster without the figures of owning.
    """
    base = base_of(composed)
    given = any(word.lstrip("+").startswith("cluster=") for word in words)
    rents = rents_of(all_clusters(composed))
    if given or base.cluster.name != THIS_MACHINE:
        return OwnAnswer((_owned(base, rents),), {})
    prices = {key: value for key, value in overrides(words).items() if key.startswith("cluster.price.")}
    machines, left_out = read_all(composed, prices, nodes_needed=False)
    found = [Config(cluster=one.cluster, gpu=one.gpu, fabric=one.fabric) for one in machines.values()]
    return OwnAnswer(
        tuple(_owned(one, rents) for one in found if can_be_owned(one.cluster.price, one.gpu)), left_out
    )


def _owned(config: Config, rents: Iterable[Rent]) -> OwnedCluster:
    price, gpu = config.cluster.price, config.gpu
    if not can_be_owned(price, gpu):
        raise ConfigError(
            f"own=true: cluster={config.cluster.name} has no figures of owning; set"
            " cluster.price.capex_usd_per_gpu, lifetime_years, pue and electricity_usd_per_kwh, or choose a"
            " cluster that has them, e.g. cluster=dgx_h100"
        )
    owned = ownership(price, gpu)
    return OwnedCluster(config, owned, against(owned, gpu.name, rents))


def all_clusters(composed: DictConfig) -> list[Config]:
    """Those of ``conf/cluster`` as their files have them, whatever the command line says of one."""
    machines, _ = read_all(composed, {}, nodes_needed=False)
    return [Config(cluster=one.cluster, gpu=one.gpu, fabric=one.fabric) for one in machines.values()]


def overrides(words: Sequence[str]) -> dict[str, Any]:
    """What a command line sets, by key."""
    parsed = OverridesParser.create().parse_overrides(
        [word for word in words if "=" in word and not word.startswith("-")]
    )
    return {entry.key_or_group: entry.value() for entry in parsed}


def rents_of(configs: Iterable[Config]) -> list[Rent]:
    """What is for rent on demand at a list price or a quote, cheapest first."""
    found = []
    for config in configs:
        price = config.cluster.price
        if price.kind is PriceKind.list and is_offered(price):
            try:
                offer = offers(price, config.gpu)[0]
            except ConfigError:  # its price is incomplete, which the plan on it says
                continue
            if offer.usd_per_gpu_hour > 0:
                found.append(Rent(config.cluster.name, config.gpu.name, offer.usd_per_gpu_hour, offer.source))
    return sorted(found, key=lambda rent: (rent.usd_per_gpu_hour, rent.cluster))


def against(owned: Ownership, gpu: str, rents: Iterable[Rent]) -> tuple[AgainstRent, ...]:
    """Beside each rent of the same accelerator, the cheapest first."""
    return tuple(
        AgainstRent(rent, break_even(owned, rent.usd_per_gpu_hour)) for rent in rents if rent.gpu == gpu
    )


def compare(run: RunCandidate, rents: Iterable[Rent]) -> OwnedRun:
    """With the capital of all its nodes, which the run's dollars are a part of."""
    config = run.config
    owned, capital_usd = ownership(config.cluster.price, config.gpu), run.prediction.costs[0].capital_usd
    assert capital_usd is not None
    return OwnedRun(
        run=run,
        ownership=owned,
        capital_usd=capital_usd,
        against=against(owned, config.gpu.name, rents),
    )
