"""How a node starts its ranks: from a zygote that is warm already, from one of its own, or by exec."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from orchestrator.cluster.zygotes import Offer
from orchestrator.rank.key import ZygoteKey
from orchestrator.rank.launcher import DEFAULT_PRELOAD, Launcher, RankStartError, SharedZygote, ZygoteLauncher

# What a node's keeper has for a key and the environment behind it.
WarmZygotes = Callable[[ZygoteKey, dict[str, str]], Offer | None]


def forking_launcher(
    environment: dict[str, str], warm: WarmZygotes | None, log_path: str
) -> tuple[Launcher, str | None]:
    """A launcher that forks, and why a zygote that was warm is not the one that it forks from, if so."""
    if warm is not None:
        offer = warm(ZygoteKey.of(environment, DEFAULT_PRELOAD), environment)
        if offer is not None:
            with contextlib.suppress(RankStartError):  # it ended at this moment
                return SharedZygote(offer.socket_path, offer.key), _not_used(offer)
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


def _not_used(offer: Offer) -> str | None:
    if not offer.difference:
        return None
    return f"the warm zygote does not fit this job ({'; '.join(offer.difference)}); another was started"
