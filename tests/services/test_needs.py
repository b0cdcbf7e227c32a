"""A service that is not there is named by its package."""

from __future__ import annotations

import pytest

from tests.services import needs


def test_a_missing_program_skips_the_test_unless_it_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORCHESTRATOR_REQUIRE_SERVICES", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"^needs Debian's dog: apt-get install dog$"):
        needs.program("no-such-dog", "dog")
    monkeypatch.setenv("ORCHESTRATOR_REQUIRE_SERVICES", "1")
    with pytest.raises(pytest.fail.Exception, match=r"^needs Debian's dog: apt-get install dog$"):
        needs.program("no-such-dog", "dog")
    with pytest.raises(pytest.fail.Exception, match=r"^needs the module no_such_dog: make"):
        needs.module("no_such_dog")


def test_a_program_that_is_there_is_found_without_its_folder_on_the_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    assert needs.program("ldconfig", "libc-bin").endswith("sbin/ldconfig")
