"""Nonsense of every type for every key of the configuration: a plan, or a refusal that names the key.

    python -m tests.fuzz.every_key [--seconds 60] [--seed N]

Each case is a command line ``plan KEY=VALUE``; what it prints and how it ends is looked at, and a case that is
neither a plan nor one line with exit code 2 is printed with the command that shows it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from orchestrator.cli.cli import main as orchestrator
from orchestrator.config.kinds import all_keys

MAPS = ("env", "job.env", "job.args", "job.builds", "deepspeed", "gpu.peak_flops", "fabric.environment")
NUMBERS = ("0", "-1", "1", "7", "0.5", "1e22", "1e308", "-1e400", "nan", "inf", "-inf", "9" * 25, "1e-320")
WORDS = (
    "null",
    "true",
    "''",
    "quantum",
    "/no/such",
    "'a b'",
    "${nope}",
    "???",
    "1,2",
    "é",
    "'\\0'",
    "=",
    "~",
)
NESTED = (
    "[]",
    "[1,2]",
    "[null]",
    "[[[]]]",
    "{}",
    "{a:1}",
    "{a:{b:null}}",
    "[nan]",
    "[/no/such]",
    "[quantum]",
)
PREFIXES = ("", "", "", "+", "++", "~")
# A plan on GPUs of which everything is known, and the one on this machine.
BASES = (("job=llama3_8b", "cluster=dgx_h100", "cluster.nodes=2"), ("gpu=cpu",))


def cases(seed: int) -> Iterator[tuple[str, list[str]]]:
    """Without end: a key, and a command line that gives it nonsense."""
    chance, keys = random.Random(seed), all_keys()
    keys += [f"{name}.NAME" for name in MAPS]
    while True:
        key = chance.choice(keys)
        value, prefix = chance.choice((*NUMBERS, *WORDS, *NESTED)), chance.choice(PREFIXES)
        word = f"~{key}" if prefix == "~" else f"{prefix}{key}={value}"
        yield key, ["plan", *chance.choice(BASES), word]


def what_is_wrong(key: str, command: list[str], corpus: Path) -> str | None:
    """Of one case; None where it is a plan, or refused as it should be."""
    printed, refused = io.StringIO(), io.StringIO()
    small = [] if key.startswith("job.") else [f"job.corpus=[{corpus}]"]  # the standard library takes longer
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(refused):
            status = orchestrator([*command, *small])
    except BaseException:  # noqa: BLE001 - whatever it is, nobody should have seen it
        return traceback.format_exc()
    said = refused.getvalue()
    if status == 0:
        return None if "Traceback" not in said else said
    if status != 2 or not said.startswith("error: ") or said.count("\n") != 1:
        return f"exit {status}: {said}"
    names = {key, key.rpartition(".")[2], f"{key.rpartition('.')[0]}."}
    return None if any(name and name in said for name in names) else f"the key is not named: {said}"


def look(seed: int, seconds: float, corpus: Path, most: int | None = None) -> tuple[int, list[str]]:
    """Go through cases until the time or their number is over; returns how many, and what was wrong."""
    corpus.write_text("some text\n" * 1000)
    wrong: list[str] = []
    end_s, done = time.monotonic() + seconds, 0
    for key, command in cases(seed):
        if time.monotonic() > end_s or done == most:
            break
        done += 1
        if (why := what_is_wrong(key, command, corpus)) is not None:
            wrong.append(f"python -m orchestrator {' '.join(command)}\n{why}")
    return done, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        done, wrong = look(options.seed, options.seconds, Path(folder, "corpus.txt"))
    print("\n".join(wrong))
    print(f"{done} cases, {len(wrong)} of them neither a plan nor a refusal in one line that names the key")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
