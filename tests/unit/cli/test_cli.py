"""The command line as a user meets it: help, plans, and one-line refusals before anything starts."""

from __future__ import annotations

import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from orchestrator.agent.corpus import TextFile
from orchestrator.cli import cli
from orchestrator.cli.args import parse
from orchestrator.cli.flags import FLAGS, VERBS
from orchestrator.config import composing
from orchestrator.driver import preflight
from orchestrator.events import Record, RunEnded, Status
from orchestrator.ledger.run_directory import RunDirectory
from orchestrator.records import record_to_json
from tests.support.folders import PROJECT
from tests.support.golden_text import assert_golden
from tests.support.ports import free_port

# Whatever this machine has, the tests speak of two processor cores.
CPU = ["gpu=cpu", "cluster.gpus_per_node=2", "cluster.cpu_threads_per_rank=1"]
Result = tuple[int, str, str]
Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the command line in this process from an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["orchestrator"])

    def run(*args: str) -> Result:
        try:
            code = cli.main(list(args))
        except SystemExit as ended:
            code = int(ended.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def one_line(result: Result, code: int = 2) -> str:
    """The refusal, which is one line on stderr and nothing else."""
    assert result[0] == code
    lines = result[2].strip().splitlines()
    assert len(lines) == 1, lines
    assert "Traceback" not in result[2]
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


REFUSED: list[tuple[str, list[str], str]] = [
    ("unknown key", ["job.stepz=3"], "job.stepz: no such key; did you mean 'job.steps'?"),
    ("unknown root key", ["clster=local"], "clster: no such key; did you mean 'cluster'?"),
    ("unknown argument", ["job.args.lrr=1"], "job.args.lrr: not set by the config; did you mean 'job.args.lr'?"),
    ("unknown option", ["job=tiny_gtp"], "job=tiny_gtp: no such option; did you mean 'tiny_gpt'?"),
    ("unknown model", ["model=lama3_8b"], "model=lama3_8b: no such option; did you mean 'llama3_8b'?"),
    ("wrong type", ["job.steps=many"], "job.steps=many: takes a whole number above 0 to 1e+12, or null; write e.g. job.steps=1"),
    ("not an override", ["job.steps=}"], "job.steps=}: not an override that Hydra can read"),
    ("group without option", ["model=null"], "model=null: no such option; write e.g. model=tiny_gpt (model: "),
    ("missing value", ["job=script"], "job.script: no value given; set it, e.g. job.script=…"),
    ("unknown flag", ["plan", "--jsn"], "--jsn: no such flag of 'plan'; did you mean '--json'?"),
    ("a flag's value", ["compare", "--limit", "0"], "'0' is not a number of 1 or more"),
    ("two outputs", ["compare", "--json", "--csv"], "not allowed with argument --json"),
    ("run name", ["run_name=../../evil"], "run_name=../../evil: a name is letters, digits"),
    ("not a verb", ["paln"], f"'paln' is not a verb ({', '.join(VERBS)}); did you mean 'plan'?"),
    ("near a verb", ["incident"], "did you mean 'incidents'?"),
    ("which run", ["incidents", "--json"], "incidents: which run? python -m orchestrator incidents RUN"),
    ("which run again", ["sync", "run_root=here"], "sync: which run?"),
    ("no such run", ["incidents", "--json", "nigth-1"], "no run 'nigth-1' in runs (there is none yet)"),
    ("no such run there", ["sync", "night-1", "run_root=here"], "no run 'night-1' in here (there is none yet)"),
    ("a flag of another verb", ["sync", "night-1", "--json"], "--json: a flag of runs, spend, report and others, not of 'sync', which has --trust; leave it out"),
    (
        "batch sizes",
        ["job.global_batch=13"],
        "job.global_batch=13: not a multiple of job.micro_batch=4 × 2 data-parallel ranks = 8; "
        "use job.global_batch=8 or another job.micro_batch",
    ),
    ("ranks", ["job.ranks=5"], "more than the cluster has (cluster.nodes=1 × cluster.gpus_per_node=2 = 2)"),
    (
        "model that cannot fit",
        ["job=llama3_70b", "cluster=dgx_h100", "gpu=h100_sxm", "cluster.gpus_per_node=8", "cluster.nodes=1"],
        "H100 SXM 80GB has 84.9 GB: 110.2 GB too much; would fit: deepspeed=zero3_offload",
    ), ("missing script", ["job.script=absent.py"], "job.script=absent.py: no such file"), ("missing corpus",
    ["job.corpus=[absent]"], "job.corpus: 'absent' names no file"), ("missing corpus of a plan",
    ["plan", *CPU, "job.corpus=[absent]"], "job.corpus: 'absent' names no file"), ("short corpus of a plan",
    ["plan", *CPU, "job.corpus=[short.txt]"],
    "holds 5 bytes in 1 file, but one sequence"), ("missing value of a plan", ["plan", "job=script"],
    "job.script: no value given; set it, e.g. job.script=…"), ("empty corpus", ["job.corpus=[empty.txt]"],
    "job.corpus: empty.txt holds 0 bytes"), ("short corpus", ["job.corpus=[short.txt]"],
    "holds 5 bytes in 1 file, but one sequence needs 257"), ("negative price",
    ["cluster.price.usd_per_gpu_hour=-1"],
    "cluster.price.usd_per_gpu_hour=-1: must be 0 or more"), ("absurd price",
    ["cluster.price.usd_per_gpu_hour=5000"], "5000 USD per CPU core-hour, above 1000"), ("DeepSpeed key",
    ["+deepspeed.gradient_cliping=1"], "deepspeed.gradient_cliping: DeepSpeed 0.19"), ("DeepSpeed near miss",
    ["+deepspeed.gradient_cliping=1"], "did you mean 'gradient_clipping'?"), ("DeepSpeed value",
    ["++deepspeed.fp16.enabled=maybe"], "write e.g. deepspeed.fp16.enabled=false"), (
        "DeepSpeed value, searched",
        ["layout=auto", "deepspeed.gradient_clipping=auto"],
        "write e.g. deepspeed.gradient_clipping=1.0",
    ),
    (
        "DeepSpeed value, on a budget",
        ["plan", "budget_usd=9000", "cluster=dgx_h100", "++deepspeed.train_batch_size=some"],
        "deepspeed.train_batch_size=some: DeepSpeed 0.19",
    ),
    ("a batch that the job gives DeepSpeed", ["job.micro_batch=0"], "job.micro_batch=0: must be greater than 0"),
    ("nested DeepSpeed key", ["+deepspeed.zero_optimization.stagge=2"], "did you mean 'stage'?"),
    ("_target_", ["+job.args._target_=os.system"], "job.args._target_: a config is data here"),
    ("heads", ["model.heads=7"], "not divisible by model.heads=7; use a model.heads that divides 192: 6 or 8"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "expected"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_bad_input_is_refused_in_one_line(
    call: Call, tmp_path: Path, overrides: list[str], expected: str
) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("short")
    args = overrides if overrides[0].isidentifier() else [*CPU, *overrides]
    assert expected in one_line(call(*args))
    assert not (tmp_path / "runs").exists(), "nothing was started or written"


def test_a_run_is_named_after_the_verb_whatever_flags_and_values_are_around_it(
    call: Call, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    directory = tmp_path / "here" / "night-1"
    directory.mkdir(parents=True)
    (directory / "journal.jsonl").write_text(
        record_to_json(Record(0, 0.0, 0.0, RunEnded(Status.FAILED, ""))) + "\n"
    )
    for args in (
        ["night-1", "--json", "run_root=here"],
        ["run_root=here", "--json", "--config-dir", "mine", "night-1"],
        ["here/night-1", "--json"],
    ):
        assert call("incidents", *args) == (0, "[]\n", ""), args
    message = one_line(call("incidents", "nigth-1", "run_root=here"))
    assert message.startswith("no run 'nigth-1' in here; did you mean 'night-1'? (newest: night-1)")
    assert "night-2: not an override" in one_line(call("incidents", "night-1", "run_root=here", "night-2"))


def test_a_run_directory_that_cannot_be_written(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in one_line(call(*CPU, "run_root=file"), code=4)


def test_a_run_directory_that_a_live_run_holds(call: Call, tmp_path: Path) -> None:
    held = RunDirectory(tmp_path / "held")
    held.hold()
    try:
        message = one_line(call(*CPU, "run_dir=held"), code=4)
    finally:
        held.release()
    assert f"held by another live run (process {os.getpid()})" in message


def test_a_ray_address_where_nothing_answers(call: Call) -> None:
    assert "nothing answers there" in one_line(call(*CPU, f"ray_address=127.0.0.1:{free_port()}"), code=3)


def test_a_ray_address_that_is_none(call: Call) -> None:
    assert "expected host:port" in one_line(call(*CPU, "ray_address=somewhere"), code=3)


def test_another_cluster_needs_an_address(call: Call) -> None:
    message = one_line(call("cluster=dgx_h100", "job=llama3_8b"))
    assert "cluster=dgx_h100: needs ray_address=host:port" in message


def test_a_model_that_the_script_does_not_build(call: Call) -> None:
    args = ["job=pretrain", "model=gpt3_175b", "cluster=dgx_h100", "cluster.nodes=64", "deepspeed=zero3"]
    message = one_line(
        call(*args, "layout.recompute=true", "job.global_batch=512", "ray_address=127.0.0.1:1")
    )
    assert "model=gpt3_175b" in message
    assert "has gated_mlp=false, but job 'pretrain' builds gated_mlp=true only" in message


def test_an_mlflow_server_that_is_required_and_absent(call: Call) -> None:
    uri = f"tracking.uri=http://127.0.0.1:{free_port()}"
    message = one_line(call(*CPU, uri, "tracking.required=true"), code=5)
    assert message.startswith("tracking.uri: ")
    assert "tracking.required=false" in message


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_an_mlflow_server_that_never_answers_is_known_soon(call: Call, silent_server: str) -> None:
    one_line(
        call(
            *CPU, f"tracking.uri={silent_server}", "tracking.required=true", "tracking.connect_timeout_s=0.5"
        ),
        5,
    )


def test_compare_with_a_server_that_fails(call: Call) -> None:
    class Broken(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(500)

        def log_message(self, *_args: Any) -> None:
            return

    with http.server.HTTPServer(("127.0.0.1", 0), Broken) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        code, _out, err = call("compare", f"tracking.uri=http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()
    assert code == 5
    assert "500" in err


# ---- help and plans -----------------------------------------------------------------------------


def test_help_explains_verbs_groups_and_examples(call: Call) -> None:
    code, out, _err = call("--help")
    assert code == 0
    for word in (
        "run (default)",
        "plan",
        "compare",
        "sync RUN",
        "incidents RUN",
        "resume RUN",
        "cluster: aws_p4d, aws_p4de, aws_p5",
        "job: ",
        "Examples",
        "Exit codes",
        "--multirun",
    ):
        assert word in out


def test_help_lists_every_verb_and_flag_that_it_names_is_one(call: Call) -> None:
    _code, out, _err = call("--help")
    listed = out.partition("\nVerbs\n")[2].partition("\n\n")[0]
    named = set(re.findall(r"^  ([a-z]+)", listed, re.MULTILINE))
    assert set(VERBS) <= named
    taken = {flag for flags in FLAGS.values() for one in flags for flag in one.names}
    assert set(re.findall(r"--[a-z-]+", listed)) <= taken | {"--help"}


def test_version(call: Call) -> None:
    from orchestrator import __version__

    code, said, errors = call("--version")
    assert (code, said.splitlines()[0], errors) == (0, f"orchestrator {__version__}", "")


def test_hydras_own_habits_hold(call: Call) -> None:
    code, out, _err = call("--cfg", "job", *CPU, "job.steps=7")
    assert code == 0
    assert "steps: 7" in out


def test_info_and_completion_are_hydras(tmp_path: Path) -> None:
    """In processes of their own: Hydra's --info leaves its logging behind."""
    for flags, expected in (
        (["plan", "--info", "defaults"], "cluster/local"),
        (["--shell-completion", "install=bash"], "hydra_bash_completion"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", *flags],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


@pytest.mark.parametrize("flags", [["--multirun", *CPU], [*CPU, "--multirun"], [*CPU[:1], "-m", *CPU[1:]]])
def test_a_sweep_is_planned_wherever_its_flag_stands(call: Call, flags: list[str]) -> None:
    code, out, err = call("plan", "--json", *flags, "job.steps=5,6")
    assert (code, err) == (0, "")
    assert [point["plan"]["prediction"]["steps"] for point in json.loads(out)] == [5, 6]


def test_plan_json_is_for_programs(call: Call) -> None:
    code, out, err = call("plan", "--json", *CPU, "+env.NCCL_SOCKET_IFNAME=eth7", "+env.HF_TOKEN=hf_secret")
    assert (code, err) == (0, "")
    plan = json.loads(out)
    assert plan["layout"]["ranks"] == 2
    assert plan["model"]["parameters"] == 1_636_032
    assert plan["price"]["usd_per_gpu_hour"] == pytest.approx(0.048)
    assert plan["environment"]["NCCL_SOCKET_IFNAME"]["value"] == "eth7"
    assert "set by the user instead of lo" in plan["environment"]["NCCL_SOCKET_IFNAME"]["source"]
    assert all(set(setting) == {"value", "source"} for setting in plan["environment"].values())
    assert "hf_secret" not in out


LEFT_TO_HYDRA = [
    ["--info", "defaults"], ["hydra.mode=MULTIRUN"], ["hydra.job.chdir=true"],
    ["+job.args.where='${hydra:runtime.cwd}'"],
]  # fmt: skip


@pytest.mark.parametrize("words", LEFT_TO_HYDRA, ids=" ".join)
def test_what_is_more_than_a_configuration_is_left_to_hydra(words: list[str]) -> None:
    invocation = parse(["plan", *CPU, *words])
    assert invocation.is_for_hydra or composing.composed(invocation.words).asks_for_hydra


@pytest.mark.parametrize(
    "choice", [CPU, ["job=llama3_70b", "cluster=azure_nd_h100_v5", "+env.A=b"], ["job=script"]]
)
def test_what_is_composed_once_is_what_hydra_composes(call: Call, choice: list[str]) -> None:
    _code, out, _err = call("--cfg", "job", *choice)
    assert OmegaConf.to_yaml(composing.composed(choice).config).strip() == out.strip()


def test_plan_imports_nothing_heavy_and_starts_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from orchestrator.cli.cli import main; main(['plan', *sys.argv[1:]])\nheavy = {'torch',"
        " 'ray', 'mlflow', 'deepspeed', 'numpy', 'pandas', 'matplotlib', 'orchestrator.events',"
        " 'orchestrator.rank.messages', 'webbrowser', 'importlib.metadata'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *CPU],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


GOLDEN_PLANS = {
    "tiny_gpt_on_local": CPU,
    "llama3_8b_on_dgx_h100": ["job=llama3_8b", "cluster=dgx_h100"],
    "llama3_70b_on_azure_nd_h100_v5": ["job=llama3_70b", "cluster=azure_nd_h100_v5", "cluster.nodes=64"],
    "gpt3_175b_on_azure_nd_a100_v4": [
        "job=pretrain", "model=gpt3_175b", "cluster=azure_nd_a100_v4", "cluster.nodes=128", "deepspeed=zero3",
        "layout.recompute=true", "job.global_batch=1024",
    ],
    "mixtral_8x7b_on_gcp_a3_mega": [
        "job=pretrain", "model=mixtral_8x7b", "cluster=gcp_a3_mega", "deepspeed=zero3",
        "layout.recompute=true",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN_PLANS)
def test_golden_plans(call: Call, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The standard library, which is the corpus of some, has another size in every version of Python."""
    files = [TextFile("/stdlib/os.py", "os.py", 31_500_000)]
    monkeypatch.setattr(preflight.corpus, "find", lambda *_: files)
    code, out, _err = call("plan", *GOLDEN_PLANS[name])
    assert code == 0
    assert_golden(f"plan_{name}.txt", out.replace(str(PROJECT), "<project>"))
