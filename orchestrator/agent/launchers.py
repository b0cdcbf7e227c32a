"""How a node starts its ranks: from a zygote that is warm already, from one of its own, or by exec."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.agent.zygote_pool import ZygoteLease
from orchestrator.errors import RankStartError
from orchestrator.rank.launch.launcher import (
    DEFAULT_PRELOAD,
    Launcher,
    SharedZygote,
    ZygoteLauncher,
    listening_zygote,
)
from orchestrator.rank.launch.zygote_key import ZygoteKey

# What a node's keeper has for a key and the environment behind it.
WarmZygotes = Callable[[ZygoteKey, dict[str, str]], ZygoteLease | None]


@dataclass(frozen=True)
class FixedLease:
    """One offer, for the job that it was made for: a :data:`WarmZygotes` that can travel to an agent."""

    offer: ZygoteLease

    def __call__(self, wanted: ZygoteKey, _environment: dict[str, str]) -> ZygoteLease | None:
        return None if self.offer.key.difference(wanted) else self.offer


@contextlib.contextmanager
def early_zygote(environment: dict[str, str], log_path: Path) -> Iterator[FixedLease]:
    """A zygote of this process that imports while Ray starts, for an agent on this machine to fork from."""
    launcher, address = listening_zygote(environment, log_path=str(log_path))
    try:
        yield FixedLease(ZygoteLease(address, launcher.key, ready=False))
    finally:
        launcher.close()


def as_important_as_others() -> None:
    """Undo the niceness that Ray gives its workers, where we may: what is started from here inherits it."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def forking_launcher(
    environment: dict[str, str], warm: WarmZygotes | None, log_path: str
) -> tuple[Launcher, str | None]:
    """A launcher that forks, and why a zygote that was warm is not the one that it forks from, if so."""
    if warm is not None:
        offer = warm(ZygoteKey.of(environment, DEFAULT_PRELOAD), environment)
        if offer is not None:
            with contextlib.suppress(RankStartError):  # it ended at this moment
                return SharedZygote(offer.address, offer.key), _not_used(offer)
    return ZygoteLauncher(environment, log_path=log_path), None


def standing_in(launcher: Launcher, environment: dict[str, str], log_path: str) -> Launcher:
    """The launcher itself, or an own zygote where somebody else's ended instead of becoming ready."""
    if isinstance(launcher, SharedZygote):
        try:
            launcher.wait_ready()
        except RankStartError:
            launcher.close()
            return ZygoteLauncher(environment, log_path=log_path)
    return launcher


def _not_used(offer: ZygoteLease) -> str | None:
    if not offer.difference:
        return None
    return f"the warm zygote does not fit this job ({'; '.join(offer.difference)}); another was started"
