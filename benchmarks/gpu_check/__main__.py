"""Runs the steps one after another, each in a process of its own, within the time that was paid for."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks import gpu_check
from benchmarks.gpu_check.outcome import (
    Outcome,
    Setting,
    Skipped,
    Status,
    figure_lines,
    from_json,
    rows,
    section,
    teller,
    to_json,
)
from benchmarks.report import REPORT, conditions, gpus, write_section


@dataclass(frozen=True)
class Step:
    """A function of its own name in a module that only its own process imports; it may take ``limit_s``."""

    module: str
    limit_s: float


# What is worth most comes first: time may run out. Together they may take longer than a lease lasts.
STEPS: Mapping[str, Step] = {
    "machine": Step("machine", 30.0),
    "fork": Step("ranks", 90.0),
    "collectives": Step("ranks", 60.0),
    "meters": Step("machine", 40.0),
    "shapes": Step("shapes", 200.0),
    "launch": Step("runs", 90.0),
    "restart": Step("runs", 90.0),
    "snapshot": Step("runs", 90.0),
    "probes": Step("runs", 90.0),
}
# A step that is asked to end ends what it has started.
GRACE_S = 20.0
LEAST_S = 10.0
SKIPPED_CODE = 77
WHOLE_LIMIT_S = 560.0
MOST_SAID = 500


def run_step(name: str, setting: Setting, out: Path) -> int:
    """In the step's own process: 0, or :data:`SKIPPED_CODE` with the reason as the last line of the output.
    SIGTERM ends it as Ctrl-C would, so that what it has started is ended too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    module = importlib.import_module(f"{gpu_check.__name__}.{STEPS[name].module}")
    try:
        getattr(module, name)(setting, teller(out))
    except Skipped as why:
        print(why)
        return SKIPPED_CODE
    except RuntimeError as error:
        print(f"{error}")
        return 1
    return 0


def step_command(name: str, device: str, place: Path) -> list[str]:
    """What runs one step; its figures come into ``place / "figures"``."""
    (place / "work").mkdir()
    command = [sys.executable, "-m", gpu_check.__name__, f"--step={name}", f"--device={device}"]
    return [*command, f"--folder={place / 'work'}", f"--out={place / 'figures'}"]


def outcome(name: str, command: Sequence[str], place: Path, limit_s: float) -> Outcome:
    """Start a step, wait for it within its limit, and take what it has told until then."""
    begun_s = time.monotonic()
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    code: int | None = None
    try:
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(limit_s)
    finally:
        _end(process)
    seconds, figures = time.monotonic() - begun_s, tuple(figure_lines(place / "figures"))
    said = " ".join((place / "log").read_text(errors="replace").split())[-MOST_SAID:]
    match code:
        case 0:
            return Outcome(name, Status.PASSED, seconds, figures)
        case _ if code == SKIPPED_CODE:
            return Outcome(name, Status.SKIPPED, seconds, figures, said)
        case None:
            return Outcome(name, Status.TIMED_OUT, seconds, figures, f"limit {limit_s:.0f} s; {said}")
        case _:
            return Outcome(name, Status.FAILED, seconds, figures, f"exit code {code}: {said}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def check(names: Sequence[str], device: str, whole_limit_s: float, save: Path | None) -> list[Outcome]:
    """All steps; the file has those that are done after each of them."""
    ends_s, load = time.monotonic() + whole_limit_s, os.getloadavg()[0]
    about = conditions(f"python -m benchmarks.gpu_check --device={device}", load)
    found: list[Outcome] = []
    for name in names:
        left_s = ends_s - time.monotonic() - GRACE_S
        if left_s < LEAST_S:
            found.append(Outcome(name, Status.SKIPPED, 0.0, (), "no time was left"))
        else:
            with tempfile.TemporaryDirectory(prefix="gpu-check-") as place:
                command = step_command(name, device, Path(place))
                found.append(outcome(name, command, Path(place), min(STEPS[name].limit_s, left_s)))
        print(f"{name}: {found[-1].status.value} in {found[-1].seconds:.0f} s", flush=True)
        if save is not None:
            save.write_text(to_json(found, about))
    return found


def show(outcomes: Sequence[Outcome]) -> None:
    made = [["step", "figure", "value", "wanted", "met"], *rows(outcomes)]
    widths = [min(44, max(len(row[column]) for row in made)) for column in range(5)]
    for row in made:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=gpu_check.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--only", nargs="+", choices=tuple(STEPS), help="these steps, in the usual order")
    parser.add_argument(
        "--limit-s", type=float, default=WHOLE_LIMIT_S, help=f"for all together; {WHOLE_LIMIT_S:g} by default"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="written after each step")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put an earlier check into the report")
    for hidden in ("--step", "--folder", "--out"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    args = arguments()
    if args.step:
        setting = Setting(cuda=args.device == "cuda", folder=Path(args.folder))
        return run_step(args.step, setting, Path(args.out))
    if args.write:
        try:
            outcomes, about = from_json(args.write.read_text())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SystemExit(
                f"--write={args.write}: no check of a GPU can be read from it: {error}"
            ) from None
        write_section("gpu_check", section(outcomes, about))
        print(f"written to {REPORT.relative_to(REPORT.parents[1])}")
        return 0
    device = args.device if args.device != "auto" else "cuda" if gpus() else "cpu"
    if device == "cuda" and not gpus():
        raise SystemExit(
            "--device=cuda: this machine has no NVIDIA GPU that its driver shows; use --device=cpu"
        )
    names = [name for name in STEPS if not args.only or name in args.only]
    print(f"{len(names)} steps on {', '.join(gpus()) if device == 'cuda' else 'processor cores'}", flush=True)
    outcomes = check(names, device, args.limit_s, args.json)
    show(outcomes)
    return 0 if all(one.well for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
