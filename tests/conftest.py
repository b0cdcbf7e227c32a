"""Settings for all tests."""

from __future__ import annotations

from hypothesis import settings

# How fast an example runs says something about the machine; benchmarks measure speed.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
