"""Who makes the ranks of a script share their states, as its source says, and what a plan makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator import compose, make_plan, plan_budget
from orchestrator.cli import cli
from orchestrator.errors import ConfigError
from orchestrator.plan.plan import Plan
from orchestrator.plan.sharing import literal_deepspeed, sharing
from orchestrator.plan.source import Source
from orchestrator.vocabulary import StateSharing

DDP, FSDP, DEEPSPEED, UNKNOWN = (
    StateSharing.DDP, StateSharing.FSDP, StateSharing.DEEPSPEED, StateSharing.UNKNOWN,
)  # fmt: skip
OF_DDP = "from torch.nn.parallel import DistributedDataParallel as Wrapped\nmodel = Wrapped(model)\n"
OF_FSDP = "from torch.distributed.fsdp import fully_shard\nfully_shard(model)\n"
OF_TRAINER = "from transformers import Trainer\nTrainer(model=model, args=args).train()\n"
OF_LITERAL = """
import deepspeed
ds_config = {"train_batch_size": 64, "train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": 2}}
engine, *_ = deepspeed.initialize(model=model, config=ds_config)
"""


@pytest.mark.parametrize(
    ("source", "words", "how", "by"),
    [
        (OF_DDP, [], DDP, "DistributedDataParallel"),
        ("model = DDP(model)", [], DDP, "DistributedDataParallel"),
        (OF_FSDP, [], FSDP, "fully_shard"),
        ("model = fsdp.FullyShardedDataParallel(model)", [], FSDP, "FullyShardedDataParallel"),
        (OF_DDP + OF_FSDP, [], UNKNOWN, "DistributedDataParallel or fully_shard"),
        ("import deepspeed\ndeepspeed.initialize(config=args.c)", [], DEEPSPEED, "deepspeed.initialize"),
        (OF_TRAINER, [], DDP, "Trainer of transformers"),
        (OF_TRAINER, ["--fsdp", "full_shard"], FSDP, "--fsdp"),
        ("import lightning as L\nL.Trainer(max_steps=3)", [], DDP, "Trainer of lightning"),
        ("import lightning as L\nL.Trainer(strategy='fsdp')", [], FSDP, "strategy=fsdp"),
        ("import lightning as L\nL.Trainer(strategy=a.s)", ["--strategy=ddp"], DDP, "--strategy=ddp"),
        ("import lightning as L\nL.Trainer(strategy=a.s)", [], UNKNOWN, "Trainer of lightning"),
        ("isinstance(model, DistributedDataParallel)", [], UNKNOWN, ""),
        ("this is no Python", [], UNKNOWN, ""),
    ],
)  # fmt: skip
def test_the_source_says_it(source: str, words: list[str], how: StateSharing, by: str) -> None:
    found = sharing([Source(source)], words, {}, hands_deepspeed=False)
    assert (found.how, found.by) == (how, by)


def test_what_is_handed_over_and_what_a_launcher_sets_stand_above_the_source() -> None:
    assert sharing([Source(OF_DDP)], [], {}, hands_deepspeed=True).how is DEEPSPEED
    launched = sharing([Source(OF_DDP)], [], {"ACCELERATE_USE_FSDP": "true"}, hands_deepspeed=False)
    assert (launched.how, launched.by) == (FSDP, "ACCELERATE_USE_FSDP")


def test_a_dictionary_is_taken_where_it_is_spelt_out_and_not_changed() -> None:
    assert literal_deepspeed([Source(OF_LITERAL)]) == {
        "train_batch_size": 64, "train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": 2},
    }  # fmt: skip
    assert (
        literal_deepspeed([Source("deepspeed.initialize(config={'zero_optimization': {'stage': 1}})")])
        is not None
    )
    for changed in (
        "ds_config['train_batch_size'] = args.batch", "ds_config['zero_optimization']['stage'] = 3",
        "ds_config.update(more)", "ds_config |= more", "ds_config = {}",
        "deepspeed.initialize(config=other)",
    ):  # fmt: skip
        assert literal_deepspeed([Source(OF_LITERAL + changed)]) is None, changed
    assert literal_deepspeed([Source("deepspeed.initialize(config={'train_batch_size': args.b})")]) is None


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "train.py"


WORDS = ("job=script", "job.script=train.py", "model=llama3_8b", "cluster=dgx_h100")


def plan_of(script: Path, source: str, *words: str) -> Plan:
    script.write_text(source)
    return make_plan(compose(*WORDS, *words), observed=False)


def test_memory_and_words_of_a_plan_are_of_what_the_script_does(planned: Path) -> None:
    assert plan_of(planned, OF_FSDP).layout.zero_stage == 3
    text = str(plan_of(planned, OF_FSDP))
    assert "states shared by FSDP (fully_shard)" in text
    assert "not used by the script, as its source says" in text
    assert "ZeRO" not in text
    with pytest.raises(ConfigError, match="too much; with the script's DistributedDataParallel every rank"):
        plan_of(planned, OF_DDP)
    small = plan_of(planned, OF_DDP, "model=tiny_gpt")
    assert "every rank holds all states (DistributedDataParallel)" in str(small)
    assert (small.layout.zero_stage, small.to_json()["states"]) == (0, "ddp")
    unknown = plan_of(planned, "train()", "model=tiny_gpt")
    assert "ZeRO-1 assumed (its source does not say)" in str(unknown)


def test_a_plan_is_made_from_the_dictionary_that_the_script_hands_over(planned: Path) -> None:
    plan = plan_of(planned, OF_LITERAL, "model=tiny_gpt", "job.ranks=8")
    assert (plan.layout.zero_stage, plan.layout.global_batch, plan.layout.accumulation) == (2, 64, 2)
    assert plan.deepspeed_in_source
    assert "as the script's source hands it to deepspeed.initialize" in str(plan)
    handed = plan_of(planned, OF_LITERAL, "model=tiny_gpt", "+job.args.c={deepspeed_config}")
    assert (handed.layout.zero_stage, handed.deepspeed_in_source) == (1, False)
    with pytest.raises(
        ConfigError, match=r"=64: not a multiple .* in what .*train.py hands to deepspeed.init"
    ):
        plan_of(planned, OF_LITERAL, "model=tiny_gpt")


def test_a_budget_looks_at_the_script_as_a_plan_does(
    planned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned.write_text(OF_FSDP + "parser.add_argument('--resume')\n")
    words = [*WORDS, "budget_usd=5e4"]
    found = plan_budget(compose(*words))
    layouts = [one.candidate.layout for one in found.options]
    assert {(one.zero_stage, one.tp, one.pp) for one in layouts} == {(3, 1, 1)}
    assert cli.main(["plan", *words, "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["states"], body["states_by"]) == ("fsdp", "fully_shard")
    assert body["resume"].startswith("with --resume={checkpoint} from the second attempt on")
    Path("ds.json").write_text('{"train_batch_size": 256, "zero_optimization": {"stage": 2}}')
    best = plan_budget(compose(*words, "+job.args.deepspeed=ds.json")).best
    assert (best.candidate.layout.zero_stage, best.candidate.layout.global_batch) == (2, 256)
    planned.unlink()
    assert cli.main(["plan", *words]) == 2
    assert "job.script=train.py: no such file" in capsys.readouterr().err
