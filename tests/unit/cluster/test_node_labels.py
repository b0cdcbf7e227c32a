"""A node that Slurm starts says where it is."""

from __future__ import annotations

import pytest

from orchestrator.cluster.warm.node_labels import labels_here


@pytest.mark.parametrize(
    ("address", "pattern", "labels"),
    [
        ("core.s1.leaf7.n3", "switch.switch.switch.node", "rack=leaf7,block=s1,core=core"),
        ("s[1-2].leaf7.n3", "switch.switch.node", "rack=leaf7"),
        ("n3", "node", ""),
        ("", "", ""),
    ],
)
def test_the_switches_that_slurm_names_are_labels(address: str, pattern: str, labels: str) -> None:
    told = {"SLURM_TOPOLOGY_ADDR": address, "SLURM_TOPOLOGY_ADDR_PATTERN": pattern}
    assert labels_here(told) == labels
    assert labels_here({}) == ""
