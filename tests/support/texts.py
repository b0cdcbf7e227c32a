"""What others write, read while they may not have begun."""

from __future__ import annotations

from pathlib import Path


def text_so_far(path: Path) -> str:
    """The text of a file, and none while there is no file: a process that was just started opens its log
    when it gets a processor, which on a busy machine is later than the first look."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
