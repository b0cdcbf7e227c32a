"""Rank 0's store listens at the address of the rendezvous alone."""

from __future__ import annotations

import json
import os
import types
from pathlib import Path

import pytest

from orchestrator.rank import rendezvous
from orchestrator.rank.launch.launcher import ExecLauncher
from tests.support.ports import free_port
from tests.support.rank_harness import Bench, environment

SCRIPT = """
    import json, psutil
    import torch.distributed as dist
    dist.init_process_group("gloo")
    if dist.get_rank() == 0:
        own = [each.laddr for each in psutil.Process().net_connections("tcp") if each.status == "LISTEN"]
        print(json.dumps([[each.ip, each.port] for each in own]), flush=True)
    dist.barrier()
"""


@pytest.mark.real
def test_the_store_of_a_world_on_one_node_is_on_loopback(tmp_path: Path) -> None:
    bench = Bench(ExecLauncher(), tmp_path, environment())
    ranks = bench.start_world(bench.write(SCRIPT))
    assert [bench.finish(rank).status for rank in ranks] == [0, 0]
    port = int(ranks[0].spec.env["MASTER_PORT"])
    for line in bench.log().splitlines():
        if line.startswith("["):
            assert [ip for ip, number in json.loads(line) if number == port] == ["127.0.0.1"]


class Torch(types.ModuleType):
    """Of torch's module what is used of it, with what its store was given."""

    def __init__(self) -> None:
        super().__init__("torch.distributed.rendezvous")
        self.given: list[dict[str, object]] = []
        self.TCPStore = lambda **settings: self.given.append(settings)


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Torch:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    module = Torch()
    rendezvous._hand_over_socket(module)
    return module


def test_only_the_store_of_the_rendezvous_is_meant(torch: Torch, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(os.environ["MASTER_PORT"])
    for settings in (
        {"host_name": "127.0.0.1", "port": port, "is_master": False},
        {"host_name": "127.0.0.1", "port": port + 1, "is_master": True},
        {"host_name": "127.0.0.1", "port": port, "is_master": True, "master_listen_fd": 7},
    ):
        torch.TCPStore(**settings)
        assert torch.given[-1] == settings
    torch.TCPStore(host_name="127.0.0.1", port=port, is_master=True)
    descriptor = torch.given[-1]["master_listen_fd"]
    assert isinstance(descriptor, int)
    torch.TCPStore(host_name="127.0.0.1", port=port, is_master=True)
    assert "master_listen_fd" not in torch.given[-1], "it listens there already: torch knows its own store"
    os.close(descriptor)


def test_an_address_that_is_not_this_nodes_is_left_to_torch(
    torch: Torch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "192.0.2.77")
    torch.TCPStore(host_name="192.0.2.77", port=int(os.environ["MASTER_PORT"]), is_master=True)
    assert "master_listen_fd" not in torch.given[-1]


def test_other_ranks_have_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(rendezvous, "when_imported", lambda name, action: asked.append(name))
    monkeypatch.setenv("RANK", "1")
    rendezvous.listen_at_own_address()
    assert asked == []
    monkeypatch.setenv("RANK", "0")
    rendezvous.listen_at_own_address()
    assert asked == ["torch.distributed.rendezvous"]
