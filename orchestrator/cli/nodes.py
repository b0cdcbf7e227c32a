"""The verb ``nodes``: what is known of nodes across runs, why one is avoided, and to forgive it."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING

from rich.text import Text

from orchestrator.cli.args import Invocation
from orchestrator.cli.show.screen import Screen
from orchestrator.errors import ConfigError, RunDirectoryError, near_miss
from orchestrator.ledger import node_notes
from orchestrator.users import user_name

if TYPE_CHECKING:
    from omegaconf import DictConfig


def list_nodes(composed: DictConfig, invocation: Invocation) -> int:
    """Print the nodes of a run root, or forgive one."""
    root, console = str(composed.run_root), Screen(soft_wrap=True, highlight=False)
    known = node_notes.histories(root)
    if invocation.forgive is not None:
        _forgive(root, invocation.forgive, known, console)
        return 0
    if invocation.json:
        print(json.dumps([dataclasses.asdict(one) for one in known.values()], indent=2))
        return 0
    if not known:
        console.print(f"nothing is known of nodes in {root}; 'python -m orchestrator check' looks at them")
    for one in known.values():
        state = Text("avoided", style="bold red") if one.avoided else Text("used", style="green")
        console.print(Text.assemble((one.node, "bold"), "  ", state, f"  {'; '.join(one.why)}".rstrip()))
        for note in one.notes[-_MOST_NOTES:]:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(note.time_unix_s))
            said = ": ".join(filter(None, (note.what, note.detail)))
            console.print(Text(f"  {when}  {note.effect:8}  {note.by}  {said}".rstrip(), style="dim"))
    return 0


_MOST_NOTES = 10


def _forgive(root: str, node: str, known: dict[str, node_notes.NodeHistory], console: Screen) -> None:
    if node not in known:
        names = ", ".join(known) or "none"
        raise ConfigError(
            f"--forgive {node}: nothing is known of such a node{near_miss(node, known)};"
            f" known in {root}: {names}"
        )
    try:
        node_notes.add(root, [node_notes.forgiven(node, user_name())])
    except OSError as error:
        raise RunDirectoryError(f"{root}: cannot be written ({error.strerror}); set run_root") from None
    console.print(f"{node} is used again")
