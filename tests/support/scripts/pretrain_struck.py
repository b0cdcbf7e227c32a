"""jobs/pretrain.py, slowed down or struck from within, as options say that it does not know.

`--pace_s=S --hurry=FILE`: a step takes S seconds until that file is there. Waiting costs nobody processor
time, and what is done to the run from outside after a step comes before the next one however busy the machine
is.

`--fault=FILE` says what happens, where and how often. FILE is JSON: `means`, `rank`, `step` (of the step that
is being done; from 1) or `batch`, and `times`. Every strike leaves `FILE.struck-N`, so that an attempt later
knows that it has had its fault. Means:

- exception: raise one, with the same words every time
- leave: end with status 0 in the middle of the training
- nan: the loss of that batch is not a number, whenever it is trained on, and so are the weights from then on
- slow: from that step on, think for `seconds` before every step
- memory: in a control group `group` with a limit, or else by a limit of its own, take memory until none is
  left
- kill in save: SIGKILL to itself in the save after that step, between its first file and its second
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

JOBS = Path(__file__).resolve().parents[3] / "jobs"
ROOM_BYTES = 256 << 20
TrainStep = Callable[[Any], Any]


class Injected:
    """The fault of this rank, if it has one."""

    def __init__(self, path: str) -> None:
        self.path = path
        about = json.loads(Path(path).read_text())
        self.means, self.times = about["means"], int(about["times"])
        self.step, self.batch = about.get("step"), about.get("batch")
        self.mine = int(os.environ["RANK"]) == about["rank"]
        self.about = about

    def left(self) -> bool:
        """Whether it may strike once more; the strike is on record then."""
        for number in range(self.times):
            with contextlib.suppress(FileExistsError):
                os.close(os.open(f"{self.path}.struck-{number}", os.O_CREAT | os.O_EXCL))
                return True
        return False

    def before_step(self, run: Any) -> None:
        """Called with the engine's place in the data; the step that follows is `run.step` + 1."""
        if not self.mine:
            return
        if self.means == "nan":
            place = run.consumed_samples // run.share.global_batch
            self.poison(run, place == self.batch and self.left())
        elif self.means == "slow" and run.step + 1 >= self.step:
            self.left()
            time.sleep(self.about["seconds"])
        elif self.means == "kill in save" and run.step + 1 == self.step:
            self.kill_in_save(run.engine.checkpoint_engine)
        elif run.step + 1 == self.step and self.left():
            self.strike()

    def strike(self) -> None:
        if self.means == "exception":
            raise ArithmeticError("a fault of the test's own")
        if self.means == "leave":
            sys.exit(0)
        if self.means == "memory":
            self.take_all_memory()
        raise AssertionError(f"unknown means {self.means!r}")

    def poison(self, run: Any, now: bool) -> None:
        if not hasattr(self, "poisoned"):
            self.poisoned = False
            run.engine.module.register_forward_hook(
                lambda _module, _inputs, loss: loss * float("nan") if self.poisoned else loss
            )
        self.poisoned = now

    def kill_in_save(self, engine: Any) -> None:
        save, saved = engine.save, []

        def save_one(state_dict: Any, path: str) -> None:
            if saved and self.left():
                os.kill(os.getpid(), signal.SIGKILL)
            save(state_dict, path)
            saved.append(path)

        engine.save = save_one

    def take_all_memory(self) -> None:
        if self.about.get("group"):
            Path(self.about["group"], "cgroup.procs").write_text(str(os.getpid()))
        else:
            resource.setrlimit(resource.RLIMIT_AS, (own_bytes() + ROOM_BYTES,) * 2)
        kept = []
        while True:
            kept.append(b"\1" * (8 << 20))


def own_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def paced(train_step: TrainStep, pace_s: float, hurry: Path) -> TrainStep:
    """Steps that take that long, waiting included."""

    def step(run: Any) -> Any:
        begun_s = time.monotonic()
        loss = train_step(run)
        while time.monotonic() - begun_s < pace_s and not hurry.exists():
            time.sleep(0.01)
        return loss

    return step


def struck(train_step: TrainStep, injected: Injected) -> TrainStep:
    def step(run: Any) -> Any:
        run.skip()
        injected.before_step(run)
        return train_step(run)

    return step


def take_options() -> dict[str, str]:
    """Those of this script, by name; jobs/pretrain.py does not get to see them."""
    words = [word for word in sys.argv if word.startswith(("--pace_s=", "--hurry=", "--fault="))]
    sys.argv = [str(JOBS / "pretrain.py"), *(word for word in sys.argv[1:] if word not in words)]
    return {name.lstrip("-"): value for name, _, value in (word.partition("=") for word in words)}


def main() -> None:
    options = take_options()
    sys.path.insert(0, str(JOBS))
    import training

    train_step = training.Run.train_step
    if "pace_s" in options:
        train_step = paced(train_step, float(options["pace_s"]), Path(options["hurry"]))
    if "fault" in options:
        train_step = struck(train_step, Injected(options["fault"]))
    training.Run.train_step = train_step  # type: ignore[method-assign]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
