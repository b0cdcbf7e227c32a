"""What Ray has in words alone, in the words of the Ray that is installed."""

from __future__ import annotations

import pytest
from ray.exceptions import RaySystemError, RayTaskError

from orchestrator.cluster.ray_errors import (
    asks_for_a_token,
    is_name_taken,
    is_submitted_with_a_folder,
    last_line,
    reason,
)


def test_a_token_is_asked_for_by_what_is_raised_or_by_what_native_code_prints() -> None:
    assert asks_for_a_token(ConnectionError("x: no authentication token was given"), b"")
    assert asks_for_a_token(ConnectionError("timed out"), b"E0000 Unauthenticated: InvalidAuthToken\n")
    assert not asks_for_a_token(ConnectionError("timed out"), b"E0000 nobody answers\n")


def test_a_taken_name_and_a_submitted_job_are_known_and_nothing_else() -> None:
    assert is_name_taken(RaySystemError("placement group 'a' already exists"))
    assert not is_name_taken(RaySystemError("GCS is gone"))
    assert is_submitted_with_a_folder(
        ValueError("Failed to merge the Job's runtime env with …\nboth have working_dir")
    )
    assert not is_submitted_with_a_folder(ValueError("no such address"))


@pytest.mark.parametrize(
    ("error", "first", "last"),
    [
        (RuntimeError("\n  one \n\n two\n"), "one", "two"),
        (RuntimeError(""), "RuntimeError", "RuntimeError"),
        (RayTaskError("prepare", "Traceback", ValueError("no room\nfor it")), "no room", None),
    ],
)
def test_one_line_of_an_error(error: Exception, first: str, last: str | None) -> None:
    assert reason(error) == first
    assert last is None or last_line(error) == last
