"""The public API: what it exports, what importing it costs, and its document's program, run."""

from __future__ import annotations

import ast
import inspect
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator as orc
from orchestrator.ledger.run_directory import LOST
from tests.support.folders import KEPT

DOCUMENT = Path(orc.__file__).parents[1] / "docs" / "python_api.md"
HEAVY = ("torch", "ray", "mlflow", "rich", "hydra", "deepspeed")


def python(code: str, folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(orc.__file__).parents[1]), **settings}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_all_names_are_there_in_any_order_and_each_is_what_it_says() -> None:
    names = list(orc.__all__)
    random.Random(1).shuffle(names)
    for name in names:
        assert getattr(orc, name) is not None
    assert set(orc.__all__) == set(dir(orc)) == {*orc._ROOMS, "__version__"}
    assert len(orc.__all__) == len(set(orc.__all__))
    star: dict[str, object] = {}
    exec("from orchestrator import *", star)
    assert {name for name in star if name != "__builtins__"} == set(orc.__all__)
    typed = ast.parse(Path(orc.__file__).read_text())
    for_type_checkers = [
        alias.asname or alias.name
        for block in typed.body
        if isinstance(block, ast.If)
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    ]
    assert sorted([*for_type_checkers, "__version__"]) == sorted(orc.__all__)
    assert {name for name in orc.__all__ if isinstance(getattr(orc, name), type)} == {
        name for name in orc.__all__ if name[0].isupper()
    }
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        orc.nothing  # noqa: B018


def test_no_public_name_is_that_of_a_room() -> None:
    rooms = {path.parent.name for path in Path(orc.__file__).parent.glob("*/__init__.py")}
    assert not rooms & set(orc.__all__)
    assert not {path.stem for path in Path(orc.__file__).parent.glob("*.py")} & set(orc.__all__)


def test_importing_it_imports_nothing_heavy(tmp_path: Path) -> None:
    done = python(
        f"import sys, orchestrator; print([name for name in {HEAVY} if name in sys.modules])", tmp_path
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_every_name_of_the_document_is_exported_and_the_other_way_round() -> None:
    text = DOCUMENT.read_text()
    used = set(re.findall(r"\borc\.(\w+)", text))
    assert used <= set(orc.__all__)
    assert {name for name in orc.__all__ if name != "__version__"} <= set(re.findall(r"`(\w+)[(`]", text))
    for kind in (orc.Run, orc.WarmCluster):
        public = {name for name in vars(kind) if not name.startswith("_")}
        assert public <= set(re.findall(r"`\.(\w+)", text)), kind


def documented() -> list[object]:
    """Every public function, and every public method of the classes that are handed out to be called."""
    functions = [getattr(orc, name) for name in orc.__all__ if inspect.isfunction(getattr(orc, name))]
    methods = [
        method
        for kind in (orc.Run, orc.WarmCluster, orc.Plan, orc.RunTable, orc.LayoutSearch)
        for name, method in vars(kind).items()
        if inspect.isfunction(method) and (name == "__init__" or not name.startswith("_"))
        if inspect.getsourcefile(method) is not None and method.__module__.startswith("orchestrator")
    ]
    return [*functions, *methods]


@pytest.mark.parametrize("call", documented(), ids=lambda call: call.__qualname__)
def test_each_public_call_says_what_it_takes_and_what_it_raises(call: object) -> None:
    try:
        text = inspect.getdoc(call) or ""
        source = inspect.getsource(call)  # type: ignore[arg-type]
    except OSError:
        return  # made by dataclass
    assert text.partition("\n")[0].strip()
    taken = [name for name in inspect.signature(call).parameters if name != "self"]  # type: ignore[arg-type]
    described = set(re.findall(r"^    (\w+):", text.partition("Args:")[2].partition("Raises:")[0], re.M))
    assert set(taken) == described
    if re.search(r"\braise |_ask\(|\.wait\(|find_run\(|compose\(", source):
        assert re.search(r"Raises:\n    \w+: \S", text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["job=tiny_gtp"], "job=tiny_gtp: no such option; did you mean 'tiny_gpt'"),
        (["job.stepz=3"], "did you mean"),
        (["job.steps=many"], "job.steps"),
        (["--multirun"], "--multirun: flags are for the command line"),
        (["+hydra.callbacks.x._target_=os.system"], "hydra.callbacks"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_key(words: list[str], said: str) -> None:
    with pytest.raises(orc.ConfigError, match=re.escape(said)) as refusal:
        orc.compose(*words)
    assert "\n" not in str(refusal.value)


def test_text_is_taken_as_it_is_given() -> None:
    config = orc.compose("job=tiny_gpt", "env.NCCL_IB_HCA=mlx5_0,mlx5_1", "+job.args.note=a=b: {c}")
    assert (config.env["NCCL_IB_HCA"], config.job.args["note"]) == ("mlx5_0,mlx5_1", "a=b: {c}")


def test_a_plan_is_that_of_the_command_line() -> None:
    plan = orc.make_plan(orc.compose("job=llama3_8b", "cluster=dgx_h100", "cluster.nodes=4"))
    assert (plan.layout.ranks, plan.cluster, plan.prediction.cost_usd is not None) == (32, "dgx_h100", True)


class Driver:
    """A process that ends when the test says so."""

    pid = 4_000_000

    def __init__(self) -> None:
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code


def test_what_an_earlier_driver_said_last_is_not_the_end_of_the_next(tmp_path: Path) -> None:
    night = shutil.copytree(KEPT / "0.1.0" / "night", tmp_path / "night")
    assert (orc.open_run(night).state, len(orc.open_run(night).incidents)) == ("finished", 1)
    assert orc.open_run(night).checkpoints == [4, 8]
    lines = (night / "journal.jsonl").read_text().splitlines(keepends=True)
    driver = Driver()
    again = orc.Run(night, driver, before=len(lines) - 1)  # type: ignore[arg-type]
    assert again.state == "recovering"
    with pytest.raises(TimeoutError, match=r"it goes on after 0 s \(recovering\)"):
        again.wait(0)
    driver.code = 1
    assert (again.state, again.wait(), orc.open_run(night).state) == (LOST, LOST, "finished")
    with pytest.raises(
        orc.RunDirectoryError, match=r"its driver was lost, see driver\.log there; resume takes it up"
    ):
        again.result()


class Seen:
    """An observer."""

    def __init__(self) -> None:
        self.told: list[tuple[orc.Record, orc.Bill]] = []

    def observe(self, record: orc.Record, bill: orc.Bill) -> None:
        self.told.append((record, bill))


# What a program may count on to be its own.
UNTOUCHED = """
import os, signal
from tests.support.folders import KEPT
def own():
    return os.getcwd(), [signal.getsignal(number) for number in signal.valid_signals()]
before = own()
{program}
assert own() == before
"""


@pytest.mark.real
def test_the_documents_program_runs(tmp_path: Path) -> None:
    """As it stands there, in an empty folder; then another process reads the run, and one that is refused
    says why."""
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S)
    done = python(UNTOUCHED.format(program=program), tmp_path, HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    steps = [place for place, line in enumerate(lines) if line.startswith("step ")]
    assert [lines[place].split()[1] for place in steps] == ["1", "2", "3", "4", "5", "6"]
    (path,) = (one.parent for one in (tmp_path / "runs").glob("*/journal.jsonl"))
    run = orc.open_run(path)
    assert lines[-1].startswith(f"{run.name} {run.bill.cost_usd} ")
    assert lines[steps[-1] + 1].startswith(f"finished {run.bill.gpu_hours} {run.bill.cost_usd} 0 [")
    assert (run.state, run.name, run.incidents) == ("finished", path.name, [])
    assert "finished" in (path / "driver.log").read_text()
    assert [record.seq for record in run.follow()] == list(range(len(list(run.follow()))))
    seen = Seen()
    run.watch(seen)
    assert [record.seq for record, _ in seen.told] == [record.seq for record in run.follow()]
    assert seen.told[-1][1] == run.bill
    run.stop()
    assert run.wait(1.0) == "finished"
    with pytest.raises(orc.RunDirectoryError, match="there is no log of rank 7"):
        run.logs(rank=7)
    with pytest.raises(orc.RunDirectoryError, match="holds an earlier run's journal"):
        orc.start(
            orc.compose("job=tiny_gpt", f"run_dir={path}", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db")
        )
    with pytest.raises(orc.RunDirectoryError, match="its run has finished"):
        orc.resume(run)
    journal = (path / "journal.jsonl").read_text().splitlines(keepends=True)
    (path / "journal.jsonl").write_text("".join(journal[:-1]))
    assert orc.open_run(path).state == LOST
