"""What it costs that a run's nodes are in several racks or blocks, by the fabric's oversubscription."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError, near_miss
from orchestrator.plan.forecast.prediction import memory_and_calibration
from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.layout.units import nodes_of_unit
from orchestrator.plan.perf.calibration import Calibration, Group
from orchestrator.plan.perf.machine import NOT_SPREAD
from orchestrator.plan.perf.spread import LevelSpread, Spread
from orchestrator.plan.perf.step import StepTime
from orchestrator.topology.levels import levels_of
from orchestrator.topology.order import ordered
from orchestrator.topology.tree import Tree


@dataclass(frozen=True)
class Places:
    """Where the nodes of a planned run would be: in how many ``domains`` of each level, and how
    ``spread``."""

    domains: Mapping[str, int] = field(default_factory=dict)
    spread: Spread = NOT_SPREAD


@dataclass(frozen=True)
class Split:
    """A run that is split over several domains of a level, beside the same run in one."""

    level: str  # of the network: rack, block, …
    domains: int  # of it that the run's nodes are in
    oversubscription: float  # between them, as the fabric has it
    step_time_s: float  # of one step then
    together_step_time_s: float  # of one step in one domain
    more_usd: float | None  # of the whole run then; null where its cost is not predicted
    # whether the plan counts it, as a file says that the cluster has no room for the run in one; else it is
    # what would be if it were split in two
    planned: bool
    source: str  # of the oversubscription; empty where nobody has said

    @property
    def slowdown(self) -> float:
        """How many times longer a step takes."""
        return self.step_time_s / self.together_step_time_s


def places_of(config: Config, layout: Layout, tree: Tree | None) -> Places:
    """Where the run is, if the cluster whose nodes ``tree`` has is free. Raises :class:`ConfigError`."""
    known = [level.name for level in levels_of(config.cluster.topology.levels)]
    for name in config.fabric.oversubscription:
        if name not in known:
            raise ConfigError(
                f"fabric.oversubscription.{name}: is no level of the network{near_miss(name, known)} (they"
                f" are {', '.join(known)}); write one of those, or name it in cluster.topology.levels"
            )
    if tree is None or layout.nodes == 1:
        return Places()
    from orchestrator.topology.choose import choose  # NumPy, for which most plans need not wait

    unit = nodes_of_unit(layout)
    ratios = config.fabric.oversubscription
    chosen = choose(tree, list(tree.paths), layout.nodes, unit, oversubscription=ratios)
    if chosen is None:  # the file's reader has refused it
        return Places()
    nodes = ordered(tree, chosen, unit)
    levels = []
    for place, name in enumerate(tree.levels):
        numbers = {domain: number for number, domain in enumerate(tree.domains(place, nodes))}
        ratio = ratios.get(name, 1.0)
        if len(numbers) > 1 and ratio > 1:
            levels.append(LevelSpread(name, ratio, tuple(numbers[tree.paths[node][place]] for node in nodes)))
    return Places(tree.crossed(nodes), Spread(tuple(levels)))


def split_of(
    config: Config,
    layout: Layout,
    calibrations: Mapping[Group, Calibration],
    places: Places,
    step: StepTime | None,
    cost_usd: float | None,
) -> Split | None:
    """The split that is planned; where no file says where nodes are, one in two halves of the farthest level
    that is oversubscribed. None where there is no such level, or no step is predicted."""
    if step is None or layout.nodes == 1:
        return None
    if places.domains:
        if not places.spread.levels:
            return None
        level, planned = places.spread.levels[0], True
        apart_s, together = step.total_s, memory_and_calibration(config, layout, calibrations)[1]
        assert together is not None  # the same is predicted
        together_s = together.total_s
    else:
        found = _halves(config, layout)
        if found is None:
            return None
        level, planned = found, False
        apart = memory_and_calibration(config, layout, calibrations, Spread((level,)))[1]
        assert apart is not None
        apart_s, together_s = apart.total_s, step.total_s
    longer = apart_s / together_s - 1
    base_usd = None if cost_usd is None else cost_usd / (1 + longer if planned else 1)
    return Split(
        level=level.name,
        domains=len(set(level.domains)),
        oversubscription=level.oversubscription,
        step_time_s=apart_s,
        together_step_time_s=together_s,
        more_usd=None if base_usd is None else base_usd * longer,
        planned=planned,
        source=config.fabric.oversubscription_source,
    )


def _halves(config: Config, layout: Layout) -> LevelSpread | None:
    for level in levels_of(config.cluster.topology.levels):
        ratio = config.fabric.oversubscription.get(level.name, 1.0)
        if ratio > 1:
            half = (layout.nodes + 1) // 2
            return LevelSpread(level.name, ratio, tuple(int(at >= half) for at in range(layout.nodes)))
    return None
