"""How a node starts its ranks: from a zygote that is warm already, from one of its own, or by exec."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.agent.assignment import Assignment
from orchestrator.agent.zygote_pool import ZygoteLease
from orchestrator.errors import RankStartError
from orchestrator.rank.launch.launcher import (
    DEFAULT_PRELOAD,
    Launcher,
    SharedZygote,
    ZygoteLauncher,
    listening_zygote,
)
from orchestrator.rank.launch.preload import OF_SCRIPT, library, of_script
from orchestrator.rank.launch.zygote_key import ZygoteKey

# What a node's keeper has for a key and the environment behind it.
WarmZygotes = Callable[[ZygoteKey, dict[str, str]], ZygoteLease | None]


@dataclass(frozen=True)
class FixedLease:
    """One offer, for the job that it was made for: a :data:`WarmZygotes` that can travel to an agent."""

    offer: ZygoteLease

    def __call__(self, wanted: ZygoteKey, _environment: dict[str, str]) -> ZygoteLease | None:
        return None if self.offer.key.difference(wanted) else self.offer


def zygote_preload(assignment: Assignment) -> tuple[str, ...]:
    """What the zygote of a run imports."""
    return (*DEFAULT_PRELOAD, *of_script(assignment.program.preload))


@contextlib.contextmanager
def early_zygote(
    environment: dict[str, str], log_path: Path, preload: Sequence[str] = DEFAULT_PRELOAD
) -> Iterator[FixedLease]:
    """A zygote of this process that imports while Ray starts, for an agent on this machine to fork from."""
    launcher, address = listening_zygote(environment, preload, log_path=str(log_path))
    try:
        yield FixedLease(ZygoteLease(address, launcher.key, ready=False))
    finally:
        launcher.close()


def as_important_as_others() -> None:
    """Undo the niceness that Ray gives its workers, where we may: what is started from here inherits it."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def forking_launcher(
    environment: dict[str, str],
    warm: WarmZygotes | None,
    log_path: str,
    preload: Sequence[str] = DEFAULT_PRELOAD,
    kept_environment: dict[str, str] | None = None,
) -> tuple[Launcher, str | None]:
    """A launcher that forks, and why a zygote that was warm is not the one that it forks from, if so.

    ``kept_environment`` is for a zygote that stays when the run has ended, ``environment`` for an own one.
    """
    if warm is not None:
        offer = warm(ZygoteKey.of(environment, preload), kept_environment or environment)
        if offer is not None:
            with contextlib.suppress(RankStartError):  # it ended at this moment
                return SharedZygote(offer.address, offer.key, preload, offer.ready), _not_used(offer)
    return ZygoteLauncher(environment, preload, log_path=log_path), None


def standing_in(
    launcher: Launcher, environment: dict[str, str], log_path: str, preload: Sequence[str] = DEFAULT_PRELOAD
) -> Launcher:
    """The launcher itself, or an own zygote where somebody else's ended instead of becoming ready, or has
    imported with an environment that is not this one.

    An own one that has ended while it imported what the script imports gives way to one that does not import
    that: the run would go on without.
    """
    if isinstance(launcher, SharedZygote):
        with contextlib.suppress(RankStartError):
            launcher.wait_ready()
            if not launcher.preloaded.unlike(environment):
                return launcher
        launcher.close()
        launcher = ZygoteLauncher(environment, preload, log_path=log_path)
    if isinstance(launcher, ZygoteLauncher) and launcher.key.imports:
        try:
            launcher.wait_ready()
        except RankStartError as error:
            left_out = dict.fromkeys(map(library, launcher.key.imports), str(error))
            launcher.close()
            rest = [name for name in preload if not name.endswith(OF_SCRIPT)]
            return ZygoteLauncher(environment, rest, log_path=log_path, left_out=left_out)
    return launcher


def _not_used(offer: ZygoteLease) -> str | None:
    if not offer.difference:
        return None
    return f"the warm zygote does not fit this job ({'; '.join(offer.difference)}); another was started"
