"""What nodes and Ray's errors say, in the words of one line.

Some of what Ray knows it has in the text of its errors alone. All that is looked for there is named here, so
that a new version of Ray is asked in one place.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RaySystemError

_NODE_DIED, _HOW_IT_DIED = "its node has died", "the actor's node was "
_NAME_TAKEN = "already exists"
_SUBMITTED_WITH_A_FOLDER = "merge the Job's runtime env"
# Of its client for jobs, which raises a bare RuntimeError.
_NO_SUCH_JOB, _NOT_YET = "status code 404", "No available agent to submit job"
# The first is of its native code, on standard error; the second of what is raised.
_TOKEN_REFUSED, _TOKEN_MISSING = b"InvalidAuthToken", "no authentication token"


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
    if _NODE_DIED in str(error):
        return f"the node left the cluster ({last_line(error).removeprefix(_HOW_IT_DIED)})"
    return f"the agent died: {reason(error)}"


def is_name_taken(error: RaySystemError) -> bool:
    """Whether a placement group of this name is on the cluster already."""
    return _NAME_TAKEN in str(error)


def is_submitted_with_a_folder(error: BaseException) -> bool:
    """Whether this process is a job of Ray's own, which brought a working directory to every node."""
    return _SUBMITTED_WITH_A_FOLDER in str(error)


def is_no_such_job(error: BaseException) -> bool:
    """Whether Ray's client for jobs was asked for one that the cluster does not know."""
    return _NO_SUCH_JOB in str(error)


def takes_no_job_yet(error: BaseException) -> bool:
    """Whether the part of a node that starts jobs is not up yet, as in a cluster's first half a minute."""
    return _NOT_YET in str(error)


def asks_for_a_token(error: BaseException, on_standard_error: bytes) -> bool:
    """Whether the cluster lets nobody in without its token."""
    return _TOKEN_REFUSED in on_standard_error or _TOKEN_MISSING in str(error)


def reason(error: BaseException) -> str:
    """The first telling line; Ray wraps the cause of a failed task."""
    cause = getattr(error, "cause", None) or error
    return next(iter(_lines(cause)), type(cause).__name__)


def last_line(error: BaseException) -> str:
    """Where Ray has the reason below what it says of itself."""
    return next(reversed(_lines(error)), type(error).__name__)


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()]
