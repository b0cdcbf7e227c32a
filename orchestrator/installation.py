"""Where this package lies. Whatever looks for its own files, or starts another interpreter with it, begins
here."""

from __future__ import annotations

from pathlib import Path

# Links are followed, so that the frames of processes that are started with it bear the same paths.
PACKAGE = Path(__file__).resolve().parent
