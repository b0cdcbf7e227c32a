"""What .ci/run does before and around the suites; the suites themselves are small Makefile targets here."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.folders import PROJECT

CI = PROJECT / ".ci"
MAKEFILE = """\
lint:
\t@echo nothing to say
test-faults:
\t@printf 'a line of detail\\nFAILED tests/test_a.py::test_b - AssertionError\\n'; exit 3
test-real:
\t@timeout 1 {python} -c 'while True: pass' || true
test-package:
\t@echo home $$HOME
"""


@pytest.fixture
def suites(tmp_path: Path) -> list[str]:
    """The command that runs suites, in a checkout of its own."""
    shutil.copytree(CI, tmp_path / ".ci")
    (tmp_path / "Makefile").write_text(MAKEFILE.format(python=sys.executable))
    return [sys.executable, str(tmp_path / ".ci" / "suites.py")]


def run(*command: str, **about: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=about or None
    )


def test_all_suites_run_and_are_reported_when_one_fails(suites: list[str]) -> None:
    done = run(*suites, "lint", "test-faults", "test-package")
    assert done.returncode == 1, done.stderr
    assert "== lint: passed after 0 min 0" in done.stdout
    assert "== test-faults: FAILED with exit code 2 after" in done.stdout
    assert "a line of detail" in done.stdout
    assert "failed 1 times of 1: tests/test_a.py::test_b\n" in done.stdout
    assert re.search(r"^\| all +\| 2 passed +\| 0 min 0\d s \| ", done.stdout, re.MULTILINE)
    (home,) = re.findall(r"^home (.*)$", done.stdout, re.MULTILINE)
    assert not Path(home).exists(), "a suite's home goes with it"


def test_what_fails_sometimes_is_run_as_often_as_wanted(suites: list[str]) -> None:
    done = run(*suites, "test-faults", "--times=3")
    assert done.returncode == 1
    assert "failed 3 times of 3: tests/test_a.py::test_b\n" in done.stdout


def test_a_suites_processor_time_is_counted_where_the_kernel_lets_us(suites: list[str]) -> None:
    done = run(*suites, "test-real")
    assert done.returncode == 0, done.stdout
    (processor,) = re.findall(r"^== test-real: passed .* processor time (.*)$", done.stdout, re.MULTILINE)
    assert processor == "unknown" or float(processor.removesuffix(" min")) + 0.05 >= 1 / 60


def test_an_unknown_suite_is_refused(suites: list[str]) -> None:
    done = run(*suites, "test-all")
    assert done.returncode == 2
    assert "no such suite: test-all; there are test-faults, " in done.stderr


def test_what_a_machine_lacks_is_said_before_anything_is_installed() -> None:
    done = run(sys.executable, str(CI / "needs.py"), PATH="/nowhere")
    assert done.returncode == 1
    assert "error: the program git is missing: apt-get install git\n" in done.stderr
    assert "error: the program unshare is missing: apt-get install util-linux\n" in done.stderr
