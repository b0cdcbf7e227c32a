"""The verb ``check``: measure a cluster's nodes and the ways between them, and name what is bad."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.check.cost import Spent, priced
from orchestrator.check.findings import Finding, Grave
from orchestrator.check.judge import Expected, judge, judge_paths
from orchestrator.check.reports import Figure, NodeReport, What
from orchestrator.check.rounds import Paths, search
from orchestrator.cluster import ray_env
from orchestrator.config.schema import Config, Device
from orchestrator.driver.observer import Progress
from orchestrator.driver.preflight import find_target, plan_of
from orchestrator.errors import ConfigError, near_miss
from orchestrator.plan.plan import Plan

if TYPE_CHECKING:
    from orchestrator.cluster.check import Candidate

# Of each measurement; with imports of torch a check takes some ten seconds, whatever the number of nodes.
QUICK_S, FULL_S = 0.3, 1.0
_HOUR = "an hour of the cluster"


@dataclass(frozen=True)
class NodeSeen:
    """What was measured on one node."""

    node: str  # its name
    figures: list[Figure]  # those of a GPU one by one


@dataclass(frozen=True)
class CheckSeen:
    """What a check has found: what ``check --json`` prints."""

    cluster: str  # the address of its Ray
    nodes: list[str]  # that were looked at
    skipped: list[str]  # on which runs are, which a check would slow
    seconds: float  # that it took
    rounds: int  # of exchanges between nodes
    exchange_bytes_per_s: float | None  # by the better quarter of the pairs; null where there is no pair
    priced_for: str  # what lost dollars are a share of
    price_usd: float | None  # of that; null where no price is known
    findings: list[Finding]  # by node
    measured: list[NodeSeen]  # by node

    @property
    def bad(self) -> list[str]:
        """The names of the nodes that a run is to leave out."""
        return sorted({name for one in self.findings if one.grave is Grave.BAD for name in one.nodes})


def check(config: Config, full: bool, progress: Progress) -> CheckSeen:
    """Check the cluster of a configuration. Raises :class:`~orchestrator.errors.OrchestratorError`."""
    target = find_target(config)
    ray_env.prepare() if target.address is None else ray_env.prepare_to_attach(target.address)
    from orchestrator.cluster.session import connect

    began_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        with progress.busy("starting Ray" if target.address is None else "connecting to Ray"):
            session = stack.enter_context(connect(target.address, cpus=1, dashboard=False))
        return check_connected(config, full, progress, session.address, began_s)


def check_connected(
    config: Config,
    full: bool,
    progress: Progress,
    address: str,
    began_s: float,
    only: Sequence[str] | None = None,
    of_run: str = "",
) -> CheckSeen:
    """The same where ``ray`` is initialised already, of ``only`` these nodes where they are given. Those that
    are held by ``of_run`` alone are looked at too: nothing of that run is on them just now."""
    from orchestrator.agent.check.node_check import Asked
    from orchestrator.cluster import check as on_cluster

    nodes, skipped = _chosen(only or config.check.nodes, on_cluster.candidates(), of_run)
    limits, gpu = config.check, config.gpu.device is Device.cuda
    expected = expected_of(config)
    asked = Asked(
        gpu=gpu,
        seconds=FULL_S if full else QUICK_S,
        folder=config.job.checkpoint_dir or config.run_root,
        staging=config.snapshot.dirs[0] if config.snapshot.dirs else "/dev/shm",
        timeout_s=limits.timeout_s,
    )
    reports: list[NodeReport] = []
    paths, findings = Paths(0.0), []
    with on_cluster.checks(nodes, asked) as running:
        with progress.busy(f"measuring {len(nodes)} nodes" if len(nodes) > 1 else "measuring this node"):
            reports = running.measure()
        findings += judge(reports, limits, expected)
        # One whose processors are slow sends slowly, or in bursts, and would be compared with the others.
        ill = {one.node for one in findings if one.what in (What.THROTTLED, What.GIVEN, What.MATMUL)}
        running.nodes = [node for node in running.nodes if node.name not in ill]
        if len(running.nodes) > 1:
            share = limits.least_link_share if gpu else limits.least_socket_share
            names = [node.name for node in running.nodes]
            with progress.busy("exchanging data between nodes"):
                paths = running.search(search(len(names), full, share, expected.exchange_bytes_per_s))
            findings += judge_paths(paths, names, expected.exchange_bytes_per_s)
        findings = [*running.findings, *findings]
    spent, of_what = spent_of(config)
    return CheckSeen(
        cluster=address,
        nodes=[node.name for node in nodes],
        skipped=skipped,
        seconds=round(time.monotonic() - began_s, 1),
        rounds=paths.rounds,
        exchange_bytes_per_s=paths.usual or None,
        priced_for=of_what,
        price_usd=spent.usd,
        findings=priced(findings, spent),
        measured=[NodeSeen(report.node, list(report.figures)) for report in reports],
    )


def _chosen(
    wanted: Sequence[str], there: Sequence[Candidate], of_run: str = ""
) -> tuple[list[Candidate], list[str]]:
    """Those that are named, or all, without those on which runs are; and the names of these. Raises
    :class:`ConfigError`."""
    names = [node.name for node in there]
    for name in wanted:
        if name not in names and name not in [node.address for node in there]:
            raise ConfigError(
                f"check.nodes: no node of the cluster that answers is called '{name}'"
                f"{near_miss(name, names)}; these answer: {', '.join(names)}"
            )
    asked = [node for node in there if not wanted or {node.name, node.address} & set(wanted)]
    held = [node for node in asked if not node.is_free_for(of_run)]
    free = [node for node in asked if node not in held]
    if not free:
        runs = ", ".join(sorted({name for node in held for name in node.held_by}))
        raise ConfigError(
            f"check: runs hold every node that would be checked ({runs}), and it would slow them; wait for"
            " their end, or name other nodes with 'check.nodes=[HOST,HOST]'"
            if held
            else "check: the cluster has no node with a processor to give; start Ray there with --num-cpus"
        )
    return free, [node.name for node in held]


def expected_of(config: Config) -> Expected:
    """What is published of the hardware that the configuration describes."""
    gpu, cluster, fabric = config.gpu, config.cluster, config.fabric
    if gpu.device is not Device.cuda:
        return Expected()
    peak, share = gpu.peak_flops.get("bf16"), config.check.best_matmul_share.get(gpu.architecture)
    nics = fabric.nics or cluster.nics_per_node
    line = min(filter(None, (fabric.nic_bits_per_s, cluster.nic_bits_per_s)), default=None)
    exchange = nics * line / 8 * fabric.efficiency if nics and line else None
    matmul = peak * share if peak and share else None
    return Expected(True, matmul, gpu.memory_bandwidth_bytes_per_s, exchange)


def spent_of(config: Config) -> tuple[Spent, str]:
    """What the configuration's run takes, where it can be planned and its length is known; else an hour of
    its cluster."""
    try:
        plan = plan_of(config, observed=False)
        hour_usd: float | None = plan.billed_by.usd_per_gpu_hour * plan.layout.ranks
    except ConfigError:
        return Spent(), _HOUR
    if plan.prediction.cost_usd is not None:
        return _shares(plan, plan.prediction.cost_usd), f"the run of job '{plan.job}'"
    return _shares(plan, hour_usd), _HOUR


def _shares(plan: Plan, usd: float | None) -> Spent:
    step = plan.prediction.step
    if step is None or step.total_s <= 0:
        return Spent(usd)
    matmul_s = step.matmul_s + step.attention_s + step.recompute_s
    between_s = step.tp_s + step.sp_s + step.ep_s + step.pp_s + step.dp_s
    return Spent(usd, *(part / step.total_s for part in (matmul_s, step.memory_bound_s, between_s)))
