"""What files say of where nodes are, in the three forms that people have."""

from __future__ import annotations

import json

import pytest

from orchestrator.papers import PaperError
from orchestrator.topology.files import host_names, labels_of_job, read

# The example of Slurm's own manual page of topology.conf, and what 'scontrol show topology' prints of it.
SLURM = """
# topology.conf
SwitchName=s0 Nodes=tux[0-1]
SwitchName=s1 Nodes=tux[2-3]
SwitchName=s2 Switches=s[0-1]
"""
SHOWN = """
SwitchName=s0 Level=0 LinkSpeed=1 Nodes=tux[0-1]
SwitchName=s1 Level=0 LinkSpeed=1 Nodes=tux[2-3]
SwitchName=s2 Level=1 LinkSpeed=1 Nodes=tux[0-3] Switches=s[0-1]
"""
BLOCKS = "BlockName=b1 Nodes=gpu[01-02]\nBlockName=b2 Nodes=gpu03,gpu04\nBlockSizes=2,4\n"


def said(text: str) -> dict[str, dict[str, str]]:
    return {each.names[0]: dict(each.labels) for each in read(text)}


def test_our_own_form() -> None:
    assert said("nodes:\n  host-01: {block: b1, rack: 7}\n") == {"host-01": {"block": "b1", "rack": "7"}}


@pytest.mark.parametrize("text", [SLURM, SHOWN])
def test_switches_of_slurm(text: str) -> None:
    assert said(text) == {
        "tux0": {"rack": "s0", "block": "s2"},
        "tux1": {"rack": "s0", "block": "s2"},
        "tux2": {"rack": "s1", "block": "s2"},
        "tux3": {"rack": "s1", "block": "s2"},
    }


def test_blocks_of_slurm() -> None:
    assert said(BLOCKS) == {f"gpu0{n}": {"block": "b1" if n < 3 else "b2"} for n in range(1, 5)}


def test_nodes_of_kubernetes() -> None:
    node = {
        "metadata": {"name": "aks-1", "labels": {"rack": "r1"}},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": "10.0.0.7"},
                {"type": "Hostname", "address": "aks-1"},
            ]
        },
    }
    (found,) = read(json.dumps({"kind": "List", "items": [node]}))
    assert found.names == ("aks-1", "10.0.0.7")
    assert found.labels == {"rack": "r1"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "neither a map 'nodes'"),
        ("[1, 2]", "neither a map 'nodes'"),
        ("nodes: {host: rack}", "node 'host' has to have a map of labels"),
        ("nodes: {host: {rack: [1]}}", "node 'host' has to have a map of labels"),
        ('{"items": [{"kind": "Pod"}]}', "no node as 'kubectl get nodes -o json' prints it"),
        ("SwitchName=s0 Nodes=tux[5-2]", "no range of numbers"),
        ("SwitchName=s0 Nodes=tux[0-99999999]", "no range of numbers"),
        ("SwitchName=s0 Nodes=a\nSwitchName=s0 Switches=s0", "hangs on itself"),
        ("nodes: {a: {rack", "not YAML"),
    ],
)
def test_what_is_none_of_them_is_refused(text: str, why: str) -> None:
    with pytest.raises(PaperError, match=why):
        read(text)


def test_names_of_hosts_as_slurm_writes_them() -> None:
    assert list(host_names("n[08-10],x,r[1,3]c[0-1]")) == [
        "n08",
        "n09",
        "n10",
        "x",
        "r1c0",
        "r1c1",
        "r3c0",
        "r3c1",
    ]


def test_where_slurm_says_that_a_task_is() -> None:
    """As a site's job had it (belenos of Météo-France, in a public job script)."""
    labels = labels_of_job("root_switch.CELL1.iswi1r4s0c1l1.belenos386", "switch.switch.switch.node")
    assert labels == {"rack": "iswi1r4s0c1l1", "block": "CELL1", "core": "root_switch"}
    assert labels_of_job("GPU71E4", "node") == {}
    assert labels_of_job("b1.n7", "block.node") == {"block": "b1"}
    assert labels_of_job("a.b", "node") == {}
