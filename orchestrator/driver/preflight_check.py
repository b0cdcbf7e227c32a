"""The check before a run: bad nodes are left out, and others take their place."""

from __future__ import annotations

import time
from collections.abc import Mapping

from orchestrator.check.findings import Grave
from orchestrator.config.choices import Preflight
from orchestrator.config.schema import Config
from orchestrator.driver.check import check_connected
from orchestrator.driver.node_notes import finding_in_words, remember_check
from orchestrator.driver.observer import RunObserver
from orchestrator.errors import NotEnoughResources
from orchestrator.ledger import node_notes


def nodes_to_leave_out(config: Config, nodes: int, address: str, view: RunObserver) -> Mapping[str, str]:
    """Which nodes a run of so many ``nodes`` is to leave out, each with why; ``ray`` is initialised.

    Those that are avoided because of what was found before are not measured again. Raises
    :class:`NotEnoughResources` where too few are left.
    """
    from orchestrator.cluster.check import candidates

    there = [node.name for node in candidates() if not node.held_by]
    known = node_notes.avoided(config.run_root)
    out = {name: f"avoided since an earlier check: {known[name]}" for name in there if name in known}
    rest = [name for name in there if name not in out]
    if len(rest) >= nodes:
        out |= _found_now(config, rest, address, view)
        rest = [name for name in rest if name not in out]
    if out and len(rest) < nodes:
        named = "; ".join(f"{name}: {why}" for name, why in out.items())
        raise NotEnoughResources(
            f"preflight={config.preflight.name}: {nodes} nodes are needed and {len(rest)} are well ({named});"
            " add nodes, mend these and type 'python -m orchestrator nodes --forgive"
            f" {next(iter(out))}', or write preflight=off to train on them"
        )
    return out


def _found_now(config: Config, rest: list[str], address: str, view: RunObserver) -> dict[str, str]:
    full = config.preflight is Preflight.full
    seen = check_connected(config, full, view, address, time.monotonic(), only=rest)
    remember_check(config.run_root, seen, view.warn)
    found: dict[str, list[str]] = {}
    for one in seen.findings:
        text = f"{one.what}, {finding_in_words(one)}"
        if one.grave is Grave.BAD and len(one.nodes) == 1:
            found.setdefault(one.node, []).append(text)
        else:
            view.warn(f"{one.node}: {text}")
    return {name: "; ".join(why) for name, why in found.items()}
