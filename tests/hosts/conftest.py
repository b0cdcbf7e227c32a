"""A network of hosts for the session; three of them with a Ray cluster for those tests that want one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.hosts.hosts import Host, Network, NoHostsError, new_token


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """Skips where this machine makes no namespaces for us; ORCHESTRATOR_REQUIRE_HOSTS=1 fails instead."""
    try:
        made = _network()
    except NoHostsError as error:
        if os.environ.get("ORCHESTRATOR_REQUIRE_HOSTS") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    with made:
        yield made


def _network() -> Network:
    """A network that hosts can be made in: a machine may allow the bridge and not what a host needs."""
    made = Network()
    try:
        made.add_host().kill()
    except BaseException:
        made.close()
        raise
    return made


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the cluster's hosts see as /tmp/shared."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def cluster(network: Network, shared: Path) -> list[Host]:
    """Three hosts of two logical CPUs; Ray asks for a token, and its head is on the first."""
    hosts = [network.add_host(shared) for _ in range(3)]
    token = new_token()
    for host in hosts:
        host.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    head, *others = hosts
    head.ray_start(dashboard=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: host.ray_start(head), others))
    return hosts
