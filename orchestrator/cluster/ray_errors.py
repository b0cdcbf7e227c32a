"""What nodes and Ray's errors say, in the words of one line."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayActorError, RayError


def by_text(remarks: list[tuple[str, str]]) -> list[str]:
    """What several nodes say alike is said once, with their names."""
    names: dict[str, list[str]] = {}
    for name, text in remarks:
        names.setdefault(text, []).append(name)
    return [f"{', '.join(those)}: {text}" for text, those in names.items()]


def error_of(answer: Any) -> RayError | None:
    try:
        ray.get(answer)
    except RayError as error:
        return error
    return None


def death(error: RayActorError) -> str:
    """Whether the agent died or its whole node, and how Ray knows."""
    if "its node has died" in str(error):
        how = str(error).splitlines()[-1].strip().removeprefix("the actor's node was ")
        return f"the node left the cluster ({how})"
    return f"the agent died: {reason(error)}"


def reason(error: BaseException) -> str:
    """The first telling line; Ray wraps the cause of a failed task."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__
