"""The check before a run: bad nodes are left out, and others take their place."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from orchestrator.check.findings import Grave
from orchestrator.config.choices import Preflight
from orchestrator.config.schema import Config
from orchestrator.driver.check import CheckSeen, check_connected
from orchestrator.driver.node_notes import finding_in_words, remember_check
from orchestrator.driver.observer import RunObserver
from orchestrator.errors import NotEnoughResources, OrchestratorError
from orchestrator.events import NodeChecked
from orchestrator.ledger import node_notes
from orchestrator.supervise.loop import Look


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


def look_again(config: Config, run: str, address: str, view: RunObserver) -> Look | None:
    """What measures a node of the run on which an attempt has lost a rank, before the next one, and one that
    comes in place of a lost one; None where nothing is to be measured. A node that is gone, or that another
    run is on, is not looked at."""
    if config.preflight is Preflight.off:
        return None

    def look(attempt: int, node: str, came: bool = False) -> NodeChecked | None:
        from orchestrator.cluster.check import candidates
        from orchestrator.cluster.placement import group_name

        ours = group_name(run)
        if node not in [one.name for one in candidates() if one.is_free_for(ours)]:
            return None
        why = "it has come in place of a lost one" if came else "a rank was lost on it"
        view.notice(f"node {node} is checked, since {why}")
        full, began_s = config.preflight is Preflight.full, time.monotonic()
        try:
            seen = check_connected(config, full, _Quietly(view), address, began_s, only=[node], of_run=ours)
        except OrchestratorError as error:
            view.warn(f"{node}: was not checked before ranks run there: {error}")
            return None
        found = _bad_in(config, seen, view).get(node, "")
        return NodeChecked(attempt, node, not found, found, seen.seconds, came)

    return look


class _Quietly:
    """What is shown of a run stays on the terminal meanwhile."""

    def __init__(self, view: RunObserver) -> None:
        self.say, self.warn = view.notice, view.warn

    def busy(self, what: str) -> AbstractContextManager[object]:
        return nullcontext()


def _found_now(config: Config, rest: list[str], address: str, view: RunObserver) -> dict[str, str]:
    full = config.preflight is Preflight.full
    return _bad_in(config, check_connected(config, full, view, address, time.monotonic(), only=rest), view)


def _bad_in(config: Config, seen: CheckSeen, view: RunObserver) -> dict[str, str]:
    """What was found of nodes that are not to be taken, which is remembered; the rest is said."""
    remember_check(config.run_root, seen, view.warn)
    found: dict[str, list[str]] = {}
    for one in seen.findings:
        text = f"{one.what}, {finding_in_words(one)}"
        if one.grave is Grave.BAD and len(one.nodes) == 1:
            found.setdefault(one.node, []).append(text)
        else:
            view.warn(f"{one.node}: {text}")
    return {name: "; ".join(why) for name, why in found.items()}
