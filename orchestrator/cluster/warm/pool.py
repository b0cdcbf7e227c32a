"""One detached, zero-resource actor per node that keeps zygotes warm between runs, an agent, and what runs
have staged there in memory.

Detached, because it outlives the run that started it; without resources, because it must not take
any from a run; with an idle timeout, because Ray's autoscaler counts a node with an actor as busy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.agent.assignment import own_environment
from orchestrator.agent.launchers import as_important_as_others
from orchestrator.agent.parking_lot import ParkedReport
from orchestrator.agent.raylet import end_with_raylet
from orchestrator.agent.zygote_pool import NodeZygotes, ZygoteLease, ZygoteReport
from orchestrator.cluster.ray_errors import reason
from orchestrator.cluster.session import NAMESPACE
from orchestrator.cluster.warm.spare import SpareAgents
from orchestrator.rank.launch.launcher import DEFAULT_PRELOAD
from orchestrator.rank.launch.zygote_key import ZygoteKey

_ANSWER_TIMEOUT_S = 30.0
_PREFIX = "orchestrator zygotes"


class ZygotePool(NodeZygotes):
    """The actor: retires by ending itself."""

    def __init__(self, idle_timeout_s: float) -> None:
        as_important_as_others()
        end_with_raylet()
        me = ray.get_runtime_context().current_actor
        super().__init__(idle_timeout_s, retire=lambda: ray.kill(me))
        self._spares = SpareAgents(me)

    def prepare(self, environment: Mapping[str, str], timeout_s: float) -> list[str]:
        """Have a zygote for jobs with this environment on top of the node's own, and an agent ahead of the
        next run, and wait for both; problems in words."""
        complete = own_environment() | dict(environment)
        self.offer(ZygoteKey.of(complete, DEFAULT_PRELOAD), complete, use=False)
        return self._spares.wait_ready(timeout_s) + self.wait_ready(timeout_s)

    def agent_taken(self) -> None:
        """A run has the agent that was kept: there will be another."""
        self._spares.taken()

    def close(self) -> None:
        """End what is kept, the ranks that were forked from it too; leave no file."""
        self._spares.close()
        super().close()


def pool_name(node_id: str) -> str:
    """Name of a node's keeper; a node has one."""
    return f"{_PREFIX} {node_id[:12]}"


def keep(node_id: str, idle_timeout_s: float) -> Any:
    """The node's keeper, started when there is none."""
    actor = ray.remote(ZygotePool).options(
        name=pool_name(node_id),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_concurrency=4,
        max_restarts=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
    )
    return actor.remote(idle_timeout_s)


def find(node_id: str) -> Any | None:
    """The node's keeper, if it has one."""
    try:
        return ray.get_actor(pool_name(node_id), namespace=NAMESPACE)
    except ValueError:
        return None


def lease_here(
    wanted: ZygoteKey, environment: Mapping[str, str], idle_timeout_s: float | None
) -> ZygoteLease | None:
    """What the keeper of this node has for a job; None when there is no keeper, or none that could fit.

    With ``idle_timeout_s`` a keeper is started where there is none.
    """
    node_id = ray.get_runtime_context().get_node_id()
    pool = find(node_id)
    if pool is None and idle_timeout_s is not None:
        pool = keep(node_id, idle_timeout_s)
    if pool is None:
        return None
    try:
        offered: ZygoteLease | None = ray.get(
            pool.offer.remote(wanted, dict(environment)), timeout=_ANSWER_TIMEOUT_S
        )
    except (RayActorError, GetTimeoutError):  # it retired at this moment, or is not well: an own zygote does
        return None
    return offered


def reports(node_ids: list[str]) -> dict[str, list[ZygoteReport]]:
    """What every keeper says of its zygotes, by node; a keeper that does not answer says nothing."""
    return _answers_of("report", node_ids)


def parked(node_ids: list[str]) -> dict[str, list[ParkedReport]]:
    """What runs have parked, by node; a keeper that does not answer says nothing."""
    return _answers_of("parked", node_ids)


def _answers_of(method: str, node_ids: list[str]) -> dict[str, Any]:
    pools = {node_id: pool for node_id in node_ids if (pool := find(node_id))}
    # One that an earlier version has started may not know what it is asked.
    asked = {
        node_id: getattr(pool, method).remote() for node_id, pool in pools.items() if hasattr(pool, method)
    }
    answers: dict[str, Any] = {}
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=_ANSWER_TIMEOUT_S) if asked else None
    for node_id, answer in asked.items():
        try:
            answers[node_id] = ray.get(answer, timeout=0)
        except RayError:
            continue
    return answers


def end(node_ids: list[str]) -> int:
    """End every keeper with its zygotes; returns how many there were."""
    pools = [pool for node_id in node_ids if (pool := find(node_id))]
    closing = [pool.close.remote() for pool in pools]
    if closing:
        ray.wait(closing, num_returns=len(closing), timeout=_ANSWER_TIMEOUT_S)
    for pool in pools:
        ray.kill(pool)
    return len(pools)


def warm_all(environment: Mapping[str, str], idle_timeout_s: float, timeout_s: float) -> list[str]:
    """A keeper with a zygote for ``environment`` on every node, ready; problems in words."""
    hosts = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    pools = {node_id: keep(node_id, idle_timeout_s) for node_id in hosts}
    answers = {node_id: pool.prepare.remote(dict(environment), timeout_s) for node_id, pool in pools.items()}
    problems = []
    for node_id, answer in answers.items():
        try:
            problems += [f"{hosts[node_id]}: {problem}" for problem in ray.get(answer, timeout=2 * timeout_s)]
        except RayError as error:
            problems.append(f"{hosts[node_id]}: no zygote: {reason(error)}")
    return problems
