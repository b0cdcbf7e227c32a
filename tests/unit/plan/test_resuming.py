"""How a script goes on from a checkpoint, as its source says."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.composing import compose
from orchestrator.driver.preflight import plan_of
from orchestrator.errors import ConfigError
from orchestrator.plan.resuming import resuming
from orchestrator.plan.source import Source

TRAINER = """
from transformers import HfArgumentParser, Trainer, TrainingArguments
parser = HfArgumentParser((ModelArguments, TrainingArguments))
trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
"""
TRL = """
from trl import ModelConfig, ScriptArguments, SFTConfig, TrlParser
script_args, training_args, model_args = TrlParser((ScriptArguments, SFTConfig, ModelConfig)).parse_args_and_config()
"""
NANO_GPT = """
init_from = 'scratch' # 'scratch' or 'resume' or 'gpt2*'
exec(open('configurator.py').read())
if init_from == 'scratch':
    pass
elif init_from == 'resume':
    checkpoint = torch.load(ckpt_path, map_location=device)
"""
LIGHTNING_CLI = "from lightning.pytorch.cli import LightningCLI\nLightningCLI(Model, Data)"
ACCELERATE = """
parser.add_argument(
    "--resume_from_checkpoint",
    type=str,
    default=None,
    help="If the training should continue from a checkpoint folder.",
)
if args.resume_from_checkpoint is not None:
    accelerator.load_state(checkpoint_path)
"""
TYRO = """
@dataclass
class Arguments:
    resume_from: str | None = None
args = tyro.cli(Arguments)
"""
CLICK = "@click.command()\n@click.option('--resume', is_flag=True)\ndef main(resume): pass"
MEGATRON = "group.add_argument('--save', type=str)\ngroup.add_argument('--load', type=str)"
TELLS = {
    "Trainer": (TRAINER, "--resume_from_checkpoint={checkpoint}"),
    "TRL": (TRL, "--resume_from_checkpoint={checkpoint}"),
    "nanoGPT": (NANO_GPT, "--init_from=resume"),
    "Lightning's command line": (LIGHTNING_CLI, "--ckpt_path={checkpoint}"),
    "Lightning": ("p.add_argument('--ckpt_path')\nfit(ckpt_path=args.ckpt_path)", "--ckpt_path={checkpoint}"),
    "accelerate": (ACCELERATE, "--resume_from_checkpoint={checkpoint}"),
    "dashes": ("p.add_argument('--resume-from-checkpoint')", "--resume-from-checkpoint={checkpoint}"),
    "DeepSpeed's examples": ("p.add_argument('--load_checkpoint_dir')", "--load_checkpoint_dir={checkpoint}"),
    "Megatron": (MEGATRON, "--load={checkpoint}"),
    "Megatron's library": (
        "from megatron.training import pretrain\npretrain(provider)",
        "--load={checkpoint}",
    ),
    "torchvision": ("p.add_argument('--resume', default='', type=str)", "--resume={checkpoint}"),
    "a flag": ("p.add_argument('--resume', action='store_true')", "--resume"),
    "a flag of argparse": ("p.add_argument('--resume', action=argparse.BooleanOptionalAction)", "--resume"),
    "a short name before": ("p.add_argument('-r', '--resume', type=str)", "--resume={checkpoint}"),
    "click": (CLICK, "--resume"),
    "tyro": (TYRO, "--resume_from={checkpoint}"),
    "the most telling one": (
        "a('--resume', action='store_true')\na('--resume_from_checkpoint')",
        "--resume_from_checkpoint={checkpoint}",
    ),
}


@pytest.mark.parametrize(("source", "word"), TELLS.values(), ids=TELLS.keys())
def test_a_known_option_is_told_from_the_second_attempt_on(source: str, word: str) -> None:
    found = resuming(None, [Source(source)])
    assert found.args == (word,)
    assert found.how == f"with {word} from the second attempt on, which the script knows"


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("engine.load_checkpoint(args.checkpoint_dir)", "load_checkpoint"),
        ("trainer.train(resume_from_checkpoint=get_last_checkpoint(out))", "get_last_checkpoint"),
        ("trainer.train(resume_from_checkpoint=True)", "train"),
        ("trainer.fit(model, ckpt_path='last')", "fit"),
        ("accelerator.load_state(folder)", "load_state"),
    ],
)
def test_a_script_that_finds_its_checkpoint_is_told_nothing(source: str, call: str) -> None:
    found = resuming(None, [Source(source)])
    assert found.args == ()
    assert found.how == f"with the same command: the script calls {call} by itself"


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        ("if os.path.exists(path):\n    state = torch.load(path)", "torch.load and exists"),
        (
            "import torch.distributed.checkpoint as dcp\nfor p in out.glob('*'):\n    dcp.load(s)",
            "dcp.load and glob",
        ),
        ("torch.distributed.checkpoint.load(s, checkpoint_id=p)\np.is_dir()", "checkpoint.load and is_dir"),
    ],
)
def test_a_script_that_looks_for_a_file_and_loads_it_may_find_its_own(source: str, calls: str) -> None:
    found = resuming(None, [Source(source)])
    assert found.args == ()
    assert found.how == f"with the same command, if it looks for its own checkpoint: the script calls {calls}"


@pytest.mark.parametrize(
    "source",
    [
        "torch.load('weights.pt')",
        "os.path.exists('data')",
        "print('resume_from_checkpoint')",
        "p.add_argument('--load', type=str)",
        "init_from = 'scratch'",
        "@dataclass\nclass Settings:\n    resume: str = ''",
        "trainer.train(resume_from_checkpoint=False)",
        "def broken(:",
        "\0",
        "#!/bin/bash\necho '--resume'",
    ],
)
def test_where_nothing_is_known_it_is_said_with_what_to_type(source: str) -> None:
    found = resuming(None, [Source(source)])
    assert found.args == ()
    assert found.how.startswith("it cannot, and begins anew after a fault: ")
    assert "job.resume_args=['--OPTION={checkpoint}']" in found.how


def test_what_is_told_stands_above_what_is_found_and_nothing_may_be_told() -> None:
    told = resuming(["--go={checkpoint}", "--at={resume_step}"], [Source(TRAINER)])
    assert told.args == ("--go={checkpoint}", "--at={resume_step}")
    assert (
        told.how == "with --go={checkpoint} --at={resume_step} from the second attempt on (job.resume_args)"
    )
    assert resuming([], [Source(TRAINER)]).args == ()
    assert resuming(None, []).how == "", "nobody has looked"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("--go={checkpoints}", "there is no {checkpoints}; did you mean '{checkpoint}'?"),
        ("--dir={checkpoint_dir}", "there is no {checkpoint_dir}"),
        ("", "one of its words is empty"),
    ],
)
def test_a_word_that_cannot_be_filled_in_is_refused(word: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resuming([word], [])
    assert says in str(refused.value)
    assert str(refused.value).startswith("job.resume_args: ")


def test_the_plan_says_it_in_one_line(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(ACCELERATE)
    words = ("gpu=cpu", "job=script", f"job.script={script}")
    plan = plan_of(compose(*words), observed=False)
    assert plan.resume_args == ("--resume_from_checkpoint={checkpoint}",)
    assert "  resume      with --resume_from_checkpoint={checkpoint} from the second attempt on" in str(plan)
    assert plan.to_json()["resume"] == plan.resume
    told = plan_of(compose(*words, "job.resume_args=['--go={checkpoint}','--again']"), observed=False)
    assert told.resume_args == ("--go={checkpoint}", "--again")
