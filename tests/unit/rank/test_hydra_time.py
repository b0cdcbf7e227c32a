"""The clock that a Hydra application's output folder is called after."""

from __future__ import annotations

import time
from collections.abc import Iterator

import hydra.core.utils
import pytest
from omegaconf import OmegaConf

from orchestrator.rank.probes.hydra_time import begin_together

BEGAN_UNIX_S = 1_000_000_000.0
PATTERN = "%Y-%m-%d/%H-%M-%S"


@pytest.fixture
def _hydras_own_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    own = hydra.core.utils.setup_globals
    monkeypatch.setattr(hydra.core.utils, "setup_globals", own)
    yield
    own()


@pytest.mark.usefixtures("_hydras_own_clock")
def test_all_ranks_and_attempts_have_the_folder_of_when_the_run_began() -> None:
    begin_together(BEGAN_UNIX_S)
    hydra.core.utils.setup_globals()
    named = OmegaConf.create({"dir": f"outputs/${{now:{PATTERN}}}"}).dir
    assert named == f"outputs/{time.strftime(PATTERN, time.localtime(BEGAN_UNIX_S))}"
