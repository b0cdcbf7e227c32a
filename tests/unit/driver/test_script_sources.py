"""One walk through a script and the modules beside it, and what is asked of them."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.composing import compose
from orchestrator.driver import script_sources as walk
from orchestrator.driver.assignment import assignment_of
from orchestrator.driver.preflight import planned
from orchestrator.driver.script_sources import fills_auto, script_sources
from orchestrator.plan.resuming import resuming
from orchestrator.plan.source import Source


def write(folder: Path, **texts: str) -> Path:
    """Modules by their names, with two underscores for a folder; the script is ``train``."""
    for name, text in texts.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "train.py"


def names(sources: list[Source], folder: Path) -> list[str]:
    return [str(source.path.relative_to(folder)) for source in sources if source.path is not None]


def test_the_modules_that_a_script_imports_are_read_once_each_and_none_is_run(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        train="import torch\nfrom tools import flags\nimport far.away\nfrom . import loop\nexit(1)",
        tools__flags="import tools.more\nfrom .deeper import x\nfrom .. import above",
        tools__deeper="p.add_argument('--resume_from')",
        far__away__deep="",
        loop="import train",
        above="import flags, deeper",
        other="p.add_argument('--resume_from_checkpoint')",
    )
    (tmp_path / "tools" / "__init__.py").write_text("raise SystemExit")
    (tmp_path / "far" / "__init__.py").write_text("from ..... import beyond_the_root_of_all_folders")
    (tmp_path / "far" / "away.py").write_text("")
    (tmp_path / "tools" / "more.py").write_bytes(b"\xff\xfe")  # no text, which hides none of the others
    found = script_sources(script)
    assert names(found, tmp_path) == [
        "train.py", "far/__init__.py", "far/away.py", "tools/__init__.py", "tools/flags.py", "loop.py",
        "tools/deeper.py", "above.py",
    ]  # fmt: skip
    assert resuming(None, found).args == ("--resume_from={checkpoint}",)
    assert script_sources(tmp_path / "none.py") == []


def test_a_module_looks_for_its_own_where_it_is_run(tmp_path: Path) -> None:
    write(tmp_path, recipe__train="import recipe.parts", recipe__parts="from transformers import Trainer")
    script = tmp_path / "recipe" / "train.py"
    assert not fills_auto(script_sources(script))
    assert fills_auto(script_sources(script, tmp_path))


@pytest.mark.parametrize(
    ("texts", "fills"),
    [
        ({"train": "import transformers"}, True),
        ({"train": "from trl.trainer import SFTTrainer"}, True),
        ({"train": "if late:\n    import accelerate.utils as u"}, True),
        ({"train": "from parts.model import x", "parts__model": "import transformers"}, True),
        ({"train": "import parts", "parts__unused": "import transformers"}, False),
        ({"train": "import deepspeed\nfrom .transformers import x"}, False),
        ({"train": "import torch, mytransformers"}, False),
        ({"train": "import broken", "broken": "def ("}, False),
        ({"train": "def ("}, True),
        ({"train": "import torch" + "\0"}, True),
        ({}, True),
    ],
)
def test_what_fills_in_auto_is_looked_for_in_what_is_imported(
    tmp_path: Path, texts: dict[str, str], fills: bool
) -> None:
    assert fills_auto(script_sources(write(tmp_path, **texts))) is fills


def test_no_more_is_read_than_a_plan_has_time_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = {f"m{i}": f"import m{i + 1}" for i in range(9)}
    script = write(tmp_path, train="import m0, large", large=f"'{'x' * 300}'", **chain)
    monkeypatch.setattr(walk, "_MOST_BYTES", 200)
    monkeypatch.setattr(walk, "_MOST_FILES", 5)
    assert names(script_sources(script), tmp_path) == ["train.py", "m0.py", "m1.py", "m2.py", "m3.py"]


def test_a_plan_reads_and_parses_each_source_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    parse = ast.parse

    def counted(text: Any, *rest: Any, **named: Any) -> Any:
        parsed.append(text)
        return parse(text, *rest, **named)

    monkeypatch.setattr(ast, "parse", counted)
    texts = ("import helper\n", "from transformers import Trainer\n")
    script = write(tmp_path, train=texts[0], helper=texts[1])
    words = ("gpu=cpu", "job=script", f"job.script={script}", "deepspeed=zero1")
    config = compose(*words, "deepspeed.gradient_clipping=auto")
    assignment_of(config, planned(config, observed=False), "a-run", tmp_path, "mark", None)
    assert sorted(text for text in parsed if text in texts) == sorted(texts)
