"""What a rank's process groups were last asked for, from torch's flight recorder.

The recorder is on by default since torch 2.13, for gloo as well as NCCL. It numbers the collectives of a
group on each rank, so that two ranks can be compared: one that waits in number 8 waits for the one that has
entered 7. Nothing here imports torch: a rank that has not done so has no groups.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.rank.messages import GroupSeen

# The recorder of NCCL, which times its collectives on the device, and that of all the others.
_RECORDERS = ("_dump_nccl_trace", "_dump_fr_trace")


def groups() -> dict[str, GroupSeen]:
    """Returns this rank's view of each group that it belongs to, by the group's name."""
    found = {name: GroupSeen(0, "") for name in _names()}
    native = sys.modules.get("torch._C._distributed_c10d")
    for recorder in _RECORDERS:
        if (dump := getattr(native, recorder, None)) is not None:
            found |= from_trace(pickle.loads(dump(True, False, True)))
    return found


def from_trace(trace: Mapping[str, Any]) -> dict[str, GroupSeen]:
    """Those of one recorder; it lists what it still counts as under way."""
    found = {
        str(name): GroupSeen(max(0, int(status["last_enqueued_collective"])), "")
        for name, status in trace.get("pg_status", {}).items()
    }
    for entry in trace.get("entries", ()):
        name = str(entry["process_group"][0])
        group = found.get(name)
        if group is None or entry["retired"] or entry["state"] == "completed":
            continue
        operation = str(entry["profiling_name"]).rpartition(":")[2]
        peer = bool(entry["is_p2p"])
        found[name] = replace(
            group, operation=group.operation or operation if peer else operation, peer=group.peer or peer
        )
    return found


def _names() -> list[str]:
    """A group that nothing was asked of yet is not in the recorder."""
    module = sys.modules.get("torch.distributed.distributed_c10d")
    with contextlib.suppress(Exception):  # torch's own business, and it may be in the middle of its import
        return [str(name) for name in list(module._world.pg_names.values())]  # type: ignore[union-attr]
    return []
