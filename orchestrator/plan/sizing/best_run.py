"""The best run on one cluster: size, tokens, nodes and layout together.

The loss of a scaling law is minimised over a ladder of shapes. How many tokens the money buys for each is no
6 N D but the planner's own step time on that many nodes, in the best layout that fits, with interruptions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

from orchestrator.config.schema import Config, ModelConfig
from orchestrator.errors import ClusterNotPlannable, ConfigError
from orchestrator.plan.forecast.prediction import Prediction, predict
from orchestrator.plan.forecast.price import offers
from orchestrator.plan.layout.deepspeed_rules import pipeline_degrees, tensor_degrees
from orchestrator.plan.perf.calibration import Calibration, Group
from orchestrator.plan.perf.likeness import Record
from orchestrator.plan.perf.machine import Machine
from orchestrator.plan.perf.transformer import parameters
from orchestrator.plan.search.search import explore
from orchestrator.plan.search.space import Candidate, Space, Subject, best_of
from orchestrator.plan.sizing.limits import LEAST_HOURS as LEAST_HOURS
from orchestrator.plan.sizing.limits import Freedom, Limits, RunCandidate, ServedModel
from orchestrator.plan.sizing.scaling_law import CHINCHILLA, ScalingLaw, batch_sequences
from orchestrator.text import typed

# Degrees that are looked at (layout=auto, with one model and cluster, looks at all), and those with which
# sizes are compared.
Degrees = Mapping[str, tuple[int, ...]]
# What a model takes to be served, for which the limits pay too; None where nothing serves it.
Serving = Callable[[ModelConfig], ServedModel | None]
DEGREES: Degrees = {"tp": (1, 2, 4, 8), "pp": (1, 2, 4, 8)}
SKETCHED: Degrees = {"tp": (1, 8), "pp": (1, 4)}
PATIENCE = {True: 2, False: 1}  # with more nodes than needed, and with too few to spend everything in time
STRIDE = 4  # of the first look at the ladder
USUAL_SHARE = 0.6  # of a large product's rate, to begin with the right size


class ClusterOptimizer:
    """Runs on one cluster within the limits. `config` gives cluster, prices, precision and constants.

    Raises :class:`ConfigError` where the chosen kind of price lacks a figure, and where nothing limits a run.
    """

    def __init__(
        self,
        config: Config,
        precision: str,
        limits: Limits,
        freedom: Freedom,
        calibrations: Mapping[Group, Calibration],
        law: ScalingLaw = CHINCHILLA,
        serving: Serving | None = None,
    ) -> None:
        self.config, self.precision, self.limits, self.freedom = config, precision, limits, freedom
        self.calibrations, self.law, self._serving = calibrations, law, serving
        self._offer = offers(config.cluster.price, config.gpu)[0]
        self.usd_per_gpu_hour = self._offer.usd_per_gpu_hour  # when it begins
        if limits.days is None and not self.usd_per_gpu_hour:
            raise ClusterNotPlannable.of(
                config.cluster.name,
                f"costs nothing, so that budget_usd={typed(limits.usd)} is no limit; set deadline_days=… too",
            )
        self._machine = Machine.of_config(config)
        # Sums over all published runs, which a search asks for with each of its thousands of predictions.
        self._likeness_of = functools.cache(Record.of(config.planner).likeness)

    def best(self, shapes: Sequence[ModelConfig], node_counts: Sequence[int]) -> list[RunCandidate]:
        """The best size for each number of nodes that is worth a look, best loss first; empty where nothing
        fits.

        First the fewest that can use up the money in time, then more of them, which buys no more hours but
        less waiting, and then fewer, which leaves money over: each way until that has not helped `PATIENCE`
        times.
        """
        ordered = sorted(node_counts, key=lambda nodes: (-self._gpu_hours(nodes), nodes))
        most = self._gpu_hours(ordered[0])
        found: list[RunCandidate] = []
        start = None
        for spends_all, patience in PATIENCE.items():
            for nodes in ordered:
                if patience and (self._gpu_hours(nodes) >= most * (1 - 1e-9)) is spends_all:
                    best, start = self._best_size(shapes, nodes, start)
                    if best is not None:
                        patience -= any(best.loss >= option.loss for option in found)
                        found.append(best)
        return sorted(found, key=lambda option: (option.loss, option.days))

    def option(self, model: ModelConfig, nodes: int, degrees: Degrees = DEGREES) -> RunCandidate | None:
        """The longest run of `model` within the limits, in the layout whose step is the shortest; None where
        nothing fits, interruptions leave nothing, or it would be shorter than `LEAST_HOURS`."""
        served = None if self._serving is None else self._serving(model)
        limits = self._left_by(served)
        if limits is None:
            return None
        candidate = self.layout(model, nodes, degrees)
        if candidate is None:
            return None
        cluster = dataclasses.replace(self.config.cluster, nodes=nodes)
        config = dataclasses.replace(self.config, cluster=cluster, model=model)
        fitted = self._longest(config, candidate, limits)
        if fitted is None or (fitted.hours or 0.0) < LEAST_HOURS * (1 - 1e-9):
            return None
        assert fitted.tokens is not None
        size = parameters(model)
        job = dataclasses.replace(config.job, steps=fitted.steps, global_batch=candidate.layout.global_batch)
        return RunCandidate(
            config=dataclasses.replace(config, job=job),
            candidate=candidate,
            prediction=fitted,
            parameters=size.total,
            law_parameters=size.active_with_embedding,
            tokens=fitted.tokens,
            loss=self.law.loss(size.active_with_embedding, fitted.tokens),
            law=self.law,
            served=served,
        )

    def layout(self, model: ModelConfig, nodes: int, degrees: Degrees = DEGREES) -> Candidate | None:
        """The fastest layout that DeepSpeed runs and that fits; None without one."""
        space = self._space(model, nodes, degrees)
        if space is None:
            return None
        cluster, gpu = self.config.cluster, self.config.gpu
        group = Group(cluster.name, gpu.name, self.precision, nodes > 1)
        calibration = self.calibrations.get(group)
        subject = Subject(
            model, gpu, self._machine, self.config.planner, cluster.host_memory_bytes, calibration
        )
        fitting = explore(space, subject).fitting
        return best_of(fitting) if fitting else None

    def least_usd(self, model: ModelConfig, node_counts: Sequence[int]) -> tuple[float, int] | None:
        """Dollars of `LEAST_HOURS` on the fewest nodes that `model` fits, and of serving it, and how many
        those nodes are."""
        nodes = next((count for count in sorted(node_counts) if self.layout(model, count) is not None), None)
        served = None if self._serving is None else self._serving(model)
        beside_usd = 0.0 if served is None else served.cost_usd
        return None if nodes is None else (self._usd_per_hour(nodes) * LEAST_HOURS + beside_usd, nodes)

    def _best_size(
        self, shapes: Sequence[ModelConfig], nodes: int, start: int | None
    ) -> tuple[RunCandidate | None, int | None]:
        if self.limits.hours(self._gpus(nodes), self._offer) < LEAST_HOURS:
            return None, start
        stride = STRIDE if start is None else 1  # other numbers of nodes have about the same best size
        if start is None:
            start = self._likely_size(shapes, nodes)
        known: dict[int, RunCandidate | None] = {}

        def loss(place: int) -> float:
            if place not in known:
                known[place] = self.option(shapes[place], nodes, SKETCHED)
            option = known[place]
            return option.loss if option is not None else math.inf

        place = climb(loss, len(shapes), start, stride)
        if known[place] is None:
            return None, start
        full = self.option(shapes[place], nodes) if self.freedom.able else None
        return full or known[place], place

    def _likely_size(self, shapes: Sequence[ModelConfig], nodes: int) -> int:
        seconds = 3600 * min(self._gpu_hours(nodes), 1e12)
        flops = seconds * self._machine.sustained_flops(self.precision) * USUAL_SHARE
        wanted = self.law.optimal_parameters(flops)
        return min(
            range(len(shapes)),
            key=lambda i: abs(math.log(parameters(shapes[i]).active_with_embedding / wanted)),
        )

    def _left_by(self, served: ServedModel | None) -> Limits | None:
        """What the training may take; None where nothing serves the model, or nothing is left."""
        if self._serving is None or self.limits.usd is None:
            return self.limits
        if served is None or served.cost_usd >= self.limits.usd:
            return None
        return dataclasses.replace(self.limits, usd=self.limits.usd - served.cost_usd)

    def _longest(self, config: Config, candidate: Candidate, limits: Limits) -> Prediction | None:
        """The prediction with as many steps as the limits allow."""
        layout, step = candidate.layout, candidate.step
        hours = limits.hours(layout.ranks, self._offer)
        steps = int(hours * 3600 / step.total_s)
        while steps >= 1:
            job = dataclasses.replace(config.job, steps=steps)
            try:
                run = predict(dataclasses.replace(config, job=job), layout, step, None, self._likeness_of)
            except ConfigError:  # the site's power, or interruptions that leave nothing
                return None
            assert run.hours is not None
            assert run.cost_usd is not None
            over = max(run.hours / (limits.days * 24) if limits.days else 0.0,
                       run.cost_usd / limits.usd if limits.usd else 0.0)  # fmt: skip
            if over <= 1:
                return run
            steps = min(steps - 1, int(steps / over))
        return None

    def _space(self, model: ModelConfig, nodes: int, looked_at: Degrees) -> Space | None:
        free, per_node = self.freedom, self.config.cluster.gpus_per_node
        ranks = nodes * per_node
        possible = {"tp": tensor_degrees(model, per_node), "pp": pipeline_degrees(model)}
        degrees = {
            name: tuple(d for d in found if d in looked_at[name]) if name in free.able else (1,)
            for name, found in possible.items()
        }
        degrees |= {name: (value,) for name, value in free.fixed.items()}
        batch = free.global_batch or batch_sequences(model, ranks)
        if batch is None:
            return None
        return Space(
            nodes=nodes,
            ranks_per_node=per_node,
            global_batch=batch,
            precision=self.precision,
            tp=degrees["tp"],
            pp=degrees["pp"],
            sp=degrees.get("sp", (1,)),
            ep=degrees.get("ep", (1,)),
            recompute=free.recompute,
            shardings=free.shardings,
            micro_batch=free.micro_batch,
        )

    def _gpus(self, nodes: int) -> int:
        return nodes * self.config.cluster.gpus_per_node

    def _usd_per_hour(self, nodes: int) -> float:
        return self._gpus(nodes) * self.usd_per_gpu_hour

    def _gpu_hours(self, nodes: int) -> float:
        gpus = self._gpus(nodes)
        hours = self.limits.hours(gpus, self._offer)
        return gpus * hours if hours >= LEAST_HOURS else 0.0


def climb(loss: Callable[[int], float], count: int, start: int, stride: int = STRIDE) -> int:
    """Where `loss` of 0 … `count` - 1 is least: every `stride`-th place and `start`, then around the best of
    them.

    `loss` mostly falls and rises once, with steps where another layout begins to fit; what does not fit is
    infinite.
    """
    coarse: list[int] = sorted({*range(0, count, stride), start})
    best = min(coarse, key=loss)
    while True:
        near = [place for place in range(best - stride + 1, best + stride) if 0 <= place < count]
        better = min(near, key=lambda place: (loss(place), abs(place - best)))
        if loss(better) >= loss(best):
            return best
        best = better
