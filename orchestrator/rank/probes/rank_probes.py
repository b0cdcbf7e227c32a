"""All probes of a rank, of which one set tells of its steps."""

from __future__ import annotations

from typing import Any

from orchestrator.rank.link import Link
from orchestrator.rank.probes.compiling import Compiling
from orchestrator.rank.probes.deepspeed import Probes
from orchestrator.rank.probes.own_time import ThreadClock
from orchestrator.rank.probes.torch_loop import TorchLoop
from orchestrator.rank.probes.trainers import Trainers


class RankProbes:
    """A DeepSpeed engine's where the script makes one, else torch's own."""

    def __init__(self, link: Link, snapshot: dict[str, Any] | None = None) -> None:
        clock = ThreadClock()
        self._loop = TorchLoop(link, clock)
        self._deepspeed = Probes(link, snapshot, self._loop.give_way, clock)
        self._trainers = Trainers(self._loop)
        self._compiling = Compiling(link)

    def attach_when_imported(self) -> None:
        """Attach to what is imported, and to the rest as soon as the script has imported it."""
        self._loop.attach_when_imported()
        self._deepspeed.attach_when_imported()
        self._trainers.attach_when_imported()
        self._compiling.attach_when_imported()

    def flush(self) -> None:
        """Send what is still on its way from the device."""
        self._deepspeed.flush()
        self._loop.flush()

    def abandon(self) -> None:
        """Send what is still on its way without its numbers: after an error the device may be gone."""
        self._deepspeed.abandon()
        self._loop.abandon()
