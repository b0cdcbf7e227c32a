"""What of a script's imports the zygote takes over, read from its source."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.composing import compose
from orchestrator.config.schema import Config
from orchestrator.driver.preflight import plan_of
from orchestrator.driver.script_preload import check_preload, preloadable, script_preload
from orchestrator.driver.script_sources import script_sources
from orchestrator.errors import ConfigError
from orchestrator.plan.plan import Plan
from orchestrator.plan.source import Source
from orchestrator.vocabulary import ProgramKind


def modules(*sources: str) -> list[str]:
    """Those that are imported, without what is taken of them."""
    return [name.partition(":")[0] for name in preloadable(list(map(Source, sources)))]


def test_names_that_are_taken_are_told_in_the_order_of_the_script() -> None:
    source = """
import os
import lightning as L
import lightning.pytorch as pl
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
import datasets, transformers

class Model(L.LightningModule):
    data = datasets.load_dataset

def main():
    from trl import SFTTrainer
    pl.Trainer().fit(transformers.set_seed)
    L.Trainer
"""
    assert preloadable([Source(one) for one in (source,)]) == [
        "os",
        "lightning:LightningModule,Trainer",
        "lightning.pytorch:Trainer",
        "transformers:Trainer,TrainingArguments,set_seed",
        "transformers.trainer_utils:get_last_checkpoint",
        "datasets:load_dataset",
        "trl:SFTTrainer",
    ]


def test_what_only_a_type_checker_imports_is_not_imported() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import trl\nimport peft\n"
    assert preloadable([Source(one) for one in (source,)]) == ["typing:TYPE_CHECKING", "peft"]


@pytest.mark.parametrize(
    "change",
    [
        'os.environ["HF_HOME"] = "/x"',
        'os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")',
        'os.environ.update({"TOKENIZERS_PARALLELISM": "1"})',
        "os.environ.pop(name)",
        'del os.environ["OMP_NUM_THREADS"]',
        'if True:\n    environ["CUDA_VISIBLE_DEVICES"] = "0"',
        'os.putenv("A", "b")',
        "load_dotenv()",
        'sys.path.insert(0, "vendored")',
        "sys.path += ['vendored']",
        'sys.modules["flash_attn"] = None',
        'def ready():\n    os.environ["HF_HOME"] = "/x"\nready()',
    ],
)
def test_what_is_imported_after_a_change_of_what_imports_read_is_left_to_the_rank(change: str) -> None:
    before = "import sys, os\nimport datasets\n"
    assert modules(f"{before}{change}\nimport transformers\n") == ["sys", "os", "datasets"]
    after = modules(f"{before}import transformers\n{change}\n")
    assert after == ["sys", "os", "datasets", "transformers"]
    in_function = f"def main():\n    import transformers\n{change}\nmain()\n"
    assert modules(in_function) == [], "who knows which comes first"


@pytest.mark.parametrize(
    "change",
    [
        'os.environ["TOKENIZERS_PARALLELISM"] = "false"',
        'os.environ.setdefault("MASTER_PORT", "1")',
        'value = os.environ["HF_HOME"]',
        'os.environ.get("HF_HOME", "x")',
        'my.environment["HF_HOME"] = 1',
    ],
)
def test_what_imports_do_not_read_and_what_changes_nothing_is_no_reason(change: str) -> None:
    assert (
        preloadable([Source(one) for one in (f"import os\n{change}\nimport transformers\n",)])[-1]
        == "transformers"
    )


def test_modules_beside_the_script_count_too() -> None:
    script = "import settings\nimport model\n"
    model = "from transformers import AutoModel\n"
    assert "transformers:AutoModel" in preloadable(
        [
            Source(one)
            for one in (
                script,
                model,
            )
        ]
    )
    assert modules(script, model, 'import os\nos.environ["HF_HOME"] = "x"\n') == ["os"]
    late = 'import os\ndef later():\n    os.environ["HF_HOME"] = "x"\n'
    assert "transformers:AutoModel" in preloadable(
        [
            Source(one)
            for one in (
                script,
                model,
                late,
            )
        ]
    )


def test_a_source_that_is_no_python_takes_nothing() -> None:
    assert (
        preloadable(
            [
                Source(one)
                for one in (
                    "import (",
                    "#!/bin/sh\nexit",
                )
            ]
        )
        == []
    )


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """As much of a plan as is looked at."""
    (tmp_path / "datasets.py").write_text("")
    (tmp_path / "train.py").write_text(
        "import json, transformers, datasets\nfrom peft import LoraConfig\ntransformers.Trainer\n"
    )
    plan = Plan.__new__(Plan)
    of_plan = {"script": str(tmp_path / "train.py"), "cwd": str(tmp_path), "module": None}
    for name, value in (of_plan | {"program": ProgramKind.SCRIPT}).items():
        object.__setattr__(plan, name, value)
    return plan


def of(config: Config, plan: Plan) -> list[str]:
    return script_preload(config, plan, script_sources(Path(plan.script)))


def test_heavy_libraries_are_taken_and_what_lies_beside_the_script_is_not(planned: Plan) -> None:
    assert of(Config(), planned) == ["transformers:Trainer?", "peft:LoraConfig?"]


def test_those_that_are_named_are_taken_instead(planned: Plan) -> None:
    config = Config()
    config.launch.preload = ["json", "transformers", "decimal:Decimal"]
    assert of(config, planned) == ["json", "transformers:Trainer", "decimal:Decimal"]
    config.launch.preload = []
    assert of(config, planned) == []


def test_a_program_that_is_no_python_takes_nothing(planned: Plan) -> None:
    object.__setattr__(planned, "program", ProgramKind.COMMAND)
    assert of(Config(), planned) == []


def test_a_plan_refuses_it_as_the_run_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # where no cluster is on record
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = compose("job=tiny_gpt", "gpu=cpu", "launch.preload=[nowhere_at_all]")
    with pytest.raises(ConfigError, match=r"launch\.preload=nowhere_at_all: there is no module"):
        plan_of(config, observed=False)
    config.ray_address = "head:6379"  # whose nodes may have what is not here
    assert plan_of(config, observed=False)


def test_a_name_that_cannot_be_imported_is_refused_where_that_is_known(tmp_path: Path) -> None:
    config = Config()
    config.launch.preload = ["json", "nowhere_at_all.part:Thing"]
    with pytest.raises(ConfigError, match=r"launch\.preload=nowhere_at_all.part:Thing: there is no module"):
        check_preload(config, own_interpreter=True)
    check_preload(config, own_interpreter=False)
    (tmp_path / "nowhere_at_all.py").write_text("")
    config.env["PYTHONPATH"] = str(tmp_path)
    check_preload(config, own_interpreter=True)
    config.launch.preload = ["json; import os"]
    with pytest.raises(ConfigError, match="is no name of a module; write"):
        check_preload(config, own_interpreter=False)
