"""The verb ``check``: which node, GPU or link is bad."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from orchestrator.cli.args import Invocation
from orchestrator.cli.show.screen import Screen
from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def check_nodes(composed: DictConfig, invocation: Invocation) -> int:
    """Measure, print, and say by the exit code whether something is bad."""
    from orchestrator.cli.show.check import show_check
    from orchestrator.cli.show.run_view import OnTerminal
    from orchestrator.config.origin import from_composed
    from orchestrator.driver.check import check
    from orchestrator.driver.node_notes import remember_check
    from orchestrator.driver.stopping import leave_on_sigterm

    leave_on_sigterm()
    config = from_composed(composed, invocation.words)
    told = OnTerminal(Screen(stderr=invocation.json))
    seen = check(config, not invocation.quick, told)
    remember_check(config.run_root, seen, told.warn)
    if invocation.json:
        print(json.dumps(dataclasses.asdict(seen), indent=2))
    else:
        show_check(seen, Screen())
    return OrchestratorError.exit_code if seen.findings else 0
