"""What the driver makes of what agents say."""

from __future__ import annotations

from orchestrator.agent.messages import Remark, decode, encode
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.group import RayWorkerGroup
from orchestrator.cluster.nodes import Node
from orchestrator.cluster.remarks import Remarks


def test_what_no_agent_of_this_version_says_is_remarked_once() -> None:
    said: list[str] = []
    group = RayWorkerGroup.__new__(RayWorkerGroup)
    group._remarks = Remarks(said.append)
    attempt, node = Attempt(1, ["node-a"], 2), Node(0, None, "node-a")
    parts = decode([("Weather", ("blue",)), ("Weather", ("grey",)), *encode([Remark("it rains")])])
    assert [group._dispatch(node, part, attempt) for part in parts] == [[]] * 3
    assert said == ["node-a: its agent said 'Weather', which this version does not know", "node-a: it rains"]
