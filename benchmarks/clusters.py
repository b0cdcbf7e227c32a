"""Ray clusters that are there before a launch, and gone after it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

from benchmarks.ground import BIN, Ground, wait_for
from benchmarks.launchers import ORCHESTRATOR_COMMAND, Task, orchestrator_cluster
from orchestrator.driver.driver_host import DriverHost
from tests.support.ports import free_port

START_TIMEOUT_S = 60.0


@contextmanager
def ray_cluster(ground: Ground, task: Task) -> Iterator[Task]:
    """A Ray started by hand, as for Ray Train; gives the task with its address."""
    port, client_port, dashboard_port = free_port(), free_port(), free_port()
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", "--disable-usage-stats"]
    command += [f"--ray-client-server-port={client_port}", f"--dashboard-port={dashboard_port}"]
    # One more than the ranks: Ray Train's controller and the like.
    command += [
        f"--num-cpus={max(os.cpu_count() or 1, task.ranks + 1)}",
        f"--temp-dir={ground.folder / 'ray'}",
    ]
    with ground.started(command, "ray.log") as (process, _):
        wait_for(
            lambda: "Ray runtime started" in ground.said("ray.log") or process.poll() is not None,
            "the start of Ray",
            START_TIMEOUT_S,
        )
        if process.poll() is not None:
            raise RuntimeError(
                f"{' '.join(command)} ended with {process.returncode}: {ground.said('ray.log')}"
            )
        yield replace(task, address=f"127.0.0.1:{port}")


@contextmanager
def kept_cluster(ground: Ground, task: Task) -> Iterator[Task]:
    """What `orchestrator up` keeps; runs of the same user find it by themselves."""
    ground.run([*ORCHESTRATOR_COMMAND, "up", *orchestrator_cluster(task)])
    try:
        yield task
    finally:
        ground.run([*ORCHESTRATOR_COMMAND, "down"])


@contextmanager
def kept_cluster_and_host(ground: Ground, task: Task) -> Iterator[Task]:
    """The same, and a process beside it that forks drivers, with its imports done."""
    with kept_cluster(ground, task):
        record = next((ground.folder / "home").rglob("orchestrator/cluster.json"))
        with mock.patch.dict(os.environ, ground.env, clear=True):
            host = DriverHost(json.loads(record.read_text())["address"])
        try:
            with (ground.folder / "host.log").open("ab") as log:
                host.start("platform", [], ground.folder, log.fileno()).wait(START_TIMEOUT_S)
            yield replace(task, host=host)
        finally:
            host.close()
