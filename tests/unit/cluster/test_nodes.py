"""What Ray writes down of an agent, which whoever may use the cluster can read."""

from __future__ import annotations

import pickle

from orchestrator.agent.assignment import Shell, Signing
from orchestrator.cluster.nodes import Nodes
from tests.support.assignments import assignment


def test_secrets_are_not_in_rays_record_of_an_actor() -> None:
    told = assignment(
        run="a-run", shell=Shell({"HF_TOKEN": "hush1"}, {"OLD": "hush2"}), signing=Signing("hush3", True)
    )
    nodes = Nodes(told, 1, 1.0, 1.0, 1.0, print, None)
    recorded = pickle.dumps(nodes._assignment)
    assert b"a-run" in recorded
    assert b"hush" not in recorded
    assert nodes._secrets == told.secrets
