"""What is told of training without an engine: torch's own optimizers, and a stand-in for the link."""

from __future__ import annotations

import gc
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict

from orchestrator.rank.messages import FileSaved, PhaseEnded, ProbeFailed, StepTaken
from orchestrator.rank.probes.import_hook import when_imported
from orchestrator.rank.probes.torch_loop import STANDS_STILL_STEPS, TorchLoop, leave_uncompiled
from tests.unit.rank.test_probes import FakeLink


def parameter(value: float = 1.0) -> Any:
    return torch.nn.Parameter(torch.tensor([value]))


def sgd(weight: Any, lr: float = 0.5) -> Any:
    return torch.optim.SGD([weight], lr=lr)


def test_a_step_of_an_optimizer_is_a_step_with_its_loss_and_the_rate_it_was_taken_with(
    link: FakeLink, loop: TorchLoop
) -> None:
    weight = parameter(2.0)
    optimizer = sgd(weight)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        (weight * 1.5).sum().backward()
        torch.nn.utils.clip_grad_norm_([weight], 100.0)
        optimizer.step()
        schedule.step()
    steps = link.of(StepTaken)
    assert [(one.step, one.loss, one.lr) for one in steps] == [
        (1, 3.0, 0.5), (2, 1.875, 0.25), (3, 1.3125, 0.125),
    ]  # fmt: skip
    assert {one.grad_norm for one in steps} == {1.5}
    assert all(one.step_time_s > 0 and one.local_time_s is not None for one in steps)
    assert [one.phase for one in link.of(PhaseEnded)] == ["first_step"]
    assert (link.step, link.phase) == (3, "step")


@pytest.mark.parametrize("divided", [True, False])
def test_accumulated_gradients_are_one_step_with_the_mean_loss(
    link: FakeLink, loop: TorchLoop, divided: bool
) -> None:
    weight = parameter()
    optimizer = sgd(weight, lr=0.0)
    for _ in range(2):
        for value in (1.0, 2.0, 6.0):
            loss = (weight * value).mean()
            (loss / 3 if divided else loss).backward()
        optimizer.step()
    (weight * 3.0).mean().div(3 if divided else 1).backward()  # what an epoch leaves over
    optimizer.step()
    expected = [3.0, 3.0, 1.0 if divided else 3.0]
    assert [one.loss for one in link.of(StepTaken)] == pytest.approx(expected)


def test_a_loss_that_a_plain_number_weights_is_not_taken_for_divided(link: FakeLink, loop: TorchLoop) -> None:
    weight = parameter()
    optimizer = sgd(weight, lr=0.0)
    for value in (2.0, 4.0):
        (0.1 * (weight * value).mean()).backward()
    optimizer.step()
    assert [one.loss for one in link.of(StepTaken)] == pytest.approx([0.3])


def test_the_loss_is_told_without_its_loss_scale(link: FakeLink, loop: TorchLoop) -> None:
    weight = parameter(2.0)
    optimizer, scaler = sgd(weight), torch.amp.GradScaler("cpu", init_scale=1024.0)
    for value in (1.0, float("inf"), 1.0):  # the second overflows, and no step is taken
        optimizer.zero_grad()
        scaler.scale((weight * value).mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    told = [(one.step, one.loss) for one in link.of(StepTaken)]
    assert told == [(1, 2.0), (2, 1.5)], "what overflowed is no part of the next step"


def test_a_loss_that_the_script_has_thrown_away_is_no_part_of_the_next_step(
    link: FakeLink, loop: TorchLoop
) -> None:
    weight = parameter()
    optimizer = sgd(weight, lr=0.0)
    (weight * float("nan")).sum().backward()
    optimizer.zero_grad()
    weight.sum().backward()
    optimizer.step()
    assert [one.loss for one in link.of(StepTaken)] == [1.0]


def test_of_two_optimizers_the_first_is_followed_with_its_own_losses(link: FakeLink, loop: TorchLoop) -> None:
    critic, actor = parameter(2.0), parameter(30.0)
    first, second = sgd(critic, lr=0.0), sgd(actor, lr=0.0)
    for _ in range(2 * STANDS_STILL_STEPS):
        critic.sum().backward()
        first.step()
        actor.sum().backward()
        second.step()
    steps = link.of(StepTaken)
    assert [one.step for one in steps] == list(range(1, 2 * STANDS_STILL_STEPS + 1))
    assert {one.loss for one in steps} == {2.0}


def test_another_optimizer_is_followed_once_the_first_stands_still_or_is_gone(
    link: FakeLink, loop: TorchLoop
) -> None:
    warm_up, weight = sgd(parameter()), parameter()
    warm_up.step()
    second = sgd(weight)
    for _ in range(STANDS_STILL_STEPS + 5):
        second.step()
    followed = [one.step for one in link.of(StepTaken)]
    assert followed == list(range(1, len(followed) + 1))
    assert len(followed) >= 5
    del second
    gc.collect()
    sgd(weight).step()
    assert link.of(StepTaken)[-1].step == len(followed) + 1


def test_steps_are_counted_on_from_what_an_optimizer_has_loaded(link: FakeLink, loop: TorchLoop) -> None:
    weight = parameter()
    earlier = torch.optim.Adam([weight])
    loop._silent = True
    for _ in range(7):
        weight.sum().backward()
        earlier.step()
    loop._silent = False
    resumed = torch.optim.Adam([weight])
    resumed.load_state_dict(earlier.state_dict())
    for _ in range(2):
        weight.sum().backward()
        resumed.step()
    assert [one.step for one in link.of(StepTaken)] == [8, 9]


def test_nothing_is_told_once_an_engine_trains(link: FakeLink, loop: TorchLoop, tmp_path: Path) -> None:
    weight = parameter()
    optimizer = sgd(weight)
    loop.give_way()
    weight.sum().backward()
    optimizer.step()
    torch.nn.Linear(1, 1).eval()
    torch.save({}, tmp_path / "model.pt")
    assert link.said == []
    assert link.phases == ["import"]


def test_what_a_script_saves_is_told_and_is_no_part_of_a_step(
    link: FakeLink, loop: TorchLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now_s[0])
    weight = parameter()
    optimizer = sgd(weight)
    for _ in range(2):
        weight.sum().backward()
        now_s[0] += 0.25
        optimizer.step()
        loop.saving("folder", lambda: now_s.__setitem__(0, now_s[0] + 60.0))
    torch.save({"weight": weight}, tmp_path / "model.pt")
    with pytest.raises(OSError, match="no place"):
        loop.saving("folder", fail_to_save)
    assert [one.step_time_s for one in link.of(StepTaken)] == [0.25, 0.25]
    told = [(one.path, one.step, one.seconds) for one in link.of(FileSaved)]
    folder = str(Path("folder").absolute())
    assert told == [(folder, 1, 60.0), (folder, 2, 60.0), (str(tmp_path / "model.pt"), 2, 0.0)]
    assert link.phase == "step"


def fail_to_save() -> None:
    raise OSError("no place")


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_distributed_checkpoints_and_safetensors_are_told_of_and_other_threads_hold_nothing_up(
    link: FakeLink, loop: TorchLoop, tmp_path: Path
) -> None:
    loop.attach_distributed_checkpoint(torch.distributed.checkpoint)
    loop.attach_safetensors(safetensors.torch)
    state = {"w": torch.ones(3)}
    torch.distributed.checkpoint.save(state, checkpoint_id=tmp_path / "one", no_dist=True)
    writer = torch.distributed.checkpoint.FileSystemWriter(tmp_path / "two")
    torch.distributed.checkpoint.save(state, storage_writer=writer, no_dist=True)
    safetensors.torch.save_file(state, filename=tmp_path / "three.safetensors")
    safetensors.torch.save_file(state, str(tmp_path / "four.safetensors"))
    thread = threading.Thread(target=torch.save, args=(state, tmp_path / "five.pt"))
    thread.start()
    thread.join()
    told = link.of(FileSaved)
    assert [Path(one.path).stem for one in told] == ["one", "two", "three", "four", "five"]
    assert [one.seconds > 0 for one in told] == [True] * 4 + [False]


def test_a_step_that_trains_nothing_is_none(link: FakeLink, loop: TorchLoop) -> None:
    weight = parameter()
    optimizer = torch.optim.AdamW([weight])
    get_state_dict(torch.nn.ParameterList([weight]), optimizer)
    assert optimizer.state, "torch has taken a step to make it"
    assert link.of(StepTaken) == []
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 2)
    for _ in range(2):
        optimizer.zero_grad()
        weight.sum().backward()
        optimizer.step()
        schedule.step()
    assert [one.lr for one in link.of(StepTaken)] == [0.0, 0.0005], "a warm-up begins at 0"


def test_validation_is_a_phase_until_the_next_backward_pass(link: FakeLink, loop: TorchLoop) -> None:
    model = torch.nn.Linear(1, 1)
    model.eval()  # a part that is never trained, while the script builds its model
    assert link.phase == "import"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        model.train()
        model(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        assert link.phase == "step"
        model.eval()
        assert link.phase == "validation"


def test_batches_are_progress_also_where_nothing_is_trained(link: FakeLink, loop: TorchLoop) -> None:
    for before, _ in enumerate(torch.utils.data.DataLoader(range(4))):
        assert link.progress > before


# Torch's own modules, when the compiler imports them.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_step_that_is_compiled_as_a_whole_is_seen_each_time(link: FakeLink, loop: TorchLoop) -> None:
    when_imported("torch._dynamo.trace_rules", leave_uncompiled)  # the script imports it by using it
    weight = parameter()
    optimizer = sgd(weight, lr=0.25)

    def train() -> None:
        optimizer.zero_grad()
        (weight * 1.0).sum().backward()
        optimizer.step()

    compiled = torch.compile(train, backend="eager")
    for _ in range(4):
        compiled()
    assert [(one.step, one.loss) for one in link.of(StepTaken)] == [(1, 1.0), (2, 0.75), (3, 0.5), (4, 0.25)]


def test_a_probe_that_fails_says_so_once_and_lets_the_training_go_on(link: FakeLink, loop: TorchLoop) -> None:
    weight = parameter()
    optimizer = sgd(weight)
    loop.next_step = lambda: int("no number")
    for _ in range(3):
        weight.sum().backward()
        optimizer.step()
    (failed,) = link.of(ProbeFailed)
    assert failed.where == "step"
    assert weight.item() == pytest.approx(1.0 - 3 * 0.5 * 2.0), "gradients add up, as they do without us"


def test_what_is_put_in_its_place_can_be_sent_to_another_process(loop: TorchLoop) -> None:
    for function in (torch.save, torch.nn.utils.clip_grad_norm_, torch.autograd.backward):
        assert pickle.loads(pickle.dumps(function)) is function


def test_the_probes_cost_less_than_half_a_percent_of_a_step_of_50_ms(link: FakeLink, loop: TorchLoop) -> None:
    weight = parameter()
    optimizer = sgd(weight, lr=0.0)

    def best_s_per_step() -> float:
        best_s = float("inf")
        for _ in range(10):
            begin = time.thread_time()  # what others do on the machine is not in it
            for _ in range(200):
                weight.sum().backward()
                torch.nn.utils.clip_grad_norm_([weight], 1.0)
                optimizer.step()
            best_s = min(best_s, (time.thread_time() - begin) / 200)
        return best_s

    with_probes_s = best_s_per_step()
    assert len(link.of(StepTaken)) == 2000
    loop.give_way()
    assert with_probes_s - best_s_per_step() < 0.05 * 0.005
