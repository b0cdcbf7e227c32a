"""How fast data goes between the processes of a group, through the library that training uses."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from orchestrator.rank.check.messages import Exchange

# Sizes double until one exchange takes long enough to be told from its start.
_LEAST_BYTES = 1 << 18
_MOST_HOST_BYTES, _MOST_GPU_BYTES = 1 << 25, 1 << 30
_AT_LEAST = 3


def exchange(asked: Exchange, gpu: int | None, own_store: dist.TCPStore) -> float:
    """Bytes a second that each node sends, by the slowest process. Raises ``RuntimeError`` where the others
    cannot be reached in time."""
    limit = timedelta(seconds=asked.timeout_s)
    if asked.rank == 0:
        store = own_store
        store.set_timeout(limit)
    else:
        store = dist.TCPStore(asked.host, asked.port, is_master=False, timeout=limit)
    # Not the process's default group: one that could not be made would be in the way of the next.
    shared = dist.PrefixStore(asked.name, store)
    if gpu is None:
        group = dist.ProcessGroupGloo(shared, asked.rank, asked.ranks, limit)
        return _measured(asked, group, "cpu", _MOST_HOST_BYTES)
    torch.cuda.set_device(gpu)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = limit
    group = dist.ProcessGroupNCCL(shared, asked.rank, asked.ranks, options)
    return _measured(asked, group, f"cuda:{gpu}", _MOST_GPU_BYTES)


def _measured(asked: Exchange, group: Any, device: str, most_bytes: int) -> float:
    size = _LEAST_BYTES
    _once_s(asked, group, size // 8, device)  # connections are made at the first exchange
    taken_s = _once_s(asked, group, size, device)
    while taken_s < asked.seconds / _AT_LEAST and 2 * size <= most_bytes:
        size *= 2
        taken_s = _once_s(asked, group, size, device)
    best_s, spent_s = taken_s, taken_s
    while spent_s < asked.seconds:
        taken_s = _once_s(asked, group, size, device)
        best_s, spent_s = min(best_s, taken_s), spent_s + taken_s
    return _sent_bytes(asked, size) / best_s


def _sent_bytes(asked: Exchange, size: int) -> float:
    """By one node to the others; of an all-reduce what NCCL's tests call the bus bandwidth."""
    if asked.way == "all_reduce":
        return 2.0 * size * (asked.ranks - 1) / asked.ranks
    if asked.way == "all_gather":
        return float(size) * asked.ranks_per_node
    away = asked.ranks - asked.ranks_per_node
    return float(size) * asked.ranks_per_node * away / asked.ranks


def _once_s(asked: Exchange, group: Any, size: int, device: str) -> float:
    """The seconds of one exchange, as the slowest process has them: all decide by the same number."""
    count = max(asked.ranks, size // 4 // asked.ranks * asked.ranks)
    data = torch.ones(count, device=device)
    into = [torch.empty_like(data) for _ in range(asked.ranks)] if asked.way == "all_gather" else []
    out = torch.empty_like(data)
    group.barrier().wait()
    began_s = time.monotonic()
    if asked.way == "all_gather":
        group.allgather([into], [data]).wait()
    elif asked.way == "all_to_all":
        group.alltoall_base(out, data, [], []).wait()
    else:
        group.allreduce([data]).wait()
    if device != "cpu":
        torch.cuda.synchronize()
    taken, most = torch.tensor([time.monotonic() - began_s], device=device), dist.AllreduceOptions()
    most.reduceOp = dist.ReduceOp.MAX
    group.allreduce([taken], most).wait()
    return float(taken.item())
