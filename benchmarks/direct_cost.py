"""What the probes take of each step, on engines that do nothing themselves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from orchestrator.rank.launch.launcher import ExecLauncher
from orchestrator.rank.messages import ProbeFailed, StepTaken
from tests.support.rank_harness import TIMEOUT_S, Bench, environment
from tests.unit.rank.test_probes import FakeLink, Loss, attached, fake_deepspeed

STEPS_SCRIPT = Path(__file__).parent / "noop_engine" / "steps.py"


def calls_s() -> float:
    """What the wrapped calls add to a step, measured as tests/unit/rank/test_probes.py does: no link, best of
    20."""

    def best_s(engine: Any) -> float:
        loss, best = Loss(1.0), float("inf")
        for _ in range(20):
            begin = time.perf_counter()
            for _ in range(500):
                engine.backward(loss)
                engine.step()
            best = min(best, (time.perf_counter() - begin) / 500)
        return best

    return best_s(attached(FakeLink().costs_nothing()).DeepSpeedEngine()) - best_s(
        fake_deepspeed().DeepSpeedEngine()
    )


def in_a_rank_s(folder: Path) -> dict[str, float]:
    """Processor time that a real rank adds to a step: of its training thread, and of all its threads."""
    env = environment(OMP_NUM_THREADS="1")
    bare = subprocess.run(
        [sys.executable, str(STEPS_SCRIPT)],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    ).stdout
    with closing(ExecLauncher()) as launcher:
        bench = Bench(launcher, folder, env)
        outcome = bench.run(str(STEPS_SCRIPT))
    if outcome.status != 0 or not outcome.of(StepTaken) or outcome.of(ProbeFailed):
        raise RuntimeError(f"the no-op engine's rank ended with {outcome.status}: {outcome.output}")

    def typical(output: str, name: str) -> float:
        return median(json.loads(line)[name] for line in output.splitlines())

    return {name: typical(outcome.output, name) - typical(bare, name) for name in ("thread_s", "process_s")}
