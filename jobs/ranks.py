"""What the ranks of a job do together besides training: join, compare notes, vote."""

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


class Vote:
    """Lets all ranks do the same after the same step: stop, once SIGTERM has reached any of them, and save,
    when rank 0's clock says so.

    A small all-reduce of what each rank knows starts before a step and is read after it: the wait is hidden
    behind the step, and no rank ever acts on what it alone knows.
    """

    def __init__(self, control: dist.ProcessGroup) -> None:
        self.control = control
        self.clock_counts = dist.get_rank(control) == 0
        self.told_to_stop = False
        flags = torch.zeros(2, dtype=torch.int32)
        # The same memory; a number is cheaper to set in the latter.
        self.flags, self.numbers = flags, flags.numpy()
        self.pending: dist.Work | None = None
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, _number: int, _frame: Any) -> None:
        self.told_to_stop = True

    def start(self, save: bool) -> None:
        """Cast this rank's vote; `save` counts on rank 0 only."""
        self.numbers[:] = self.told_to_stop, save and self.clock_counts
        self.pending = dist.all_reduce(self.flags, dist.ReduceOp.MAX, group=self.control, async_op=True)

    def read(self) -> tuple[bool, bool]:
        """Whether to stop and whether to save: what the ranks knew when the vote started, the same on
        each."""
        if self.pending is not None:
            self.pending.wait()
            self.pending = None
        stop, save = self.numbers.tolist()
        return bool(stop), bool(save)
