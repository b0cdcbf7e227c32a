"""A loop of torch that is attached to the torch of this process, and a stand-in for the link to the agent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from orchestrator.rank.probes.torch_loop import TorchLoop
    from tests.unit.rank.test_probes import FakeLink


def replaced() -> list[tuple[Any, str]]:
    """What the loop puts its own functions in the place of."""
    import safetensors.torch
    import torch
    import torch.distributed.checkpoint
    from torch.distributed.checkpoint import state_dict_saver

    return [
        (torch.autograd, "backward"),
        (torch.nn.Module, "eval"),
        (torch.nn.Module, "zero_grad"),
        (torch.optim.Optimizer, "zero_grad"),
        (torch.nn.utils, "clip_grad_norm_"),
        (torch.amp.GradScaler, "scale"),
        (torch.amp.GradScaler, "step"),
        (torch, "save"),
        (torch.serialization, "save"),
        (torch.nn.utils.clip_grad, "clip_grad_norm_"),
        (torch.nn.parallel.DistributedDataParallel, "__init__"),
        (torch.nn.parallel.DistributedDataParallel, "train"),
        (torch.utils.data.dataloader._BaseDataLoaderIter, "__next__"),
        (torch.distributed.checkpoint, "save"),
        (state_dict_saver, "save"),
        (torch.distributed.checkpoint, "async_save"),
        (state_dict_saver, "async_save"),
        (safetensors.torch, "save_file"),
    ]


@pytest.fixture
def link() -> FakeLink:
    from tests.unit.rank.test_probes import FakeLink

    return FakeLink()


@pytest.fixture
def loop(link: FakeLink, monkeypatch: pytest.MonkeyPatch) -> Iterator[TorchLoop]:
    """Attached to the torch of this process, and taken off again."""
    import torch

    from orchestrator.rank.probes.torch_loop import TorchLoop

    for owner, name in replaced():
        monkeypatch.setattr(owner, name, getattr(owner, name))
    made = TorchLoop(link)  # type: ignore[arg-type]
    made.attach(torch)
    assert link.said == []
    yield made
    for handle in made.handles:
        handle.remove()
