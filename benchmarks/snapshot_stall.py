"""How long a save holds up the training: python -m benchmarks.snapshot_stall [--rounds N] [--millions N ...]

job/saves.py, two ranks that take a step, save, and so on, run under the orchestrator, which stages in memory
and writes behind the training, and under torchrun, where DeepSpeed writes to the same disk by itself. The
script times its own `save_checkpoint`. The result replaces this benchmark's section of docs/benchmarks.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import psutil

from benchmarks import launchers, trail
from benchmarks.figures import interleaved_rounds, spread, table
from benchmarks.ground import Ground, ground
from benchmarks.journal import file_system
from benchmarks.launch import arguments
from benchmarks.launchers import JOB, Launcher, Place, Task
from benchmarks.report import REPORT, conditions, write_section

GOAL = 0.25
MILLIONS = (10, 100, 300)
# Two slots are taken and touched by the first two saves; those after find them so.
COLD, SAVES = 2, 5
RANKS = 2
# A process of 300 million parameters and one of its ranks' two generations, with what the disk has not taken
# yet.
NEEDED_BYTES_PER_PARAMETER = 55
STAGED_WROTE = 0.01
OURS, THEIRS = "orchestrator", "torchrun"
CASES = {THEIRS: launchers.TORCHRUN, OURS: launchers.ORCHESTRATOR}


@dataclass(frozen=True)
class Saves:
    """Of one run, in seconds: what the first save and, in the median, the warm ones took on the slowest rank;
    and until they were on the disk, `fsync` included. `size` is that of a checkpoint, in bytes."""

    first_s: float
    warm_s: float
    durable_s: float
    size: int

    @classmethod
    def of(cls, notes: Sequence[trail.Note], staged: bool, ranks: int = RANKS) -> Saves:
        """Raises RuntimeError where saves went another way than they were to."""
        saved = [
            [note for note in notes if note.what == "saved" and note.step == step]
            for step in range(1, SAVES + 1)
        ]
        durable = [note for note in notes if note.what == ("committed" if staged else "synced")]
        if [len(of_one) for of_one in saved] != [ranks] * SAVES or len(durable) != SAVES:
            raise RuntimeError(
                f"{SAVES} saves of {ranks} ranks were wanted, and durable; these came: {notes}"
            )
        size = durable[-1].wrote
        wrote = sum(note.wrote for note in saved[-1])
        if (wrote < STAGED_WROTE * size) != staged:
            raise RuntimeError(
                f"of {size:,} bytes ranks wrote {wrote:,} by themselves; staged was to be {staged}"
            )
        stalls_s = [max(note.seconds for note in of_one) for of_one in saved]
        return cls(
            stalls_s[0], median(stalls_s[COLD:]), median(note.seconds for note in durable[COLD:]), size
        )


def saves(launcher: Launcher, here: Ground, task: Task, staged: bool) -> Saves:
    place = Place.fresh(here)
    here.run(launcher.command(task, place))
    found = Saves.of(trail.read(place.folder), staged, task.ranks)
    here.run(["rm", "-rf", str(place.inside)])
    return found


def interleaved(here: Ground, millions: int, rounds: int) -> dict[str, list[Saves]]:
    """By launcher and round; every other round goes backwards."""
    options = {"checkpoints": "{place}/checkpoints", "parameters": str(millions * 1_000_000)}
    task = Task(RANKS, steps=SAVES, script=str(JOB / "saves.py"), options=options)
    found: dict[str, list[Saves]] = {name: [] for name in CASES}
    for turn in range(rounds):
        for name in list(CASES)[:: -1 if turn % 2 else 1]:
            here.ended()
            here.rest()
            one = saves(CASES[name], here, task, staged=name == OURS)
            found[name].append(one)
            print(f"{millions}M, round {turn + 1}/{rounds}: {name}: {one.warm_s * 1e3:.0f} ms", flush=True)
    return found


def enough_memory(millions: int) -> bool:
    shm = psutil.disk_usage("/dev/shm").free
    return (
        min(psutil.virtual_memory().available, 2 * shm) >= NEEDED_BYTES_PER_PARAMETER * millions * 1_000_000
    )


# --- the report ---------------------------------------------------------------------------------


def ratios(found: Mapping[str, Sequence[Saves]], durable: bool = False) -> list[float]:
    """Round by round."""
    pairs = zip(found[OURS], found[THEIRS], strict=True)
    return [ours.warm_s / (theirs.durable_s if durable else theirs.warm_s) for ours, theirs in pairs]


def section(
    sizes: Mapping[int, Mapping[str, Sequence[Saves]]],
    left_out: Sequence[int],
    rounds: int,
    load: float,
    disk: str,
) -> str:
    rows, verdicts = [], []
    for millions, found in sizes.items():
        ours, theirs = found[OURS], found[THEIRS]
        ratio = median(ratios(found))
        word = "met" if ratio <= GOAL else "MISSED"
        verdicts.append(f"- {millions} million parameters: **{ratio:.2f}** (goal: {GOAL:g} at most; {word})")
        rows.append(
            [
                f"{millions} M, {ours[0].size / 1e9:.2f} GB",
                f"{median(one.warm_s for one in ours) * 1e3:.0f}",
                spread([one.warm_s * 1e3 for one in ours], 0),
                f"{median(one.warm_s for one in theirs) * 1e3:.0f}",
                spread([one.warm_s * 1e3 for one in theirs], 0),
                f"{ratio:.2f}",
                f"{median(one.durable_s for one in theirs) * 1e3:.0f}",
                f"{median(ratios(found, durable=True)):.2f}",
                f"{median(one.first_s for one in ours) * 1e3:.0f}",
                f"{median(one.durable_s for one in ours):.2f}",
            ]
        )
    sizes_said = " ".join(map(str, sizes))
    missing = (
        [f"Not measured for want of memory: {', '.join(map(str, left_out))} million.", ""] if left_out else []
    )
    lines = [
        "## How long a save holds up the training",
        "",
        "Staged in memory by the orchestrator, by DeepSpeed's own synchronous `save_checkpoint`:",
        "",
        *verdicts,
        "",
        *missing,
        (
            f"{RANKS} gloo ranks of one thread, ZeRO-1, bf16 with AdamW's state in fp32; the same script"
            f" times its own `save_checkpoint` on the slowest rank, until it returns: the {SAVES - COLD} warm"
            f" saves of a run, their median; {interleaved_rounds(rounds)}, ratios are medians over them."
            f" Under torchrun DeepSpeed writes to the disk ({disk}) by itself. It does not `fsync`: what it"
            " has written may still be lost with the machine. The columns *and `fsync`* are until the files"
            " that were added are on the disk too. The orchestrator's checkpoints are on the disk, hashed"
            " and under their name, after *committed*, counted from the same beginning; the next save of the"
            " script comes after that, so that none waits for a slot."
        ),
        "",
        *table(
            [
                *(
                    "parameters, checkpoint",
                    "staged, ms",
                    "rounds, ms",
                    "DeepSpeed, ms",
                    "rounds, ms",
                    "ratio",
                ),
                *("DeepSpeed and `fsync`, ms", "ratio", "staged first, ms", "committed, s"),
            ],
            rows,
        ),
        "",
        (
            "The first save takes its slot's memory and touches it (*staged first*), the second that of the"
            f" other slot; both slots stay for the {SAVES - COLD} after."
        ),
        "",
        *conditions(f"python -m benchmarks.snapshot_stall --rounds {rounds} --millions {sizes_said}", load),
    ]
    return "\n".join(lines)


def main() -> int:
    parser = arguments(5, __doc__)
    parser.add_argument("--millions", type=int, nargs="+", default=list(MILLIONS), help="of parameters")
    args, load = parser.parse_args(), os.getloadavg()[0]
    left_out = [millions for millions in args.millions if not enough_memory(millions)]
    sizes: dict[int, dict[str, list[Saves]]] = {}
    text = ""
    with ground() as here:
        for millions in args.millions:
            if millions in left_out:
                continue
            sizes[millions] = interleaved(here, millions, args.rounds)
            text = section(sizes, left_out, args.rounds, load, file_system(here.folder))
            write_section("snapshot_stall", text)  # the larger ones take long
    print(f"\n{text}\n\nwritten to {REPORT.relative_to(REPORT.parents[1])}")
    return 0 if all(median(ratios(found)) <= GOAL for found in sizes.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
