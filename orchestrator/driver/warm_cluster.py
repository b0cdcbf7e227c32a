"""The verbs ``up``, ``status`` and ``down``: a cluster that stays, with a warm zygote on every node."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import psutil

from orchestrator.cluster import ray_env, tls
from orchestrator.cluster.warm import head, record
from orchestrator.cluster.warm.record import WarmCluster
from orchestrator.config.schema import Config
from orchestrator.driver.cluster_status import ClusterSeen, seen_by
from orchestrator.driver.observer import Progress
from orchestrator.driver.preflight import LOCAL, asked_address, plan_of, reachable_address
from orchestrator.errors import ClusterError, ClusterUnreachable
from orchestrator.plan.plan import Plan
from orchestrator.processes import start_of

if TYPE_CHECKING:
    from orchestrator.cluster.session import Session

# Imports take seconds on a machine at rest, and much longer from a cold network disk.
READY_TIMEOUT_S = 180.0


def up(config: Config, progress: Progress) -> tuple[WarmCluster, ClusterSeen]:
    """Start Ray on this machine, or join the one at ``ray_address``, and warm a zygote on every node.

    What is up already is found and completed: nodes that joined since get their zygotes. What was begun is
    undone on an exception, as a handler of signals may raise one. Returns the cluster as it is on record, and
    what is on it; raises :class:`~orchestrator.errors.OrchestratorError`.
    """
    plan = plan_of(config)
    with _alone(), ExitStack() as stack:
        cluster, pid = _standing(config), None
        stack.enter_context(undo := ExitStack())  # emptied when all is well
        if cluster is not None:
            progress.say(f"up already: {cluster.address}")
            address = cluster.address
        elif (asked := asked_address(config)) is not None and asked != LOCAL:
            address = reachable_address(asked)
        else:
            with progress.busy("starting Ray"):
                pid, address = _start(config, plan, undo)
        session = stack.enter_context(connect(address))
        if cluster is None:
            cluster = _described(session, pid, config)
            undo.callback(record.forget)
            record.record(cluster)
        _warm(cluster, plan, progress)
        seen = seen_by(session, cluster, config.run_root)
        undo.pop_all()
    return cluster, seen


def status(config: Config) -> ClusterSeen:
    """Nodes, zygotes, runs and what they cost so far. Raises :class:`ClusterError` when nothing is up."""
    cluster = record.find()
    address = asked_address(config) or (cluster.address if cluster and cluster.answers() else None)
    if address is None or address == LOCAL:
        raise ClusterError(f"no cluster is up{_lost(cluster)}; 'orchestrator up' starts one")
    with connect(reachable_address(address)) as session:
        return seen_by(session, cluster, config.run_root)


def down(progress: Progress, force: bool) -> None:
    """End the zygotes, and Ray where ``up`` started it; leave nothing. Refused while runs are on it."""
    if record.find() is None:
        progress.say("no cluster is up")
        return
    with _alone():
        cluster = record.find()
        if cluster is None:
            progress.say("no cluster is up")
            return
        if (uid := cluster.head_of_another()) is not None:
            record.forget()
            progress.say(
                f"{cluster.address}: its Ray belongs to another user (uid {uid}) and is left as it is; it was"
                " on record as yours, and is not any more"
            )
            return
        joined: list[str] = []
        cut_off = cluster.why_cut_off() if cluster.answers() else None
        if cut_off is not None and not force:
            raise ClusterError(f"{cut_off}; 'down --force' ends it without a look at what runs there")
        if cluster.answers() and cut_off is None:
            try:
                with progress.busy("stopping"):
                    joined = _end_zygotes(cluster, force)
            except ClusterUnreachable as error:
                if not force:
                    raise ClusterError(
                        f"{error}; 'down --force' ends it without a look at what runs there"
                    ) from None
        with progress.busy("stopping Ray" if cluster.ours else "leaving"):
            if cluster.ours:
                head.stop_head(cluster)
        record.forget()
    what = (
        "stopped, nothing is left"
        if cluster.ours
        else "zygotes ended; Ray there goes on, as 'up' did not start it"
    )
    progress.say(f"{cluster.address}: {what}")
    if cluster.ours and joined:
        progress.say(f"Ray on {', '.join(joined)} was started there: end it there, with 'ray stop'")


def _standing(config: Config) -> WarmCluster | None:
    """The cluster on record if it is there and the one that is wanted; a dead one is cleared away."""
    cluster = record.find()
    if cluster is None:
        return None
    if not cluster.answers():
        if cluster.ours and cluster.head_of_another() is None:
            head.stop_head(cluster)
        record.forget()
        return None
    asked = asked_address(config)
    if asked not in (None, "auto", cluster.address):
        raise ClusterError(
            f"ray_address={asked}: {cluster.address} is up already and runs attach to one only; "
            "'orchestrator down' leaves it"
        )
    return cluster


def _start(config: Config, plan: Plan, undo: ExitStack) -> tuple[int, str]:
    """A head of our own, ended again unless all goes well."""
    tls.check_own(config.launch.node_address or tls.LOOPBACK)
    head.make_token()
    cpus = max(os.cpu_count() or 1, plan.layout.ranks_per_node)
    pid, port = head.start_head(cpus, config.launch.dashboard, config.launch.node_address, undo)
    return pid, f"{config.launch.node_address or '127.0.0.1'}:{port}"


def _described(session: Session, pid: int | None, config: Config) -> WarmCluster:
    return WarmCluster(
        address=session.address,
        dashboard_url=session.dashboard_url,
        session_dir=session.session_dir if pid else None,
        head_pid=pid,
        head_created_unix_s=psutil.Process(pid).create_time() if pid else None,
        since_unix_s=time.time(),
        idle_timeout_s=config.launch.idle_timeout_s,
        heard_uids=[] if pid else sorted(record.heard_at(session.address)),
        head_start=start_of(pid) if pid else None,
    )


def _warm(cluster: WarmCluster, plan: Plan, progress: Progress) -> None:
    from orchestrator.cluster.warm import pool

    environment = {key: setting.value for key, setting in plan.environment.items()}
    with progress.busy("importing torch and DeepSpeed on every node"):
        problems = pool.warm_all(environment, cluster.idle_timeout_s, READY_TIMEOUT_S)
    for problem in problems:
        progress.warn(f"warning: {problem}")


def _end_zygotes(cluster: WarmCluster, force: bool) -> list[str]:
    """Returns the hosts that had joined."""
    with connect(cluster.address):
        from orchestrator.cluster import overview
        from orchestrator.cluster.warm import pool

        seen = overview.inspect_cluster()
        if seen.runs and not force:
            names = ", ".join(run.name for run in seen.runs)
            raise ClusterError(
                f"{cluster.address}: runs are on it ({names}); let them end, or use 'down --force'"
            )
        pool.end([node.node_id for node in seen.nodes])
    head_host = cluster.address.rpartition(":")[0]
    return [node.host for node in seen.nodes if node.address != head_host]


@contextmanager
def connect(address: str) -> Iterator[Session]:
    """A connection to a cluster that is there already. Ray may be imported from here on, and not before."""
    tls.check_other(address)
    ray_env.prepare_to_attach(address)
    from orchestrator.cluster import session

    with session.connect(address, cpus=0, dashboard=False) as connected:
        yield connected


@contextmanager
def _alone() -> Iterator[None]:
    """One ``up`` or ``down`` at a time."""
    with (record.make_state_dir() / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ClusterError("another 'up' or 'down' is at work on this machine; wait for it") from None
        yield


def _when(cluster: WarmCluster) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(cluster.since_unix_s))


def _lost(cluster: WarmCluster | None) -> str:
    return f" ({cluster.address}, up since {_when(cluster)}, does not answer any more)" if cluster else ""
