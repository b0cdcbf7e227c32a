"""Forks ranks from a zygote that somebody else on this node owns."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from orchestrator.errors import RankStartError
from orchestrator.rank.launch import wire
from orchestrator.rank.launch.fork_client import DEFAULT_PRELOAD, ForkingLauncher
from orchestrator.rank.launch.zygote_key import ZygoteKey


class SharedZygote(ForkingLauncher):
    """Connects to a zygote's listening socket; closing it ends the ranks forked for it, and no others.

    `key` is the zygote's, as its owner told; `warm` says that it had imported when it was offered. Raises
    RankStartError when nobody listens any more.
    """

    def __init__(
        self,
        address: str,
        key: ZygoteKey,
        preload: Sequence[str] = DEFAULT_PRELOAD,
        warm: bool = False,
    ) -> None:
        self.warm = warm
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            channel.connect(address)
            owner = wire.peer_uid(channel)
        except OSError as error:
            channel.close()
            raise RankStartError(f"the warm zygote is gone: {error}") from error
        if owner != os.getuid():
            channel.close()
            raise RankStartError(f"the zygote at {address} is another user's (uid {owner})")
        super().__init__(channel, key, preload, python=None)

    def _how_it_ended(self) -> str:
        return "the warm zygote ended"
