"""What the ranks of a job do together besides training: join, compare notes, vote to stop."""

from __future__ import annotations

import os
import signal
import warnings
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator


class DisagreementError(Exception):
    """Ranks hold different values of what must be one value; the message is one line."""


def join_process_group() -> dist.ProcessGroup:
    """Join the ranks the launcher described, or be alone when it described none.

    Returns a gloo group of all ranks for small control messages: waiting on it does not drain a GPU's queue.
    """
    if "RANK" not in os.environ:
        # Port 0: nobody else has to find this store.
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    os.environ.setdefault("LOCAL_RANK", "0")
    accelerator = get_accelerator()
    if accelerator.device_name() == "cpu":
        # DeepSpeed compiles a shared-memory collective for CPU, 90 s the first time, and the segments of a
        # killed run stay in /dev/shm and hang the next one. Gloo does the same work without either.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    else:
        accelerator.set_device(int(os.environ["LOCAL_RANK"]))
    # DeepSpeed calls these by their old names in every step.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    return dist.new_group(backend="gloo")


def agree(value: int, control: dist.ProcessGroup, what: str, remedy: str) -> None:
    """Return when all ranks hold the same number.

    Raises:
        DisagreementError: they do not; raised on every rank.
    """
    ends = torch.tensor([value, -value])
    dist.all_reduce(ends, dist.ReduceOp.MAX, group=control)
    high, low = int(ends[0]), -int(ends[1])
    if low != high:
        raise DisagreementError(f"ranks disagree on {what}: {low} to {high}, here {value}; {remedy}")


class StopVote:
    """Lets all ranks stop after the same step, though SIGTERM reaches them at different moments.

    A step starts an all-reduce of "was I told to stop" and the next one reads the answer: the wait is
    hidden behind the step, and no rank ever acts on what it alone knows.
    """

    def __init__(self, control: dist.ProcessGroup) -> None:
        self.control = control
        self.told = False
        self.vote = torch.zeros(1, dtype=torch.int32)
        self.pending: dist.Work | None = None
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, _number: int, _frame: Any) -> None:
        self.told = True

    def passed(self) -> bool:
        """Whether any rank had been told when the vote of a step ago started. If not, starts the next."""
        self.close()
        if self.vote.item():
            return True
        self.vote.fill_(int(self.told))
        self.pending = dist.all_reduce(self.vote, dist.ReduceOp.MAX, group=self.control, async_op=True)
        return False

    def close(self) -> None:
        """Wait for the vote under way, so that none is left when the group is destroyed."""
        if self.pending is not None:
            self.pending.wait()
            self.pending = None
