"""How drivers are started: forked from a process that has done their imports where their runs attach to the
Ray which that process was made ready for, else with an interpreter of their own. See
``driver/driver_host.py``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from orchestrator.driver.driver_host import DriverHost, StartedDriver, spawned

_KEY = "ray_address="


class DriverStarts:
    """``address`` is that of the Ray that ``pools`` are on, if it answers now; None: it does not."""

    def __init__(self, address: Callable[[], str | None], pools: Callable[[], Collection[str]]) -> None:
        self._address, self._pools = address, pools
        self._host: DriverHost | None = None
        self._of: str | None = None

    def make_ready(self) -> None:
        """Have a host for the Ray that answers now. One that was for another address is of no use any
        more; while none answers, the one before may come back."""
        address = self._address()
        if address is None or address == self._of:
            return
        self.close()
        self._host, self._of = DriverHost(address, patience_s=0.0), address

    def start(
        self, module: str, words: Sequence[str], cwd: Path, log: int, pool: str, job: Sequence[str] = ()
    ) -> StartedDriver:
        """Start ``python -m module words``, the driver of a job of this pool whose own words are ``job``.
        Raises ``OSError`` where no process can be started."""
        self.make_ready()
        elsewhere = pool not in self._pools() or any(
            word.startswith(_KEY) and word != f"{_KEY}{self._of}" for word in job
        )
        if self._host is None or elsewhere or self._address() != self._of:
            return spawned(module, words, cwd, log)
        return self._host.start(module, words, cwd, log)

    def close(self) -> None:
        """End the host; drivers go on."""
        if self._host is not None:
            self._host.close()
        self._host = self._of = None
