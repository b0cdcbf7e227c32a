"""Output that is closed, broken, full or ASCII changes nothing but what is seen."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

# Prints, tells how the descriptors are, and ends with a status of its own.
PROGRAM = """
import os, sys
from orchestrator import output
output.take_over()
{more}
for _ in range(3):
    print("Größe → 1", flush=True)
    print("Größe → 2", file=sys.stderr, flush=True)
number = os.open(os.devnull, os.O_RDONLY)
os.write(3, str(number).encode())
sys.exit(7)
"""


def run(
    more: str = "", prepare: Callable[[], object] | None = None, **settings: object
) -> tuple[int, int, str, str]:
    """Status, the first free descriptor, standard output and standard error."""
    told, tells = os.pipe()
    kept = fcntl.fcntl(tells, fcntl.F_DUPFD_CLOEXEC, 100)  # beyond those that a test closes

    def child() -> None:
        os.dup2(kept, 3)
        if prepare is not None:
            prepare()

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(more=more)],
        preexec_fn=child, pass_fds=(3,), timeout=60, check=False, stdin=subprocess.DEVNULL,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **settings},
    )  # type: ignore[call-overload]  # fmt: skip
    os.close(tells)
    os.close(kept)
    with os.fdopen(told) as pipe:
        number = int(pipe.read() or -1)
    return done.returncode, number, (done.stdout or b"").decode(), (done.stderr or b"").decode()


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_a_closed_descriptor_is_not_given_to_the_next_file(closed: tuple[int, ...]) -> None:
    status, number, _, _ = run(prepare=lambda: [os.close(each) for each in closed])
    assert status == 7
    assert number > 3


@pytest.mark.parametrize("broken", ["stdout", "stderr"])
def test_a_reader_that_goes_ends_nothing(broken: str) -> None:
    read, write = os.pipe()
    os.close(read)
    status, _, out, err = run(**{broken: write})
    os.close(write)
    assert status == 7
    assert (err if broken == "stdout" else out).count("Größe") == 3


def test_characters_that_the_output_lacks_are_replaced() -> None:
    status, _, out, err = run(env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert status == 7
    assert out == "Gr??e ? 1\n" * 3
    assert err == "Gr\\xf6\\xdfe \\u2192 2\n" * 3


def test_a_full_disk_ends_what_only_prints_and_no_training() -> None:
    with open("/dev/full", "wb") as full:
        status, _, _, err = run(stdout=full)
        assert status == 1
        assert "OutputLost: what is printed cannot be written: No space left on device" in err
        status, _, _, err = run("output.outlive_full_disks()", stdout=full)
    assert status == 7
    assert err.count("Größe") == 3
