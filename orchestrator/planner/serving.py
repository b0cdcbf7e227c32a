"""``plan serve=MODEL``: what a load for a model takes and costs a day, on every cluster."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from orchestrator.config.catalog import read_all
from orchestrator.config.choices import THIS_MACHINE
from orchestrator.config.origin import base_of
from orchestrator.config.schema import Config, ModelConfig, PriceKind, ServeConfig
from orchestrator.errors import ClusterNotPlannable, ConfigError
from orchestrator.plan.forecast.price import is_offered, offers, ownership
from orchestrator.plan.perf.machine import Machine, unrecorded
from orchestrator.plan.serving.request import STORED_ONLY, Load, ServingRequest, ServingResult, Software
from orchestrator.plan.serving.serving import TooSlow, serve
from orchestrator.plan.sizing.limits import ServedModel
from orchestrator.planner.owning import NOT_OFFERED, overrides

# Least and most of each key; above the least where that is 0.
PRECISIONS = {
    "precision": ("bf16", "fp16", "fp8", "int8", "int4"),
    "kv_precision": ("bf16", "fp16", "fp8", "int8", "int4"),
}
REQUIRED = ("requests_per_day", "tokens_in", "tokens_out")
DEFAULT_MODEL = "tiny_gpt"  # of conf/config.yaml: nobody chose it


@dataclass(frozen=True)
class ServingOption:
    """The load on one cluster. ``capital_usd`` buys its nodes where they are owned; None where they are
    rented."""

    config: Config
    result: ServingResult
    price_kind: PriceKind
    paid: str  # the same in words
    usd_per_gpu_hour: float
    price_source: str
    capital_usd: float | None


@dataclass(frozen=True)
class ServingAnswer:
    """``options`` can be rented, the cheapest first; where none can they are what there is. ``owned`` have to
    be bought first."""

    model: ModelConfig
    load: Load
    software: Software
    options: tuple[ServingOption, ...]
    owned: tuple[ServingOption, ...]
    left_out: Mapping[str, str]  # clusters, and why


def answer(composed: DictConfig, words: Sequence[str]) -> ServingAnswer:
    """Serve the model on every cluster, or on the one that is named.

    Raises :class:`ConfigError` for a load that is incomplete or out of range, and where no cluster can serve
    it.
    """
    values = overrides(words)
    base = base_of(composed)
    check_serving(base.serve)
    if base.model is None or (base.model.name == DEFAULT_MODEL and "model" not in values):
        raise ConfigError(
            "serve: which model? name it, e.g. serve=llama3_70b; serve=auto leaves it to budget_usd=…"
        )
    if "cluster.nodes" in values:
        raise ConfigError(
            f"cluster.nodes={values['cluster.nodes']}: how many nodes serve a load follows from it; leave it"
            " out"
        )
    given = "cluster" in values or base.cluster.name != THIS_MACHINE
    configs, left_out = [base], dict[str, str]()
    if not given:
        machines, left_out = read_all(composed, values, nodes_needed=False)
        configs = [
            dataclasses.replace(base, cluster=m.cluster, gpu=m.gpu, fabric=m.fabric)
            for m in machines.values()
        ]
    options, reasons = served(base.model, configs, keep_assumed=given or bool(base.clusters))
    if not options:
        raise ConfigError(_nearest(reasons, "there is no cluster to serve on"))
    rented = tuple(option for option in options if option.price_kind is not PriceKind.owned)
    return ServingAnswer(
        model=base.model,
        load=load_of(base.serve),
        software=software_of(base.serve),
        options=rented or tuple(options),
        owned=tuple(option for option in options if option.price_kind is PriceKind.owned),
        left_out=left_out | {name: one.why for name, one in reasons.items()},
    )


@dataclass(frozen=True)
class NotServed:
    """Why a cluster does not serve the model. ``times`` is how many times a target its best answer takes,
    infinite where that is not what is wrong."""

    why: str
    times: float = math.inf


def served(
    model: ModelConfig, configs: Iterable[Config], keep_assumed: bool
) -> tuple[list[ServingOption], dict[str, NotServed]]:
    """The model on each cluster, the cheapest first, and those that cannot serve it with the reason."""
    options, left_out = [], dict[str, NotServed]()
    for config in configs:
        price = config.cluster.price
        if not (keep_assumed or is_offered(price) or price.kind is PriceKind.owned):
            left_out[config.cluster.name] = NotServed(NOT_OFFERED.format(price.quality.value))
            continue
        try:
            options.append(serve_on(model, config))
        except TooSlow as refused:
            left_out[config.cluster.name] = NotServed(str(refused), refused.times)
        except ConfigError as refused:
            why = refused.why if isinstance(refused, ClusterNotPlannable) else str(refused)
            left_out[config.cluster.name] = NotServed(why)
    return sorted(options, key=lambda o: (o.result.usd_per_day, o.config.cluster.name)), left_out


def _nearest(reasons: Mapping[str, NotServed], without_any: str) -> str:
    """Of clusters that cannot serve it the one that comes closest."""
    return min(reasons.values(), key=lambda one: one.times, default=NotServed(without_any)).why


def serve_on(model: ModelConfig, config: Config) -> ServingOption:
    """Raises :class:`ConfigError` where it does not fit or is too slow."""
    cluster, gpu, software = config.cluster, config.gpu, software_of(config.serve)
    computed = STORED_ONLY.get(software.precision, software.precision)
    if missing := unrecorded(gpu, computed):
        other = "choose another cluster=…" if computed == "bf16" else "serve.precision=bf16"
        raise ClusterNotPlannable.of(
            cluster.name,
            f"{gpu.name} has no {' and no '.join(missing)}, so that no time can be predicted for it; set"
            f" what is missing, or {other}",
        )
    _check_rates(config)
    offer = offers(cluster.price, gpu)[0]
    each_usd, source, owned = offer.usd_per_gpu_hour, offer.source, None
    if offer.kind is PriceKind.owned:
        # Machines that serve do so all day long, and none of their hours is another's.
        owned = dataclasses.replace(ownership(cluster.price, gpu), occupancy=1.0)
        each_usd = owned.usd_per_gpu_hour
    result = serve(
        ServingRequest(
            model=model,
            load=load_of(config.serve),
            software=software,
            machine=Machine.of(cluster, gpu, config.fabric),
            memory_bytes=gpu.memory_bytes,
            constants=config.planner,
            usd_per_gpu_hour=each_usd,
        )
    )
    return ServingOption(
        config=config,
        result=result,
        price_kind=offer.kind,
        paid=offer.paid,
        usd_per_gpu_hour=each_usd,
        price_source=source,
        capital_usd=None if owned is None else owned.capex_usd * result.gpus,
    )


class ServedBeside:
    """What a model takes to be served, for a budget that pays for it beside the training: on the cheapest
    cluster that rents, or, by :meth:`on`, on one. Each model is looked at once."""

    def __init__(self, configs: Iterable[Config], keep_assumed: bool) -> None:
        self._configs, self._keep_assumed = list(configs), keep_assumed
        self._known: dict[tuple[object, ...], ServedModel | None] = {}

    def __call__(self, model: ModelConfig) -> ServedModel | None:
        """None where no cluster serves it."""
        key = dataclasses.astuple(model)
        if key not in self._known:
            options, _ = served(model, self._configs, self._keep_assumed)
            self._known[key] = _served_model(options[0]) if options else None
        return self._known[key]

    def on(self, config: Config) -> ServedBeside:
        """The same on one cluster alone."""
        return ServedBeside([config], keep_assumed=True)

    def check(self, model: ModelConfig) -> None:
        """Raises :class:`ConfigError` with the reason where no cluster serves it."""
        if self(model) is None:
            _, reasons = served(model, self._configs, self._keep_assumed)
            raise ConfigError(_nearest(reasons, "no cluster is for rent to serve on"))


def _served_model(option: ServingOption) -> ServedModel:
    return ServedModel(option.config, option.result, option.config.serve.days, option.usd_per_gpu_hour)


def load_of(serving: ServeConfig) -> Load:
    """Of a configuration that is checked."""
    assert serving.requests_per_day is not None
    assert serving.tokens_in is not None
    assert serving.tokens_out is not None
    return Load(
        requests_per_day=serving.requests_per_day,
        tokens_in=serving.tokens_in,
        tokens_out=serving.tokens_out,
        peak_to_mean=serving.peak_to_mean,
        ttft_s=serving.ttft_s,
        tpot_s=serving.tpot_s,
    )


def software_of(serving: ServeConfig) -> Software:
    """What the configuration says of the serving software."""
    return Software(
        precision=serving.precision,
        kv_precision=serving.kv_precision,
        share=serving.software_share,
        memory_share=serving.memory_share,
        max_batch=serving.max_batch,
        prefill_tokens=serving.prefill_tokens,
        kv_elements_per_layer=serving.kv_elements_per_layer,
    )


def _check_rates(config: Config) -> None:
    """Raises :class:`ConfigError` for a rate by which a time would be divided and that is none."""
    gpu, constants = config.gpu, config.planner
    rates = {
        "gpu.memory_bandwidth_bytes_per_s": gpu.memory_bandwidth_bytes_per_s,
        "gpu.nvlink_bytes_per_s": gpu.nvlink_bytes_per_s,
        "planner.hbm_efficiency": constants.hbm_efficiency,
        "planner.attention_efficiency": constants.attention_efficiency,
        "planner.link_efficiency": constants.link_efficiency,
        "planner.link_latency_s": constants.link_latency_s,
        "fabric.efficiency": config.fabric.efficiency,
    }
    for key, value in rates.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{key}={value:g} is out of range: set it to a finite number above 0")


def asks_to_serve(serving: ServeConfig) -> bool:
    """Whether a load is given, or asked for."""
    return serving.asked or serving.requests_per_day is not None


def check_serving(serving: ServeConfig) -> None:
    """Raises :class:`ConfigError` for what is missing or out of its range, by its key."""
    for name in REQUIRED:
        if getattr(serving, name) is None:
            raise ConfigError(
                f"serve.{name} is not set: a load has requests_per_day=…, tokens_in=… of a prompt and"
                f" tokens_out=… of an answer; set {name}=…"
            )
    for name, known in PRECISIONS.items():
        if getattr(serving, name) not in known:
            raise ConfigError(f"serve.{name}={getattr(serving, name)}: choose one of {', '.join(known)}")
