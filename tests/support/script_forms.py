"""The table of twelve scripts in the forms in which people write and start them, and their runs: by their own
launcher, here, and here with ranks that are killed."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from orchestrator.cluster.warm.record import WarmCluster
from orchestrator.events import Fault, RankLost
from tests.faults.runs import UNTRACKED, Run, User
from tests.support.ports import free_port
from tests.support.written_losses import Kill, WrittenLosses

HERE = Path(__file__).parents[1] / "user_scripts"
SCRIPTS = HERE / "scripts"
STEPS, EVERY = 20, 5
TIMEOUT_S = 400
FREE_PORT = "{port}"
OUT = "job.checkpoint_dir=out"
# With torch 2.13 and gloo a rank now and then deadlocks when its script has ended: DDP's reducer is freed with
# the interpreter's lock held, and waits for a thread that wants it. The run ends it and goes on, which is one
# restart more than there are kills.
AT_THE_END = ("recovery.hang_evidence_s=20", "recovery.max_restarts=4")
TRAINER = f"--output_dir=out --max_steps={STEPS} --save_steps={EVERY} --logging_steps=1 --report_to=none"


@dataclass(frozen=True)
class Form:
    """``command`` is what is typed, ``words`` what stands before it here; ``half`` the file whose writing is
    struck in the middle, "" where the save that follows a step is. ``resume`` is what the plan says of how it
    goes on, and ``goes_on`` whether it does."""

    name: str
    command: str
    resume: str
    words: tuple[str, ...] = ()
    half: str = ""
    goes_on: bool = True
    # A file that each save overwrites is lost with the rank that dies within it.
    overwrites: bool = False
    losses: str = "out/losses.jsonl"
    libraries: tuple[str, ...] = ()
    # DeepSpeed would first compile a collective for processors, which takes minutes: its script is wrapped.
    wrapped: str = ""
    program: str = ""  # a word of what a rank starts, where that is another program

    def __str__(self) -> str:
        return self.name

    def missing(self) -> str | None:
        """What to do for a library that is not there."""
        for library in self.libraries:
            if find_spec(library) is None:
                return (
                    f"{library} is not installed: pip install 'orchestrator[scripts]', or make test-scripts"
                )
        return None

    def kills(self, count: int) -> list[Kill]:
        if count == 1:
            return [Kill(step=12)]
        within = Kill(step=2 * EVERY, rank=0, within=self.half) if self.half else Kill(step=2 * EVERY)
        return [Kill(step=3), within, Kill(step=17, rank=0)]

    def begins(self, count: int) -> list[set[int]]:
        """With which step each attempt may begin."""
        if not self.goes_on:
            return [{1}] * (count + 1)
        if count == 1:
            return [{1}, {11}]
        after_the_save = {1} if self.overwrites else {6} if self.half else {6, 11}
        return [{1}, {1}, after_the_save, {16}]


FORMS = [
    Form(
        "deepspeed",
        "deepspeed --num_gpus=2 --master_port={port} deepspeed_plain.py --deepspeed --deepspeed_config ds.json"
        " --out=out",
        "with the same command: the script calls load_checkpoint by itself",
        wrapped="deepspeed_plain.py",
    ),
    Form(
        "trainer-deepspeed",
        f"torchrun --standalone --nproc_per_node=2 trainer_deepspeed.py --deepspeed=zero2_auto.json {TRAINER}",
        "with --resume_from_checkpoint={checkpoint} from the second attempt on",
        words=(OUT,),
        half="checkpoint-10/trainer_state.json",
        libraries=("transformers", "accelerate"),
        wrapped="trainer_deepspeed.py",
    ),
    Form(
        "trl-sft",
        f"torchrun --standalone --nproc_per_node=2 sft.py {TRAINER} --bf16 False --use_cpu True",
        "with --resume_from_checkpoint={checkpoint} from the second attempt on",
        words=(OUT,),
        half="checkpoint-10/trainer_state.json",
        libraries=("trl", "datasets"),
    ),
    Form(
        "accelerate",
        "accelerate launch --multi_gpu --num_processes=2 --main_process_port={port} accelerate_loop.py --cpu"
        " --output_dir=out",
        "with --resume_from_checkpoint={checkpoint} from the second attempt on",
        words=(OUT,),
        half="step_10/optimizer.bin",
        libraries=("accelerate",),
    ),
    Form(
        "accelerate-file",
        "accelerate launch --config_file accelerate.yaml --main_process_port={port} accelerate_loop.py --cpu"
        " --output_dir=out",
        "with --resume_from_checkpoint={checkpoint} from the second attempt on",
        words=(OUT,),
        half="step_10/optimizer.bin",
        libraries=("accelerate",),
    ),
    Form(
        "lightning",
        "torchrun --standalone --nproc_per_node=2 lightning_ddp.py --out=out",
        "with --ckpt_path={checkpoint} from the second attempt on",
        words=(OUT,),
        libraries=("lightning",),
    ),
    Form(
        "ddp",
        f"torchrun --standalone --nproc_per_node=2 ddp.py {STEPS} {EVERY}",
        "with the same command, if it looks for its own checkpoint",
        half="snapshot.pt.tmp",
        losses="losses.jsonl",
    ),
    Form(
        "fsdp2",
        "torchrun --standalone --nproc_per_node=2 fsdp2.py --out=out",
        "with --resume={checkpoint} from the second attempt on",
        words=(OUT,),
        half="step_10/.metadata.tmp",
    ),
    Form(
        "hydra",
        f"torchrun --standalone --nproc_per_node=2 hydra_app.py trainer.steps={STEPS}",
        "with the same command, if it looks for its own checkpoint",
        half="step-10.half",
    ),
    Form(
        "module",
        "torchrun --standalone --nproc_per_node=2 -m pkg.train --save out",
        "with --load={checkpoint} from the second attempt on",
        words=(OUT,),
        half="iter_0000010.pt.part",
    ),
    Form(
        "nanogpt",
        "torchrun --standalone --nproc_per_node=2 nano.py config/tiny.py --compile=False",
        "with --init_from=resume from the second attempt on",
        words=(OUT,),
        half="ckpt.pt",
        overwrites=True,
    ),
    Form(
        "never-saves",
        "torchrun --standalone --nproc_per_node=2 never_saves.py",
        "it cannot, and begins anew after a fault",
        goes_on=False,
        losses="losses.jsonl",
    ),
    Form(
        "shell",
        f"torchrun --standalone --nproc_per_node=2 --no_python ./train.sh {STEPS} {EVERY}",
        "",
        half="snapshot.pt.tmp",
        losses="losses.jsonl",
        words=(f"job.env.PYTHON={sys.executable}",),
        program="ddp.py",
    ),
]


@dataclass
class FormUser:
    """Runs each of them in a folder of its own with a copy of all scripts; what several tests ask for is made
    once."""

    folder: Path
    environment: dict[str, str]
    kept: WarmCluster | None
    runs: list[Run] = field(default_factory=list)
    by_launcher: dict[str, dict[int, float]] = field(default_factory=dict)
    struck: dict[tuple[str, int], tuple[Run, WrittenLosses]] = field(default_factory=dict)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # What the ranks get from the plan, for the launchers; and no library may look for anything outside.
        self.environment = self.environment | {
            "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHON": sys.executable,
        }  # fmt: skip

    def launched(self, form: Form) -> dict[int, float]:
        """The losses under its own launcher."""
        if form.name not in self.by_launcher:
            folder = self._copy(form, "launcher")
            begun_s = time.monotonic()
            launcher, *words = _typed(form)
            if form.wrapped:
                words.insert(words.index(form.wrapped), str(HERE / "plain.py"))
            done = subprocess.run(
                [str(Path(sys.executable).with_name(launcher)), *words], cwd=folder, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                timeout=TIMEOUT_S, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout
            self.by_launcher[form.name] = read(folder / form.losses)
            self.seconds[form.name, "launcher"] = time.monotonic() - begun_s
        return self.by_launcher[form.name]

    def whole(self, form: Form) -> tuple[Run, dict[int, float]]:
        """Here, without a fault."""
        begun_s = time.monotonic()
        run = self._start(form, "whole").ended(TIMEOUT_S)
        self.seconds[form.name, "whole"] = time.monotonic() - begun_s
        return run, read(run.folder.parent.parent / form.losses)

    def killed(self, form: Form, count: int) -> tuple[Run, WrittenLosses]:
        """Here, with so many kills."""
        if (form.name, count) not in self.struck:
            self.struck[form.name, count] = self._killed(form, count)
        return self.struck[form.name, count]

    def _killed(self, form: Form, count: int) -> tuple[Run, WrittenLosses]:
        name, begun_s = f"killed-{count}", time.monotonic()
        written = WrittenLosses(self._copy(form, name) / form.losses, form.kills(count), form.program)
        run = self._start(form, name)
        written.follow(run)
        try:
            run.ended(TIMEOUT_S)
        finally:
            written.close()
        self.seconds[form.name, name] = time.monotonic() - begun_s
        return run, written

    def table(self) -> str:
        """What each took, in seconds, as docs/your_script.md has it."""
        kinds = ("launcher", "whole", "killed-1", "killed-3")
        rows = [
            [form.name, *(f"{took:.0f}" if (took := self.seconds.get((form.name, kind))) else "–" for kind in kinds)]
            for form in FORMS
        ]  # fmt: skip
        return "\n".join(f"| {' | '.join(row)} |" for row in [["", *kinds], *rows])

    def _start(self, form: Form, what: str) -> Run:
        user = User(self._copy(form, what))
        user.environment, user.kept, user.runs = self.environment, self.kept, self.runs
        before = [f"run_name={form}-{what}", "gpu=cpu", "cluster=local", UNTRACKED, *AT_THE_END, *form.words]
        before += ["cluster.cpu_threads_per_rank=1", "launch.dashboard=false"]
        return user._begin(f"{form}-{what}", [*before, "--", *_typed(form)], [])

    def _copy(self, form: Form, what: str) -> Path:
        folder = self.folder / f"{form}-{what}"
        if not folder.is_dir():
            shutil.copytree(SCRIPTS, folder)
            (folder / "out").mkdir()
        return folder


def hung_at_the_end(run: Run) -> bool:
    """Whether a rank has deadlocked when all was done, see :data:`AT_THE_END`; the others had left by then."""
    hung = [one for one in run.of(RankLost) if one.fault is Fault.HANG]
    assert all(one.step == STEPS and "is left behind by" in (one.error or "") for one in hung), run.text
    return bool(hung)


def _typed(form: Form) -> list[str]:
    return shlex.split(form.command.replace(FREE_PORT, str(free_port())))


def read(path: Path) -> dict[int, float]:
    """One JSON object a step; a step that was done twice has its last."""
    lines = map(json.loads, path.read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines}
