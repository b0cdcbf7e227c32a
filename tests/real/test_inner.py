"""What trains inside of a rank's program is seen: one Python process of it at a time."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.rank.launch.launcher import ExecLauncher
from orchestrator.rank.messages import FileSaved, OptimizerFollowed, ProbeFailed, StepTaken, Tracked
from orchestrator.vocabulary import ProgramKind
from tests.support.rank_harness import Bench, Outcome, environment

pytestmark = pytest.mark.real

TRAIN = """
import os
import torch

model = torch.nn.Linear(1, 1)
torch.nn.init.constant_(model.weight, 3.0)
torch.nn.init.zeros_(model.bias)
optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
for _ in range(2):
    optimizer.zero_grad()
    model(torch.ones(1, 1)).sum().backward()
    optimizer.step()
torch.save(model.state_dict(), f"of-{os.environ['RANK']}.pt")
print("trained", os.environ["RANK"], os.environ["WORLD_SIZE"], flush=True)
"""
SITE = "import os; os.environ['SAW'] = 'others'"
# Stands for a process that tells MLflow something, without the seconds that it takes to import.
TELL = """
import os, sys, time
import mlflow

recorder = sys.modules["_orchestrator_rank"].recorder
seen = (os.environ.get("SAW"), "sitecustomize" in sys.modules, "orchestrator" in sys.modules)
print("began", *seen, any("hook" in entry for entry in sys.path), flush=True)
recorder.log(params=[(sys.argv[1], os.environ["LOCAL_RANK"])])
while len(sys.argv) > 2 and not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
if os.fork() == 0:
    recorder.log(params=[("of a child", "1")])
    os._exit(0)
os.wait()
print("told", sys.argv[1], flush=True)
"""
TRACKING = {"run_id": "1", "run_name": "r", "experiment": "e", "forward": True, "artifacts": "/nowhere"}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(ExecLauncher(), tmp_path, environment(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1"))
    for name, text in {
        "train.py": TRAIN, "tell.py": TELL, "mlflow.py": "", "others/sitecustomize.py": SITE,
    }.items():  # fmt: skip
        bench.write(text, name)
    yield bench
    bench.launcher.close()


def run(bench: Bench, text: str, **env: str) -> Outcome:
    """Runs a shell script as a rank, with ``python`` for this interpreter."""
    bench.write(f'python() {{ {sys.executable} "$@"; }}\n{textwrap.dedent(text)}', "train.sh")
    spec = bench.spec("bash", "train.sh", kind=ProgramKind.COMMAND, **env)
    rank = bench.launcher.start(replace(spec, tracking=TRACKING))
    ended = bench.finish(rank)
    assert ended.of(ProbeFailed) == []
    return ended


def told(outcome: Outcome) -> list[dict[str, str]]:
    return [said.params for said in outcome.of(Tracked)]


def test_steps_and_files_of_the_python_inside_are_seen_and_of_a_launchers_only_the_firsts(
    bench: Bench,
) -> None:
    text = """
        python -m torch.distributed.run --nproc_per_node=2 --standalone train.py
        exit 3
    """
    ended = run(bench, text)
    assert ended.status == 3, ended.output
    assert ended.output.count("trained") == 2, ended.output
    assert [(said.step, said.loss) for said in ended.of(StepTaken)] == [(1, 3.0), (2, 3.0)]
    assert [said.optimizer for said in ended.of(OptimizerFollowed)] == ["SGD"]
    assert [Path(said.path).name for said in ended.of(FileSaved)] == ["of-0.pt"]


def test_one_process_after_the_other_is_heard_and_sees_nothing_of_it(bench: Bench, tmp_path: Path) -> None:
    text = """
        python -c 'print("without either")'
        python tell.py one && LOCAL_RANK=0 RANK=7 python tell.py two && LOCAL_RANK=1 python tell.py other
        python -E tell.py three || (unset ORCHESTRATOR_INNER; python tell.py four) || echo both unseen
    """
    ended = run(bench, text, PYTHONPATH=str(tmp_path / "others"))
    assert ended.status == 0, ended.output
    assert ended.output.count("began others True False False") == 2, ended.output
    assert "both unseen" in ended.output
    assert told(ended) == [{"one": "0"}, {"two": "0"}]


def test_of_two_at_once_the_first_is_heard(bench: Bench, tmp_path: Path) -> None:
    text = f"""
        python tell.py first {tmp_path}/go & first=$!
        while ! grep -q began rank0.log; do sleep 0.05; done
        python tell.py second; touch {tmp_path}/go; wait $first
        python tell.py third
    """
    ended = run(bench, text)
    assert ended.output.count("told") == 3, ended.output
    assert told(ended) == [{"first": "0"}, {"third": "0"}]
