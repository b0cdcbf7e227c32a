"""How many accelerators serve a load, in which replicas, and what that costs.

A replica answers requests all the time: it reads prompts, and makes one token for each request of its batch
(continuous batching, Yu et al. 2022, Orca; the cache in pages, Kwon et al. 2023, vLLM). With B requests in
flight, P seconds of reading a prompt and t(B) seconds of one token for all of them, an answer of O tokens
takes O · t(B) + B · P, as the others' prompts are read in between, so that by Little's law

    requests a second = 1 / (P + O · t(B) / B)      seconds a token = t(B) + B · P / O

Both grow with B: the batch is the largest that memory and targets allow. Prompts wait for each other as in a
queue with one server of constant times (Pollaczek and Khinchine).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

from orchestrator.errors import ConfigError
from orchestrator.plan.serving.memory import mean_context
from orchestrator.plan.serving.request import Replica, ServingRequest, ServingResult
from orchestrator.plan.serving.roofline import Seconds, Stage
from orchestrator.text import bytes_in_words, seconds_in_words

HOURS_PER_DAY = 24
STAGES = (1, 2, 4, 8, 16)
MOST_DOUBLED = 8  # nodes of one replica: up to 128
HALVINGS = 40  # of the interval in which a batch is looked for: to twelve digits
MOST_REPLICAS = 10_000_000  # more accelerators than there are
LEAST_BATCH = 1e-6  # a replica that is hardly ever asked, and as fast as it can be


class TooSlow(ConfigError):
    """No replica answers in time. ``times`` is how many times its target the best takes."""

    def __init__(self, why: str, times: float) -> None:
        super().__init__(why)
        self.times = times


def serve(request: ServingRequest) -> ServingResult:
    """The cheapest replicas that hold the model and answer in time, as many as the busiest time needs.

    Raises ConfigError where the model fits no replica, and TooSlow where none answers in time, naming the key
    and what would do.
    """
    fitting = list(_fitting(request))
    if not fitting:
        raise ConfigError(_too_large(request))
    in_time = [working for working in fitting if working.most.requests_per_s > 0]
    if not in_time:
        raise _too_slow(request)
    most = max(working.most.requests_per_s for working in in_time)
    if request.load.peak_requests_per_s / most > MOST_REPLICAS:
        raise ConfigError(
            f"serve.requests_per_day={request.load.requests_per_day:g}: takes more than {MOST_REPLICAS:,}"
            f" replicas on {request.machine.name}; serve fewer or shorter requests"
        )
    bought = [_bought(request, working) for working in in_time]
    return min(bought, key=lambda found: (found.nodes, found.replica.tpot_s))


def replica_of(request: ServingRequest, tp: int, prompts: float, batch: float) -> Replica | None:
    """One replica with `batch` requests in flight, or as many as memory holds, whatever the targets; None
    where the model does not fit."""
    working = _Working(request, tp, 1, prompts)
    return working.at(batch) if working.most_batch else None


def _fitting(request: ServingRequest) -> Iterator[_Working]:
    machine, model = request.machine, request.model
    degrees = [d for d in request.degrees if d <= machine.gpus_per_node and model.heads % d == 0]
    for tp in degrees:
        for pp in STAGES if tp == max(degrees) else STAGES[:1]:
            if pp > model.layers:
                continue
            found = [_Working(request, tp, pp, prompts) for prompts in _prompts(request)]
            yield from (one for one in found if one.most_batch)
            if found[0].most_batch:  # more stages make nothing faster
                break
    for ep in _expert_ranks(request):
        yield from (
            one
            for one in (_Working(request, 1, 1, prompts, ep) for prompts in _prompts(request))
            if one.most_batch
        )


def _expert_ranks(request: ServingRequest) -> list[int]:
    """Of a model with experts: whole nodes of them, as long as each rank has one expert or more."""
    experts, per_node = request.model.experts, request.machine.gpus_per_node
    nodes = (2**doubled for doubled in range(MOST_DOUBLED))
    return [per_node * many for many in nodes if experts > 1 and experts % (per_node * many) == 0]


def _prompts(request: ServingRequest) -> list[float]:
    """How many may be read in one pass: one alone, and passes of as many tokens as may be, half of that, and
    so on, so that longer prompts are read in passes of the same lengths."""
    most = request.software.prefill_tokens / max(1.0, request.load.tokens_in)
    return [1.0, *(most / 2**halved for halved in range(max(1, int(most)).bit_length()) if most > 2**halved)]


class _Working:
    """One replica at work, by how many requests it has in flight."""

    def __init__(self, request: ServingRequest, tp: int, pp: int, prompts: float, ep: int = 1) -> None:
        self._request, self._load = request, request.load
        self._tp, self._pp, self._ep, self._prompts = tp, pp, ep, prompts * ep
        self._stage = Stage(request, tp, pp, ep)
        self._context = mean_context(request.model, request.load)
        # Expert parallel ranks go through the layers together, each with prompts of its own.
        self._pass_s = self._stage.prefill(self._prompts, request.load.tokens_in).total_s
        self._alone_s = self._stage.prefill(ep, request.load.tokens_in).total_s * pp
        self._prompt_s = self._pass_s / self._prompts
        room = request.memory_bytes * request.software.memory_share - self._stage.footprint.weights_bytes
        self._room_bytes = room
        self._each_bytes = self._stage.footprint.kv_bytes_per_token * self._context
        held = room / self._each_bytes if room > 0 else 0.0
        self.most_batch = ep * min(held, float(request.software.max_batch)) if held >= 1 else 0.0
        self._limit = "memory" if held < request.software.max_batch else "serve.max_batch"

    @functools.cached_property
    def most(self) -> Replica:
        """With the largest batch that answers in time; one that never does answers no requests."""
        load = self._load
        batch, limit = self.most_batch, self._limit
        for target_s, measured_s, name in (
            (load.tpot_s, self._tpot_s, "serve.tpot_s"),
            (load.ttft_s, self._ttft_s, "serve.ttft_s"),
        ):
            if target_s is None or measured_s(batch) <= target_s:
                continue
            if measured_s(LEAST_BATCH) > target_s:
                return dataclasses.replace(self.at(LEAST_BATCH), requests_per_s=0.0, limited_by=name)
            batch, limit = _largest(batch, measured_s, target_s), name
        return dataclasses.replace(self.at(batch), limited_by=limit)

    def asked(self, requests_per_s: float) -> Replica:
        """With as many requests in flight as come in, which are no more than it answers in time."""
        batch = _largest(self.most.batch, self._requests_per_s, requests_per_s)
        return dataclasses.replace(self.at(batch), limited_by=self.most.limited_by)

    def at(self, batch: float) -> Replica:
        """With so many requests in flight, or as many as memory holds."""
        batch = min(batch, self.most_batch)
        kv_bytes = batch / self._ep * self._each_bytes
        return Replica(
            tp=self._tp,
            pp=self._pp,
            ep=self._ep,
            batch=batch,
            prompts_at_once=self._prompts,
            requests_per_s=self._requests_per_s(batch),
            ttft_s=self._ttft_s(batch),
            tpot_s=self._tpot_s(batch),
            prefill_s=self._alone_s,
            decode_step_s=self._step_s(batch),
            prefill_share=self._prefill_share(batch),
            weights_bytes=self._stage.footprint.weights_bytes,
            kv_bytes=kv_bytes,
            free_bytes=self._room_bytes - kv_bytes,
            limited_by=self._limit,
            bound_by=self._bound_by(batch),
        )

    def _step_s(self, batch: float) -> float:
        """One token for each of the batch, whose parts are in all stages at once."""
        return self._pp * self._decoded(batch).total_s

    def _decoded(self, batch: float) -> Seconds:
        """A rank that has no request waits for one that has."""
        return self._stage.decode(max(1.0, self._ep, batch / self._pp), self._context)

    def _requests_per_s(self, batch: float) -> float:
        return 1 / (self._prompt_s + self._load.tokens_out * self._step_s(batch) / batch)

    def _tpot_s(self, batch: float) -> float:
        return self._step_s(batch) + batch * self._prompt_s / self._load.tokens_out

    def _prefill_share(self, batch: float) -> float:
        return self._requests_per_s(batch) * self._prompt_s

    def _ttft_s(self, batch: float) -> float:
        """Half a step that is under way, the prompts before it, and its own through all stages."""
        share = self._prefill_share(batch)
        waits_s = share * self._pass_s / (2 * (1 - share)) if share < 1 else math.inf
        return self._step_s(batch) / self._pp / 2 + waits_s + self._pass_s * self._pp

    def _bound_by(self, batch: float) -> str:
        step = self._decoded(batch)
        decoding = 1 - self._prefill_share(batch)
        parts = {
            "reading prompts": 1 - decoding,
            "memory bandwidth": decoding * step.memory_s / step.total_s * (step.memory_s >= step.compute_s),
            "matrix products": decoding * step.compute_s / step.total_s * (step.compute_s > step.memory_s),
            "what its ranks exchange": decoding * step.exchange_s / step.total_s,
        }
        name = max(parts, key=lambda part: parts[part])
        return f"{name}, {parts[name]:.0%} of its time"


def _largest(most: float, measured: Callable[[float], float], limit: float) -> float:
    """The largest batch up to `most` of which something that grows with it is no more than `limit`."""
    if measured(most) <= limit:
        return most
    low, high = LEAST_BATCH, most
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if measured(middle) <= limit else (low, middle)
    return low


def _bought(request: ServingRequest, working: _Working) -> ServingResult:
    """Whole nodes for the busiest time, and as many replicas as these hold."""
    load, per_node, most = request.load, request.machine.gpus_per_node, working.most
    needed = max(1, math.ceil(min(load.peak_requests_per_s / most.requests_per_s, 1e12) - 1e-9))
    in_a_node = per_node // most.gpus
    nodes = math.ceil(needed / in_a_node) if in_a_node else needed * math.ceil(most.gpus / per_node)
    replicas = nodes * in_a_node if in_a_node else needed
    usd_per_day = nodes * per_node * request.usd_per_gpu_hour * HOURS_PER_DAY
    mean_per_s = load.peak_requests_per_s / load.peak_to_mean
    return ServingResult(
        replica=working.asked(load.peak_requests_per_s / replicas),
        replicas=replicas,
        nodes=nodes,
        gpus=nodes * per_node,
        most_requests_per_s=replicas * most.requests_per_s,
        busy_share=mean_per_s / (replicas * most.requests_per_s),
        usd_per_day=usd_per_day,
        usd_per_million_tokens=usd_per_day / load.tokens_per_day * 1e6,
        usd_per_million_tokens_out=usd_per_day / (load.requests_per_day * load.tokens_out) * 1e6,
    )


def _too_large(request: ServingRequest) -> str:
    most = max(d for d in request.degrees if d <= request.machine.gpus_per_node) * STAGES[-1]
    stage = Stage(request, most // STAGES[-1], STAGES[-1])
    weights = bytes_in_words(stage.footprint.weights_bytes * most)
    return (
        f"serve={request.model.name}: {weights} of weights in {request.software.precision} and one request of"
        f" {request.load.tokens_in + request.load.tokens_out / 2:,.0f} tokens fit no replica of up to {most}"
        f" {request.machine.name} with {bytes_in_words(request.memory_bytes)} each; choose larger GPUs, or"
        " serve.precision=fp8 or int4"
    )


def _too_slow(request: ServingRequest) -> TooSlow:
    """The target that no replica keeps even when it is hardly ever asked, and the least that would do."""
    load = request.load
    idle = dataclasses.replace(request, load=dataclasses.replace(load, tpot_s=None, ttft_s=None))
    found = [one.at(LEAST_BATCH) for one in _fitting(idle)]
    for name, target_s, best_s in (
        ("serve.tpot_s", load.tpot_s, min(one.tpot_s for one in found)),
        ("serve.ttft_s", load.ttft_s, min(one.ttft_s for one in found)),
    ):
        if target_s is not None and best_s > target_s:
            return TooSlow(
                f"{name}={target_s:g}: {request.model.name} on {request.machine.name} takes"
                f" {seconds_in_words(best_s)} at best; set {name}={_above(best_s):g} or more, or choose"
                " faster GPUs, fewer bits (serve.precision=fp8) or shorter prompts",
                best_s / target_s,
            )
    return TooSlow(
        f"serve.ttft_s={load.ttft_s:g} and serve.tpot_s={load.tpot_s:g}: {request.model.name} on"
        f" {request.machine.name} keeps either, but no replica both; raise one of them",
        1.0,
    )


def _above(seconds: float) -> float:
    """The next number of two digits."""
    digit = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return math.ceil(seconds / digit) * digit
