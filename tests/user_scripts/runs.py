"""The scripts, what they are called with, and their runs: under us on a kept cluster, and under plain
torchrun."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from signal import SIGKILL
from typing import Any

from tests.faults.faults import Fault, fail
from tests.faults.runs import UNTRACKED, Run, User
from tests.support.ports import free_port

HERE = Path(__file__).parent
# Steps take so long that a kill which is asked for in the middle strikes there.
STEPS, EVERY, KILLED_AT = 20, 5, 11
CPU = [
    "gpu=cpu", "cluster=local", "cluster.gpus_per_node=2", "cluster.cpu_threads_per_rank=1",
    "launch.dashboard=false",
]  # fmt: skip
TIMEOUT_S = 400


def of_the_trainer(folder: Path) -> dict[int, float]:
    """What transformers' Trainer, and all that is made of it, logs."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {line["step"]: line["loss"] for line in history if "loss" in line}


def of_lines(folder: Path) -> dict[int, float]:
    """One JSON object a step; a step that was done twice has its last."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return {line["step"]: line["train_loss"] for line in lines}


def of_lightning(folder: Path) -> dict[int, float]:
    """One file for every start of the script; Lightning counts steps from 0 here."""
    losses: dict[int, float] = {}
    for path in sorted(
        folder.glob("csv/version_*/metrics.csv"), key=lambda one: int(one.parent.name.split("_")[1])
    ):
        with path.open() as file:
            losses |= {int(row["step"]) + 1: float(row["train_loss"]) for row in csv.DictReader(file)}
    return losses


@dataclass(frozen=True)
class Job:
    """A script as a user of a library writes it, and how it is asked for a short training."""

    library: str
    script: str
    logged: Callable[[Path], dict[int, float]]
    args: dict[str, Any] = field(default_factory=dict)
    # whether the library finds its place in the data and its random numbers again
    goes_on_exactly: bool = True
    about: str = ""

    def __str__(self) -> str:
        return self.library + self.about

    def missing(self) -> str | None:
        """What to do for a library that is not there."""
        if find_spec(self.library) is not None:
            return None
        return f"{self.library} is not installed: pip install 'orchestrator[scripts]', or make test-scripts"


TRAINER = {"max_steps": STEPS, "save_steps": EVERY, "logging_steps": 1, "per_device_train_batch_size": 8}
TRANSFORMERS = {"deepspeed": "zero2.json", **TRAINER, "save_total_limit": 2}
ACCELERATE = {
    "deepspeed_config_file": "zero1_accumulating.json",
    "max_train_steps": STEPS,
    "checkpointing_steps": EVERY,
    "per_device_train_batch_size": 24,
}
LIGHTNING = {
    "deepspeed_config": "zero2_lightning.json",
    "max_steps": STEPS,
    "save_every": EVERY,
    "batch_size": 24,
}
TRL = {"deepspeed": "zero3.json", **TRAINER, "bf16": False}
JOBS = [
    Job("transformers", "transformers_trainer.py", of_the_trainer, TRANSFORMERS),
    Job("accelerate", "accelerate_loop.py", of_lines, ACCELERATE),
    Job("lightning", "lightning_fit.py", of_lightning, LIGHTNING, goes_on_exactly=False),
    Job("trl", "trl_sft.py", of_the_trainer, TRL),
]

# Its Trainer with DDP alone, and two micro-batches a step.
WITHOUT_DEEPSPEED = Job(
    "transformers", "transformers_trainer.py", of_the_trainer,
    {**TRAINER, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}, about="-ddp",
)  # fmt: skip


@dataclass
class ScriptUser(User):
    """Has the scripts in the working directory; a run that several tests look at is made once."""

    made: dict[tuple[str, str], Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        shutil.copytree(HERE / "jobs", self.folder, dirs_exist_ok=True)
        # What the ranks get from the plan, for torchrun; and no library may look for anything outside.
        self.environment |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        self.environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

    def whole(self, job: Job) -> Run:
        """To its end without a fault."""
        return self._once(job, "whole", lambda: self.run(f"{job}-whole", job))

    def killed(self, job: Job) -> Run:
        """With a rank that is killed between two checkpoints."""
        fault = fail(rank=1).at(step=KILLED_AT).by(SIGKILL)
        return self._once(job, "killed", lambda: self.run(f"{job}-killed", job, fault))

    def under_torchrun(self, job: Job) -> Path:
        """The same script by torchrun: the folder with what it left."""
        return self._once(job, "torchrun", lambda: self._torchrun(job))

    def run(self, name: str, job: Job, *faults: Fault) -> Run:
        args = {"output_dir": "{checkpoint_dir}", **job.args}
        words = [f"run_name={name}", *CPU, UNTRACKED, "job=script", f"job.script={job.script}"]
        words += [f'+job.args.{name}="{value}"' for name, value in args.items()]
        return self._begin(name, words, list(faults)).ended(TIMEOUT_S)

    def _torchrun(self, job: Job) -> Path:
        output = self.folder / f"{job}-torchrun"
        args = [f"--{name}={value}" for name, value in {"output_dir": output, **job.args}.items()]
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
        output.mkdir()
        done = subprocess.run(
            [sys.executable, *launcher, str(HERE / "plain.py"), job.script, *args],
            cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return output

    def _once(self, job: Job, what: str, make: Callable[[], Any]) -> Any:
        if (str(job), what) not in self.made:
            self.made[str(job), what] = make()
        return self.made[str(job), what]
