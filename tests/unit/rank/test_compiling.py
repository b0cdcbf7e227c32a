"""An operation that is compiled is told, whatever becomes of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.rank.messages import OpBuildBegun, OpBuildEnded
from orchestrator.rank.probes.compiling import Compiling
from tests.unit.rank.test_probes import FakeLink


def test_what_is_compiled_is_told_with_its_name_also_when_it_fails() -> None:
    def load(name: str, sources: list[str]) -> Any:
        if not sources:
            raise RuntimeError("no compiler")
        return name, sources

    link, module = FakeLink(), SimpleNamespace(load=load, load_inline=load)
    Compiling(link).attach(module)  # type: ignore[arg-type]
    assert module.load(name="cpu_adam", sources=["a.cpp"]) == ("cpu_adam", ["a.cpp"])
    with pytest.raises(RuntimeError, match="no compiler"):
        module.load_inline("mine", [])
    begun, ended = link.of(OpBuildBegun), link.of(OpBuildEnded)
    assert [one.op for one in begun] == [one.op for one in ended] == ["cpu_adam", "mine"]
    assert all(one.seconds >= 0 for one in ended)
    assert link.phase == "import"
