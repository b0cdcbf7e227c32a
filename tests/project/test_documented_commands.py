"""Every command in the documents, and every KEY=VALUE in them, is one that the command line takes.

They are taken apart and composed in this process, and those of a block that runs something here are planned:
nothing is started.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override

from orchestrator.cli.args import parse
from orchestrator.cli.cli import main
from orchestrator.cli.flags import VERBS
from orchestrator.config import load
from orchestrator.config.command_line.forms import launch_of
from orchestrator.config.command_line.launch import Launch
from orchestrator.vocabulary import ProgramKind
from tests.project.test_docs import DOCUMENTS, INLINE_CODE, ROOT
from tests.support.compositions import config_of

COMMAND = "python -m orchestrator"
HELP = ROOT / "conf" / "config.yaml"
EXAMPLES = ROOT / "docs" / "examples" / "conf"
# What ends a command of a shell.
AFTER = {"|", ";", "&&", "||", "&", ">", "`", ")"}
SUBSTITUTED = re.compile(r".*\$\((.*)\).*")  # a command whose output is another's word
TOP = {
    *(path.stem for path in load.conf_dir().iterdir()),
    *(name for name in load.Config.__dataclass_fields__),
}
WORD = re.compile(r"(\+{0,2})([a-z_]+)((\.\w+)*)=.+")


def commands(document: Path) -> list[list[str]]:
    """The words of each command: whole lines, continued ones too, inline code, and lines of the help's
    examples."""
    text = document.read_text().replace("\\\n", " ")
    if document == HELP:
        lines = [
            line.strip().partition("  ")[0] for line in text.splitlines() if line.strip().startswith(COMMAND)
        ]
    else:
        lines = [line for line in text.splitlines() if re.match(rf"(    |\w*\$ +|\w+=\S+ ){COMMAND}", line)]
        inline = [code.strip("`").replace("… plan", f"{COMMAND} plan") for code in INLINE_CODE.findall(text)]
        inline = [SUBSTITUTED.sub(r"\1", code) for code in inline]
        lines += [code for code in inline if COMMAND in code and not code.rstrip("…").endswith(f"{COMMAND} ")]
    return [words_of(line.partition(COMMAND)[2]) for line in lines]


def words_of(line: str) -> list[str]:
    words = shlex.split(line.replace("$$", "$"), comments=True)
    end = next((place for place, word in enumerate(words) if word in AFTER), len(words))
    return [word.replace("…", "x") for word in words[:end] if word != "…"]


def single_words(document: Path) -> list[str]:
    """Inline code that is one KEY=VALUE of ours, or several."""
    found = []
    for code in INLINE_CODE.findall(document.read_text()):
        words = code.strip("`").split()
        matches = [WORD.fullmatch(word) for word in words]
        if all(match is not None and match[2] in TOP for match in matches) and "'" not in code:
            found += [word.replace("…", "x") for word in words]
    return found


def composed(args: Sequence[str], config_dir: Path) -> None:
    """As the command line does it, but that each point of a sweep is composed and no verb is called, and that
    no launcher is asked what its flags mean."""
    place = list(args).index("--") if "--" in args else len(args)
    args, command = args[:place], args[place + 1 :]
    if command and not any(word.startswith("job.script=") for word in args):  # else they are that one's words
        shell = config_dir / "train.sh"
        shell.touch(0o755)
        launch_of(command, config_dir, lambda _launcher, words: Launch(ProgramKind.SCRIPT, words[-1]))
    invocation = parse(args)
    if "--help" in args or invocation.version:
        return
    if invocation.remote is not None:
        composed(invocation.remote.words, config_dir)
        return
    made = list(invocation.words)
    given = []
    while made:
        word = made.pop(0)
        if word in ("--config-dir", "-cd"):
            made.pop(0)
            given.append(f"hydra.searchpath=['file://{config_dir}']")
        elif word in ("--cfg", "-c"):
            made.pop(0)
        elif not word.startswith("-"):
            given.append(word)
    if "hydra/sweeper=optuna" in given and find_spec("optuna") is None:  # an extra; its keys are its own
        given = [word for word in given if not word.startswith(("hydra/sweeper", "hydra.sweeper."))]
    for point in points(given):
        config_of(*point)


def points(words: Sequence[str]) -> Iterator[list[str]]:
    """The first and the last of a sweep's points; the words themselves where there is none."""
    parsed = OverridesParser.create().parse_overrides(list(words))
    swept = {place: ends_of(one) for place, one in enumerate(parsed) if one.is_sweep_override()}
    for end in (0, -1) if swept else (0,):
        yield [
            f"{word.partition('=')[0]}={swept[place][end]}" if place in swept else word
            for place, word in enumerate(words)
        ]


def ends_of(swept: Override) -> list[str]:
    """The values of a sweep, of an interval where it begins and ends."""
    value = swept.value()
    if isinstance(value, IntervalSweep):
        return [str(value.start), str(value.end)]
    return list(swept.sweep_string_iterator())


ALL = [
    pytest.param(words, id=f"{document.name}: {' '.join(words)}")
    for document in (*DOCUMENTS, HELP)
    for words in commands(document)
]


@pytest.fixture(scope="module")
def config_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's, with a job of another name."""
    load.register()
    folder = tmp_path_factory.mktemp("documented") / "conf"
    shutil.copytree(EXAMPLES, folder)
    shutil.copy(folder / "job" / "sine.yaml", folder / "job" / "mine.yaml")
    return folder


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader has in his shell by the line above the command."""
    monkeypatch.setenv("SLACK_URL", "https://hooks.slack.com/services/T0/B0/documented")
    monkeypatch.setenv("TOKEN", "documented-token")


@pytest.mark.parametrize("words", ALL)
def test_a_documented_command_is_taken(words: list[str], config_dir: Path) -> None:
    composed(words, config_dir)


def test_documented_words_are_taken(config_dir: Path) -> None:
    """As many as have different keys are composed together; which of them it is, is looked for when that
    fails."""
    left = list(dict.fromkeys(word for document in DOCUMENTS for word in single_words(document)))
    assert {"env.NCCL_IB_HCA=mlx5_0,mlx5_1", "recovery=spot", "launch.zygote=false"} <= set(left)
    while left:
        keys = [word.lstrip("+").partition("=")[0] for word in left]
        batch = [word for place, word in enumerate(left) if keys.index(keys[place]) == place]
        left = [word for word in left if word not in batch]
        try:
            composed([*batch, "job.script=train.py"], config_dir)  # job=script leaves it open
        except Exception:
            for word in batch:
                print(word)
                composed([word, "job.script=train.py"], config_dir)
            raise


def test_the_commands_are_found() -> None:
    found = [" ".join(words) for document in (*DOCUMENTS, HELP) for words in commands(document)]
    assert len(found) > 40
    assert "plan -m cluster=aws_p5,gcp_a4 cluster.nodes=8,16" in found
    assert "job=tiny_gpt job.steps=50 +job.args.lr=1e-3" in found
    assert "up launch.node_address=HEAD" in found
    assert "job=tiny_gpt cluster.nodes=3" in found


@pytest.mark.parametrize(
    "words",
    [
        *(["plan", "job.stepz=1"], ["paln"], ["plan", "job=nosuch"], ["plan", "-m", "cluster=local,nosuch"]),
        *(["compare", "--sort"], ["resume"], ["run_name={x}"], ["job.args.nosuch=1"], ["--nosuch"]),
    ],
)
def test_a_wrong_command_is_not(words: list[str], config_dir: Path) -> None:
    with pytest.raises(Exception, match=r"(?s).+"):
        composed(words, config_dir)


# What else stands in blocks of a shell, and where it is run; the lines of other prompts (head$, other$) are for
# a cluster, and those of site$ for Kubernetes, a cloud or containers, of desk$ for what is run from afar by
# tests/real/test_remote.py.
RUN_BY = {
    "make run": "tests/package",
    "make test": ".ci/suites.py",
    "git clone": "tests/package",
    "openssl ": "tests/services/test_ray_tls.py",
    "printf 'subjectAltName": "tests/services/test_ray_tls.py",
    "chmod 600": "tests/services/test_ray_tls.py",
    "export RAY_USE_TLS": "tests/services/test_ray_tls.py",
    "sbatch ": "tests/services/test_exported_slurm.py",
    "squeue ": "tests/services/test_exported_slurm.py",
    "export SLACK_URL": "tests/real/test_notify.py",
    "torchrun ": "tests/real/test_examples.py",
    "cd monitoring && (umask 077; ray get-auth-token": "tests/services/test_monitoring.py",
    "RAY_AUTH_MODE=token ray list jobs": "tests/services/test_prometheus.py",
    "promtool check config": "tests/services/test_alert_rules.py",
    "prometheus --config.file": "tests/services/test_monitoring.py",
}
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
OF_A_CLUSTER = ("head$", "other$", "site$", "desk$")


def lines_of_blocks() -> list[tuple[str, str]]:
    """Every line that is typed in a block of a shell, with the document that it stands in."""
    found = []
    for document in DOCUMENTS:
        for block in BLOCK.findall(document.read_text().replace("\\\n", " ")):
            found += [(document.name, line) for line in block.splitlines() if re.match(r"\w*\$ ", line)]
    return found


def test_every_line_of_a_block_is_run_or_marked_as_one_for_a_cluster() -> None:
    lines = lines_of_blocks()
    assert len(lines) > 30
    for document, line in lines:
        prompt, _, command = line.partition(" ")
        if prompt in OF_A_CLUSTER or command.strip().startswith(COMMAND):
            continue  # ours are planned below, or composed above
        test = next((where for begin, where in RUN_BY.items() if command.strip().startswith(begin)), None)
        assert test is not None, f"{document}: nothing runs '{command}'; name what does in RUN_BY"
        assert (ROOT / test).exists(), test


def of_a_run() -> list[list[str]]:
    """Commands of blocks that run or plan something on this machine, without sweeps and questions of what can
    be trained, which the planner's own tests ask."""
    found = []
    for _, line in lines_of_blocks():
        if not line.startswith(f"$ {COMMAND}"):
            continue
        words = words_of(line.partition(COMMAND)[2])
        verb = next((word for word in words if word in VERBS), "run")
        asks = any(word.startswith(("budget_usd", "deadline_days", "layout=auto")) for word in words)
        if verb in ("run", "plan") and not asks and not {"-m", "--multirun", "--", "--help"} & set(words):
            found.append([word for word in words if word not in ("run", "plan")])
    return [words for place, words in enumerate(found) if words not in found[:place]]


@pytest.mark.parametrize("words", of_a_run(), ids=" ".join)
def test_a_documented_run_is_one_that_can_be_planned(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a run is refused for, a plan is: with the files of the examples beside it nothing is."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "docs" / "examples", tmp_path, dirs_exist_ok=True)
    (tmp_path / "ds.json").write_text((tmp_path / "deepspeed.json").read_text())
    (tmp_path / "data" / "books").mkdir(parents=True)
    (tmp_path / "data" / "books" / "one.txt").write_text("text\n" * 1000)
    shutil.copy(tmp_path / "data" / "books" / "one.txt", tmp_path / "data" / "one.txt")
    words = [word.replace("/data/", f"{tmp_path}/data/") for word in words]
    here = [] if any(word.startswith(("cluster=", "serve=")) for word in words) else ["gpu=cpu"]
    assert main(["plan", *here, *words]) == 0, capsys.readouterr().err
