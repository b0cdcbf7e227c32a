from __future__ import annotations

import os
import pwd

import pytest

from orchestrator import users

NOBODY = 1_234_567_891  # no system gives a user this number


def test_a_user_is_called_as_the_system_calls_them_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("USER", "LOGNAME"):
        monkeypatch.setenv(name, "somebody-else")
    ours = pwd.getpwuid(os.geteuid()).pw_name
    assert users.user_name() == users.user_name(os.geteuid()) == ours
    assert users.user_with_number(os.geteuid()) == f"{ours} (uid {os.geteuid()})"


def test_a_user_without_a_name_is_called_by_the_number() -> None:
    assert users.known_name(NOBODY) is None
    assert users.user_name(NOBODY) == users.user_with_number(NOBODY) == f"uid {NOBODY}"
