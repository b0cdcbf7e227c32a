"""The nodes of all Rays that the pools of a fleet are on: a reader for each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.dispatch.nodes_reader import NodesReader
from orchestrator.dispatch.seen import SeenNode

Make = Callable[[str, str, Path | None], NodesReader]


def _reader(address: str, token_file: str, state_dir: Path | None) -> NodesReader:
    return NodesReader(address or None, token_file, state_dir)


class ClustersReader:
    """``clusters`` tells the addresses that count now, "" for the one that `up` keeps, each with the file of
    its token. Readers come and go with them. The first of them has the gauges of ``state_dir``'s queue, so
    that nobody adds them up twice."""

    def __init__(
        self, clusters: Callable[[], Mapping[str, str]], state_dir: Path | None = None, make: Make = _reader
    ) -> None:
        self._clusters, self._state_dir, self._make = clusters, state_dir, make
        self._readers: dict[tuple[str, str, Path | None], NodesReader] = {}

    def nodes(self) -> tuple[SeenNode, ...] | None:
        """Those that are alive in any of them; None where none answers, or nothing is known yet."""
        found = []
        for (address, *_), reader in self._current().items():
            if (nodes := reader.nodes()) is not None:
                found.append(tuple(replace(node, cluster=address) for node in nodes))
        return tuple(node for nodes in found for node in nodes) if found else None

    def unknown(self) -> frozenset[str]:
        """Addresses where somebody listens who has not said yet which nodes there are: nothing is known of
        what runs there, least of all that it has gone."""
        return frozenset(address for (address, *_), reader in self._current().items() if reader.is_unknown)

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def home(self) -> str | None:
        """Where the first of them is, if it has told its nodes of late."""
        first = next(iter(self._clusters()), None)
        return next((reader.address() for (at, *_), reader in self._current().items() if at == first), None)

    def _current(self) -> Mapping[tuple[str, str, Path | None], NodesReader]:
        wanted = [
            (address, token_file, None if number else self._state_dir)
            for number, (address, token_file) in enumerate(self._clusters().items())
        ]
        for gone in [at for at in self._readers if at not in wanted]:
            self._readers.pop(gone).close()
        for at in [at for at in wanted if at not in self._readers]:
            self._readers[at] = self._make(*at)
        return self._readers
