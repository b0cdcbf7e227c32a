"""What the probes tell, with stand-ins for the engines and for the link."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from orchestrator.rank.messages import (
    LoadBegun,
    Loaded,
    LoadFailed,
    Message,
    PhaseBegun,
    PhaseEnded,
    ProbeFailed,
    SaveBegun,
    Saved,
    SaveFailed,
    StepTaken,
    decode,
    encode,
)
from orchestrator.rank.probes.deepspeed import Probes
from orchestrator.rank.probes.import_hook import when_imported

_Kind = TypeVar("_Kind")


class FakeLink:
    def __init__(self) -> None:
        self.phase, self.step, self.progress = "import", None, 0
        self.said: list[Message] = []
        self.phases = [self.phase]

    def enter(self, phase: str) -> None:
        self.phase = phase
        self.phases.append(phase)

    def send(self, message: Message) -> None:
        assert decode(encode(message)) == message, "what is said is heard"
        self.said.append(message)

    def costs_nothing(self) -> FakeLink:
        """Messages are only kept, as a real link queues them for a thread of its own."""
        self.send = self.said.append  # type: ignore[method-assign]
        return self

    def of(self, kind: type[_Kind]) -> list[_Kind]:
        return [message for message in self.said if isinstance(message, kind)]


class Loss:
    """A scalar tensor on the host."""

    device = SimpleNamespace(type="cpu")

    def __init__(self, value: float) -> None:
        self.value = value

    def detach(self) -> Loss:
        return self

    def item(self) -> float:
        return self.value

    def numel(self) -> int:
        return 1

    def __float__(self) -> float:
        return self.value


def fake_deepspeed(accelerator: str = "cuda") -> Any:
    class Engine:
        checkpoint_engine = None

        def __init__(self, micro_batches: int = 1, global_steps: int = 0) -> None:
            self.micro_batches, self.global_steps, self.micro_steps = micro_batches, global_steps, 0
            self.skipped_steps, self.overflows, self.half = 0, False, True
            self.optimizer = SimpleNamespace(param_groups=[{"lr": 0.5}])

        def __call__(self, batch: Any) -> Any:
            return self.forward(batch)

        def forward(self, batch: Any) -> Any:
            return batch

        def train(self, mode: bool = True) -> str:
            return "train" if mode else "eval"

        def eval(self) -> str:
            return "eval"

        def backward(self, loss: Any, retain_graph: bool = False, scale_wrt_gas: bool = True) -> Any:
            return loss

        def step(self, lr_kwargs: Any = None) -> str:
            self.micro_steps += 1
            if self.micro_steps % self.micro_batches == 0:
                self.global_steps += 1
                self.skipped_steps += self.overflows
                self.optimizer.param_groups[0]["lr"] /= 2
            return "stepped"

        def fp16_enabled(self) -> bool:
            return self.half

        def get_global_grad_norm(self) -> float:
            return 0.25

        def save_checkpoint(
            self, save_dir: str, tag: str | None = None, client_state: Any = None, save_latest: bool = True
        ) -> bool:
            if client_state == "broken":
                raise OSError("disk full")
            return True

        def load_checkpoint(self, load_dir: str, tag: str | None = None) -> tuple[str | None, Any]:
            if load_dir == "/empty":
                return None, None
            self.global_steps = 20
            return f"{load_dir}/{tag or 'global_step20'}/mp_rank_00_model_states.pt", {}

    class PipelineEngine(Engine):
        def train_batch(self, data_iter: Any = None) -> Loss:
            for value in (1.0, 2.0):
                Engine.backward(self, Loss(value))
            self.global_steps += 1
            return Loss(1.5)

        def eval_batch(self, data_iter: Any) -> Any:
            return self.forward(next(data_iter))

    return SimpleNamespace(
        DeepSpeedEngine=Engine,
        PipelineEngine=PipelineEngine,
        initialize=lambda engine, **_kwargs: (engine, None, None, None),
        ops=SimpleNamespace(__compatible_ops__={"deepspeed_shm_comm": True}),
        get_accelerator=lambda: SimpleNamespace(device_name=lambda: accelerator),
    )


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


def attached(link: FakeLink, accelerator: str = "cuda") -> Any:
    deepspeed = fake_deepspeed(accelerator)
    Probes(link).attach(deepspeed)  # type: ignore[arg-type]
    return deepspeed


def test_a_step_that_the_loss_scale_skipped_is_told_as_one(link: FakeLink) -> None:
    deepspeed = attached(link)
    engine, *_ = deepspeed.initialize(deepspeed.DeepSpeedEngine())
    for overflows in (True, False, True):
        engine.overflows = overflows
        engine.backward(Loss(1.0))
        engine.step()
    engine.half = False  # gradients that are no numbers, in a precision without a loss scale
    engine.step()
    told = [(step.step, step.skipped) for step in link.of(StepTaken)]
    assert told == [(1, True), (2, False), (3, True), (4, False)]


def test_a_step_is_told_once_with_the_mean_loss_and_the_rate_it_was_taken_with(link: FakeLink) -> None:
    deepspeed = attached(link)
    engine, *_ = deepspeed.initialize(deepspeed.DeepSpeedEngine(micro_batches=2))
    for value in (1.0, 2.0, 5.0, 7.0):
        loss = Loss(value)
        assert engine.backward(loss) is loss
        assert engine.step() == "stepped"
    steps = link.of(StepTaken)
    assert [(step.step, step.loss, step.lr) for step in steps] == [(1, 1.5, 0.5), (2, 6.0, 0.25)]
    assert {step.grad_norm for step in steps} == {0.25}
    assert all(step.step_time_s > 0 for step in steps)
    assert link.phases == ["import", "initialize", "first_step", "step"]
    assert link.said[0] == PhaseBegun("initialize")
    assert [(phase.phase, phase.seconds > 0) for phase in link.of(PhaseEnded)] == [
        ("initialize", True),
        ("first_step", True),
    ]
    assert link.step == 2
    assert link.progress > 4


def test_a_loss_that_the_script_has_divided_itself_is_added_up(link: FakeLink) -> None:
    engine = attached(link).DeepSpeedEngine(micro_batches=2)
    for value in (0.5, 1.0):
        engine.backward(Loss(value), scale_wrt_gas=False)
        engine.step()
    engine.backward(loss=Loss(0.5), scale_wrt_gas=False)
    engine.step()
    engine.backward(Loss(1.0), False, False)
    engine.step()
    assert [step.loss for step in link.of(StepTaken)] == [1.5, 1.5]


def test_a_step_without_a_known_loss_says_null(link: FakeLink) -> None:
    engine = attached(link).DeepSpeedEngine()
    engine.step()
    assert [step.loss for step in link.of(StepTaken)] == [None]


def test_steps_are_counted_on_from_a_loaded_checkpoint(link: FakeLink) -> None:
    engine = attached(link).DeepSpeedEngine()
    assert engine.load_checkpoint("/ckpt")[0] is not None
    engine.step()
    assert link.said[0] == LoadBegun("/ckpt", None)
    (end,) = link.of(Loaded)
    assert (end.dir, end.step, end.tag) == ("/ckpt", 20, "global_step20")
    assert link.of(StepTaken)[0].step == 21


def test_a_load_that_finds_nothing_says_so(link: FakeLink) -> None:
    engine = attached(link).DeepSpeedEngine()
    assert engine.load_checkpoint("/empty", tag="x") == (None, None)
    (failed,) = link.of(LoadFailed)
    assert (failed.dir, failed.tag) == ("/empty", "x")


def test_a_save_is_told_also_when_it_fails_and_its_time_is_no_steps_time(link: FakeLink) -> None:
    deepspeed = fake_deepspeed()
    saved = deepspeed.DeepSpeedEngine.save_checkpoint

    def slow(engine: Any, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.2)
        return saved(engine, *args, **kwargs)

    deepspeed.DeepSpeedEngine.save_checkpoint = slow
    Probes(link).attach(deepspeed)  # type: ignore[arg-type]
    engine = deepspeed.DeepSpeedEngine()
    engine.step()
    assert engine.save_checkpoint("/ckpt") is True
    with pytest.raises(OSError, match="disk full"):
        engine.save_checkpoint("/ckpt", "mine", "broken")
    engine.step()
    assert link.of(SaveBegun) == [SaveBegun("/ckpt", "global_step1", 1), SaveBegun("/ckpt", "mine", 1)]
    (saved_one,), (failed,) = link.of(Saved), link.of(SaveFailed)
    assert saved_one == Saved("/ckpt", "global_step1", 1, saved_one.seconds)
    assert failed == SaveFailed("/ckpt", "mine", 1, failed.seconds)
    assert saved_one.seconds >= 0.2
    assert link.of(StepTaken)[1].step_time_s < 0.2
    assert link.phase == "step"


def test_a_pipeline_tells_what_train_batch_returns(link: FakeLink) -> None:
    engine = attached(link).PipelineEngine()
    assert engine.train_batch().item() == 1.5
    engine.train_batch(iter(()))
    assert [(step.step, step.loss) for step in link.of(StepTaken)] == [(1, 1.5), (2, 1.5)]


def test_of_several_engines_the_first_to_step_is_followed_while_it_lives(link: FakeLink) -> None:
    deepspeed = attached(link)
    actor, critic = deepspeed.DeepSpeedEngine(), deepspeed.DeepSpeedEngine(global_steps=100)
    actor.step()
    critic.backward(Loss(9.0))
    critic.step()
    actor.step()
    assert [step.step for step in link.of(StepTaken)] == [1, 2]
    assert link.of(StepTaken)[1].loss is None
    del actor
    critic.step()
    assert link.of(StepTaken)[-1].step == 102


def test_a_probe_that_fails_says_so_once_and_lets_the_training_go_on(link: FakeLink) -> None:
    deepspeed = fake_deepspeed()

    def fail(_engine: Any) -> float:
        raise RuntimeError("no norm")

    deepspeed.DeepSpeedEngine.get_global_grad_norm = fail
    Probes(link).attach(deepspeed)  # type: ignore[arg-type]
    engine = deepspeed.DeepSpeedEngine()
    assert [engine.step() for _ in range(3)] == ["stepped"] * 3
    assert link.of(ProbeFailed) == [ProbeFailed("step", "RuntimeError: no norm")]


@pytest.mark.parametrize(("accelerator", "left_on"), [("cpu", False), ("cuda", True)])
def test_the_shared_memory_collective_is_off_on_a_cpu(
    link: FakeLink, accelerator: str, left_on: bool
) -> None:
    assert attached(link, accelerator).ops.__compatible_ops__ == {"deepspeed_shm_comm": left_on}


def test_the_probes_cost_far_less_than_half_a_percent_of_a_step_of_50_ms(link: FakeLink) -> None:
    def best_s_per_step(engine: Any) -> float:
        loss, best_s = Loss(1.0), float("inf")
        for _ in range(20):
            begin = time.thread_time()  # what others do on the machine is not in it
            for _ in range(500):
                engine.backward(loss)
                engine.step()
            best_s = min(best_s, (time.thread_time() - begin) / 500)
        return best_s

    cost_s = best_s_per_step(attached(link.costs_nothing()).DeepSpeedEngine()) - best_s_per_step(
        fake_deepspeed().DeepSpeedEngine()
    )
    assert len(link.of(StepTaken)) == 10_000
    assert cost_s < 0.05 * 0.005 / 2


def test_a_late_import_is_met_before_its_importer_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "latecomer").mkdir()
    (tmp_path / "latecomer" / "__init__.py").write_text("def word():\n    return 'theirs'\n")
    (tmp_path / "latecomer" / "part.py").write_text("")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    met: list[str] = []

    def change(module: Any) -> None:
        met.append(module.__name__)
        module.word = lambda: "ours"

    when_imported("latecomer", change)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("latecomer")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("latecomer.part")
    latecomer: Any = sys.modules["latecomer"]
    assert (latecomer.word(), met) == ("ours", ["latecomer"])
    when_imported("latecomer", change)
    assert met == ["latecomer"] * 2
    for name in ("latecomer", "latecomer.part"):
        monkeypatch.delitem(sys.modules, name)
