"""Where the tests find what lies beside them, in one place: a test may move."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
JOBS = PROJECT / "jobs"
# Runs, journals and databases that older versions wrote.
KEPT = PROJECT / "tests" / "kept"
GOLDEN = PROJECT / "tests" / "golden"
# What the ranks of tests run.
SCRIPTS = PROJECT / "tests" / "support" / "scripts"
