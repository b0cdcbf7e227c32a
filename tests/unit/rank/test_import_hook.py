"""A probe that comes after the modules which it is about."""

from __future__ import annotations

import sys
import types

import pytest

from orchestrator.rank.probes import import_hook
from orchestrator.rank.probes.torch_loop import wrap


def test_a_function_that_a_preloaded_module_has_taken_by_name_is_replaced_there_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home, taker, other = (types.ModuleType(f"{name}_of_test") for name in ("home", "taker", "other"))
    for module in (home, taker, other):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def save() -> str:
        return "saved"

    save.__module__ = home.__name__
    for module in (home, taker, other):
        vars(module)["save"] = save
    monkeypatch.setattr(import_hook, "_preloaded", [])
    import_hook.came_before_probes([taker.__name__, "gone_of_test"])
    wrap(home, "save", lambda original: lambda: f"seen, {original()}")
    assert [vars(module)["save"]() for module in (home, taker)] == ["seen, saved"] * 2
    assert vars(other)["save"] is save, "what torch's own modules have taken stays as it is without a zygote"
