"""``plan budget_usd=…`` and ``plan deadline_days=…``: which model to train, on which cluster, in which
layout."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from orchestrator.config import load
from orchestrator.config.catalog import read_all
from orchestrator.config.choices import THIS_MACHINE
from orchestrator.config.deepspeed_keys import check_deepspeed
from orchestrator.config.fabric_fit import fabric_misfit
from orchestrator.config.hardware_fit import as_hypothetical, misfit
from orchestrator.config.origin import with_some_nodes
from orchestrator.config.schema import Config, ModelConfig, PriceKind
from orchestrator.errors import ClusterNotPlannable, ConfigError
from orchestrator.plan.forecast.price import is_offered
from orchestrator.plan.layout.deepspeed_auto import BY_SCRIPT, filled
from orchestrator.plan.layout.layout import check_values, precision_of
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.machine import unrecorded
from orchestrator.plan.search.space import Sharding
from orchestrator.plan.sections import count_of
from orchestrator.plan.sharing import Sharing, with_sharing
from orchestrator.plan.sizing.best_run import LEAST_HOURS, ClusterOptimizer
from orchestrator.plan.sizing.limits import Freedom, Limits, RunCandidate
from orchestrator.plan.sizing.model_ladder import LLAMA_SEQ_LEN, LLAMA_VOCAB, ladder
from orchestrator.plan.sizing.scaling_law import CHINCHILLA, ScalingLaw
from orchestrator.planner.auto_layout import can_recompute, zero_section
from orchestrator.planner.calibration_file import calibrations_of
from orchestrator.planner.owning import NOT_OFFERED, OwnedRun, all_clusters, compare, overrides, rents_of
from orchestrator.planner.serving import ServedBeside, asks_to_serve, check_serving
from orchestrator.text import figure, typed
from orchestrator.vocabulary import StateSharing

# Without a deadline the fewest nodes are the cheapest, and would take years. Llama 3 405B took 54 days and
# more.
MOST_DAYS = 90.0
MOST_NODES = 2048  # 16,384 GPUs in nodes of eight: the largest run of Llama 3's report
DEFAULT_MODEL = DEFAULT_JOB = "tiny_gpt"  # of conf/config.yaml: nobody chose it
SOONER = 0.9  # of the best run's days, to be worth a word
LOSS_DIGITS = 3  # that are printed, and compared
FREE_OF_SHAPE = {"vocab": LLAMA_VOCAB, "seq_len": LLAMA_SEQ_LEN}  # of a ladder
DEGREES = ("tp", "pp", "sp", "ep")
_FILES = ("zero1", "zero3")
_BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu")
_CONTRADICTIONS = ("job.steps", "job.ranks", "job.gradient_accumulation")


@dataclass(frozen=True)
class BudgetRequest:
    """The command line's overrides by key, and what they leave open."""

    words: tuple[str, ...]
    values: Mapping[str, Any]
    limits: Limits
    nodes_given: bool
    cluster_given: bool
    model_given: bool
    days_assumed: bool  # nobody set a deadline


@dataclass(frozen=True)
class BudgetResult:
    """``options`` are the best of each cluster that can be rented, best loss first, or of what there is where
    none can; ``owned`` those on hardware that is bought first, with what that takes; ``sooner`` the winner's
    with other node counts; ``any_size`` is what the winner's cluster and nodes could train where the model
    was given."""

    asked: BudgetRequest
    options: tuple[RunCandidate, ...]
    owned: tuple[OwnedRun, ...]
    sooner: tuple[RunCandidate, ...]
    any_size: RunCandidate | None
    left_out: Mapping[str, str]  # clusters, and why
    data_parallel_only: bool
    standing: Config  # as the command line leaves it
    choices: Mapping[str, str]  # what to choose a cluster by, by its name
    law: ScalingLaw = CHINCHILLA
    script: LookAtScript = field(default_factory=lambda: LookAtScript())

    @property
    def best(self) -> RunCandidate:
        """The best run of all clusters."""
        return self.options[0]


@dataclass(frozen=True)
class LookAtScript:
    """What a plan knows of the script from its source: how it goes on from a checkpoint, who makes its ranks
    share their states, and what it hands to DeepSpeed by itself, None where that is not spelt out."""

    resume: str = ""
    shared: Sharing = field(default_factory=lambda: Sharing(StateSharing.DEEPSPEED))
    deepspeed: Mapping[str, Any] | None = None


def answer(composed: DictConfig, words: Sequence[str], look: LookAtScript | None = None) -> BudgetResult:
    """Look for the best run. ``words``: the command line. Raises :class:`ConfigError` where there is none."""
    look = look or LookAtScript()
    asked = _asked(composed, words)
    composed = with_some_nodes(composed)
    base = load.load(composed)
    if not asked.cluster_given:  # this machine, which may have no GPU, is not one of those compared
        base.cluster.gpus_per_node = max(1, base.cluster.gpus_per_node)
    check_values(base)
    if look.deepspeed is not None:
        base = dataclasses.replace(base, deepspeed=dict(look.deepspeed))
    base = with_sharing(filled(base, script_fills=True), look.shared)
    check_deepspeed(base.deepspeed, BY_SCRIPT)
    configs, left_out = {base.cluster.name: base}, dict[str, str]()
    if not asked.cluster_given:
        machines, left_out = read_all(composed, asked.values, nodes_needed=asked.limits.usd is None)
        configs = {
            name: dataclasses.replace(base, cluster=m.cluster, gpu=m.gpu, fabric=m.fabric)
            for name, m in machines.items()
        }
    if not (asked.cluster_given or composed.clusters):  # what is named is wanted, whatever its price
        for name in [name for name, config in configs.items() if _is_only_assumed(config)]:
            left_out[name] = NOT_OFFERED.format(configs.pop(name).cluster.price.quality.value)
    freedom, calibrations = _freedom(composed, base, asked, look), calibrations_of(base)
    shapes = _shapes(base, asked)
    beside = _served_beside(base, configs.values(), shapes[0], asked)
    markets = []
    for name, config in configs.items():
        try:
            config = as_hypothetical(config, words)
            if misfit(config) is not None:
                raise ClusterNotPlannable.of(name, "nodes cannot have such GPUs, or so many")
            if fabric_misfit(config) is not None:
                raise ClusterNotPlannable.of(name, f"nodes cannot have fabric={config.fabric.name}")
            precision = precision_of(config)
            _check_predictable(config, precision)
            serving = beside.on(config) if beside is not None and _is_owned(config) else beside
            markets.append(
                ClusterOptimizer(config, precision, asked.limits, freedom, calibrations, serving=serving)
            )
        except ConfigError as refused:
            left_out[name] = refused.why if isinstance(refused, ClusterNotPlannable) else str(refused)
            if asked.cluster_given:
                raise
    if not markets:
        ((why, _),) = Counter(left_out.values()).most_common(1)
        raise ConfigError(f"none of {len(left_out)} clusters can be planned on: {why}")
    found = [market.best(shapes, _node_counts(market.config, asked)) for market in markets]
    best = sorted((options[0] for options in found if options), key=_rank)
    if not best:
        raise ConfigError(_nothing(asked, markets, shapes))
    rented = [option for option in best if not _is_owned(option.config)]
    options = rented or best
    winner = next(of_one for of_one in found if of_one and of_one[0] is options[0])
    whole = None
    if asked.model_given:
        market = markets[found.index(winner)]
        whole = next(iter(market.best(ladder(), [options[0].config.cluster.nodes])), None)
    rents = rents_of(all_clusters(composed) if asked.cluster_given else configs.values())
    return BudgetResult(
        asked=asked,
        options=tuple(options),
        owned=tuple(compare(option, rents) for option in best if _is_owned(option.config)),
        sooner=tuple(
            sorted((o for o in winner[1:] if o.days < options[0].days * SOONER), key=lambda o: -o.days)
        ),
        any_size=whole,
        left_out=left_out,
        data_parallel_only=not freedom.able,
        standing=base,
        choices={config.cluster.name: name for name, config in configs.items()},
        script=look,
    )


def _served_beside(
    base: Config, configs: Iterable[Config], smallest: ModelConfig, asked: BudgetRequest
) -> ServedBeside | None:
    """What serves a model that is trained; None where nobody asks for that.

    Raises :class:`ConfigError` for a load that is incomplete, and one that takes the whole budget even of the
    smallest model.
    """
    if not asks_to_serve(base.serve):
        return None
    check_serving(base.serve)
    rented = [config for config in configs if asked.cluster_given or not _is_owned(config)]
    beside = ServedBeside(rented or configs, keep_assumed=asked.cluster_given or bool(base.clusters))
    beside.check(smallest)
    found = beside(smallest)
    assert found is not None
    if asked.limits.usd is not None and found.cost_usd >= asked.limits.usd:
        raise ConfigError(
            f"budget_usd={asked.limits.usd:,.0f}: serving {smallest.name} for serve.days={found.days:g} alone"
            f" takes {found.cost_usd:,.0f} USD on {found.config.cluster.name}, and leaves nothing to train"
            " it; raise the budget, or serve fewer requests or days"
        )
    return beside


def _is_owned(config: Config) -> bool:
    return config.cluster.price.kind is PriceKind.owned


def _is_only_assumed(config: Config) -> bool:
    return not (_is_owned(config) or is_offered(config.cluster.price))


def _rank(option: RunCandidate) -> tuple[float, float, float, str]:
    """Best loss first, and of losses that are the same for all that is known the cheaper run."""
    cost_usd = float(f"{option.total_usd:.2g}")
    return round(option.loss, LOSS_DIGITS), cost_usd, option.loss, option.config.cluster.name


def _asked(composed: DictConfig, words: Sequence[str]) -> BudgetRequest:
    words = [word for word in words if word != "--json"]
    values = overrides(words)
    usd, days = composed.budget_usd, composed.deadline_days
    for key, value in (("budget_usd", usd), ("deadline_days", days)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(
                f"{key}={typed(value)}: is not a finite number above 0; set it to one, or leave it out"
            )
        if value is not None and (
            clash := [name for name in _CONTRADICTIONS if values.get(name) is not None]
        ):
            raise ConfigError(
                f"{clash[0]}={values[clash[0]]}: follows from {key}={typed(value)}; leave one of the two out"
            )
    if days is not None and days * 24 < LEAST_HOURS:
        raise ConfigError(
            f"deadline_days={typed(days)}: is {figure(days * 24, 2)} hours; the shortest run that is planned"
            f" takes {LEAST_HOURS:g}: use deadline_days={math.ceil(LEAST_HOURS / 24 * 1e4) / 1e4:g} or more"
        )
    chosen = composed.model is not None and composed.model.name != DEFAULT_MODEL
    model_given = composed.model is not None and (values.get("model") is not None or chosen)
    for key in values:
        if key.startswith("model.") and key[6:] not in FREE_OF_SHAPE and not model_given:
            raise ConfigError(
                f"{key}={values[key]}: the shape is chosen by budget; name model=… too, or leave it out"
            )
    nodes_given = "cluster.nodes" in values
    assumed = days is None and not nodes_given
    return BudgetRequest(
        words=tuple(words),
        values=values,
        limits=Limits(usd, MOST_DAYS if assumed else days),
        nodes_given=nodes_given,
        cluster_given="cluster" in values or composed.cluster.name != THIS_MACHINE,
        model_given=model_given,
        days_assumed=assumed,
    )


def _check_predictable(config: Config, precision: str) -> None:
    gpu = config.gpu
    if missing := unrecorded(gpu, precision):
        raise ClusterNotPlannable.of(
            config.cluster.name,
            f"no step time can be predicted for {gpu.name}, as it has no {' and no '.join(missing)}; set"
            " that, choose another cluster, or leave cluster out",
        )


def _freedom(composed: DictConfig, base: Config, asked: BudgetRequest, look: LookAtScript) -> Freedom:
    job, values = base.job, asked.values
    zero_given = any(key == "deepspeed" or key.startswith("deepspeed.zero_optimization") for key in values)
    # What the script chooses by itself, no word of ours would change.
    by_itself = look.shared.how in (StateSharing.DDP, StateSharing.FSDP)
    its_own = base.deepspeed_file is not None or look.deepspeed is not None
    zero_given |= its_own or by_itself
    batch, micro = (count_of(base.deepspeed, name) if its_own else None for name in _BATCH)
    recompute = (False, True)
    if "layout.recompute" in values or not can_recompute(composed):
        recompute = (base.layout.recompute,)  # type: ignore[assignment]
    usual = () if by_itself else DEGREES  # which nothing in such a source tells of
    able = {"tp", "pp"} & set(usual if job.supports is None else job.supports)
    return Freedom(
        shardings=(Sharding(Zero.from_config(base.deepspeed)),) if zero_given else _shardings(),
        recompute=recompute,
        able=frozenset(able),
        fixed={name: getattr(base.layout, name) for name in DEGREES if f"layout.{name}" in values},
        global_batch=batch or (job.global_batch if "job.global_batch" in values else None),
        micro_batch=micro or (job.micro_batch if "job.micro_batch" in values else None),
    )


def _shardings() -> tuple[Sharding, ...]:
    found = []
    for name in _FILES:
        zero = Zero.from_config({"zero_optimization": zero_section(name)})
        found.append(Sharding(zero, (f"deepspeed={name}",)))
    return tuple(found)


def _shapes(base: Config, asked: BudgetRequest) -> tuple[ModelConfig, ...]:
    if asked.model_given:
        assert base.model is not None
        return (base.model,)
    return ladder(**{key: asked.values.get(f"model.{key}", usual) for key, usual in FREE_OF_SHAPE.items()})


def _node_counts(config: Config, asked: BudgetRequest) -> list[int]:
    fixed = asked.nodes_given or asked.limits.usd is None
    return [config.cluster.nodes] if fixed else [2**power for power in range(MOST_NODES.bit_length())]


def _nothing(asked: BudgetRequest, markets: Sequence[ClusterOptimizer], shapes: Sequence[ModelConfig]) -> str:
    """Why no run is possible, and the least that would do."""
    usd, days = asked.limits.usd, asked.limits.days
    given = f"budget_usd={typed(usd)}" if usd is not None else f"deadline_days={typed(days)}"
    what = f"model={shapes[0].name}" if asked.model_given else "the smallest model"
    least = []
    for market in markets:
        found = market.least_usd(shapes[0], _node_counts(market.config, asked))
        if found is not None:
            least.append((*found, market.config.cluster.name))
    if not least:
        return (
            f"{given}: {what} fits none of {len(markets)} clusters in any layout; use more nodes or larger"
            " GPUs"
        )
    dollars, nodes, cluster = min(least)
    if usd is None or dollars <= usd:
        return (
            f"{given}: {what} fits cluster={cluster} with cluster.nodes={nodes}, but no run of an hour stays"
            " within the limits with interruptions; raise them, or look at recovery.gpu_hours_per_failure"
            " and cluster.power_limit_w"
        )
    return (
        f"{given}: too little for {what} for an hour; the least that would do is "
        f"budget_usd={math.ceil(dollars * 1.01)}, on cluster={cluster} with cluster.nodes={nodes}"
    )
