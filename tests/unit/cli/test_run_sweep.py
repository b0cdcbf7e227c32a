"""What a sweep of runs is told of each of them. The runs are played: their journals are written, nothing is
started."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from orchestrator.cli import run_sweep
from orchestrator.cli.args import Invocation
from orchestrator.cli.show.run_view import RunOnTerminal
from orchestrator.config.composing import compose
from orchestrator.config.sweep_schema import Objective, SweepConfig
from orchestrator.config.sweeping import keys_of, varied_keys, with_varied
from orchestrator.driver.objective import came_to, figure, verdict
from orchestrator.driver.rows import row_of
from orchestrator.events import ResourcesReleased, RunEnded, Status, StepDone
from orchestrator.ledger.taken_to_loss import taken_to_loss
from orchestrator.records import record_to_json
from tests.support.played_runs import BEGIN, PRICE, Timeline, records
from tests.unit.cli.test_cli import CPU, Call, call, one_line

__all__ = ["call"]  # the fixture
STEPS = 20
A_STEP_USD = PRICE * 4 / 3600  # of four GPUs for a second
HAS_OPTUNA = importlib.util.find_spec("optuna") is not None


def trained(lr: float, status: Status = Status.FINISHED, steps: int = STEPS) -> Timeline:
    """A run of a step a second, whose loss falls by its learning rate."""
    told: Timeline = [(step, StepDone(1, step, 1.0, 10.0 - lr * step)) for step in range(1, steps + 1)]
    return [*BEGIN, *told, (steps + 1, ResourcesReleased()), (steps + 1, RunEnded(status, "it is over"))]


def written(folder: Path, timeline: Timeline) -> Path:
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_text("".join(f"{record_to_json(one)}\n" for one in records(timeline)))
    return folder


def test_what_a_loss_took_is_what_compare_says_at_that_step() -> None:
    timeline = trained(0.5)
    found = taken_to_loss(records(timeline), 5.0)
    # 5 is the loss of step 10, and first the median of five at step 12
    assert (found.steps, found.best_loss) == (12, 1.0)
    assert found.usd == pytest.approx(12 * A_STEP_USD)
    assert found.gpu_hours == pytest.approx(12 * 4 / 3600)
    assert found.hours == pytest.approx(12 / 3600)
    never = taken_to_loss(records(timeline), 0.5)
    assert (never.usd, never.gpu_hours, never.hours, never.steps, never.best_loss) == (
        None,
        None,
        None,
        None,
        1.0,
    )
    assert taken_to_loss([], 1.0).best_loss is None


def test_a_loss_of_a_step_done_again_counts_once() -> None:
    again = [*trained(0.5)[:-2], (21, StepDone(2, 1, 1.0, 0.1)), (22, StepDone(2, 2, 1.0, math.nan))]
    assert taken_to_loss(records(again), 0.5).steps is None


def test_a_run_that_broke_is_not_cheap_and_one_that_came_to_the_loss_before_has(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", trained(0.5))
    broke = written(tmp_path / "broke", trained(0.5, Status.FAILED, 12))
    cost, to_loss = SweepConfig(Objective.cost_usd), SweepConfig(Objective.usd_to_loss, 5.0)
    assert came_to(cost, whole) == pytest.approx(21 * A_STEP_USD)
    assert came_to(cost, broke) == math.inf
    assert came_to(to_loss, whole) == came_to(to_loss, broke) == pytest.approx(12 * A_STEP_USD)
    assert came_to(to_loss, None) == math.inf, "refused before it had a directory"
    assert came_to(SweepConfig(Objective.usd_to_loss, 0.5), whole) == math.inf
    assert came_to(SweepConfig(Objective.best_loss), whole) == 1.0
    assert came_to(SweepConfig(), whole) is None
    row = row_of(whole, 5.0)
    assert row is not None
    for objective in Objective:
        assert math.isfinite(figure(row, objective)), objective


def test_the_best_of_a_sweep_is_named_in_the_words_that_make_it_again() -> None:
    points = [("job.args.lr=1e-3",), ("job.args.lr=2e-3", "job.steps=9")]
    told = verdict(SweepConfig(Objective.usd_to_loss, 2.5), [math.inf, 12.5], points)
    assert told == "least dollars to a loss of 2.5 of 2 runs: $12.50, with job.args.lr=2e-3 job.steps=9"
    none = verdict(SweepConfig(Objective.usd_to_loss, 2.5), [math.inf, math.inf], points)
    assert none == "none of 2 runs came to a loss of 2.5"
    assert verdict(SweepConfig(), [], []) is None


class Played:
    """Plays each run of a sweep instead of running it, and keeps what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.varied: list[tuple[str, ...]] = []
        self.rates: list[float] = []

    def __call__(
        self, composed: DictConfig, invocation: Invocation, view: RunOnTerminal, varied: Sequence[str]
    ) -> int:
        self.varied.append(tuple(varied))
        self.rates.append(float(composed.job.args.lr))
        view.folder = written(self.folder / f"run-{len(self.rates)}", trained(self.rates[-1]))
        return 0


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    one = Played(tmp_path / "played")
    monkeypatch.setattr(run_sweep, "run_shown", one)
    return one


def test_hydras_own_sweeper_gets_the_figure_and_the_table_names_the_best(
    call: Call, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[Any] = []
    Plugins.instance()  # which loads the modules of Hydra's own plugins anew
    launcher = importlib.import_module("hydra._internal.core_plugins.basic_launcher").BasicLauncher
    launch = launcher.launch

    def spied(self: Any, *args: Any, **more: Any) -> Any:
        returned = launch(self, *args, **more)
        got.extend(one.return_value for one in returned)
        return returned

    monkeypatch.setattr(launcher, "launch", spied)
    asked = ["-m", *CPU, "sweep.minimize=usd_to_loss", "sweep.loss=5"]
    code, out, err = call(*asked, "job.args.lr=0.5,1.0,0.1")
    assert (code, err) == (0, "")
    assert got == [pytest.approx(12 * A_STEP_USD), pytest.approx(7 * A_STEP_USD), math.inf]
    assert out.splitlines()[-1].startswith("least dollars to a loss of 5 of 3 runs: $")
    assert out.splitlines()[-1].endswith("with job.args.lr=1.0")
    assert "$ to loss" in out
    assert played.varied == [("job.args.lr",)] * 3
    got.clear()
    assert call("-m", *CPU, "job.args.lr=0.5,1.0")[0] == 0
    assert got == [None, None], "nothing is to be small"


REFUSED = {
    ("-m", "sweep.minimize=usd_to_loss"): "sweep.minimize=usd_to_loss: to which loss? Add e.g. sweep.loss=2.5",
    ("-m", "sweep.loss=2.5"): "sweep.loss=2.5: nothing asks for it; write sweep.minimize=usd_to_loss",
    ("-m", "sweep.minimize=cost_usd", "sweep.loss=2"): "sweep.loss=2: sweep.minimize=cost_usd does not ask for it",
    ("-m", "sweep.minimize=usd_to_loss", "sweep.loss=inf"): "sweep.loss=inf: is no number",
    ("-m", "sweep.minimize=dollars"): "sweep.minimize=dollars: takes usd_to_loss or gpu_hours_to_loss",
    ("sweep.minimize=cost_usd",): "sweep.minimize=cost_usd: is for a sweep; add -m",
    ("sweep.loss=3",): "sweep.loss=3.0: is for a sweep; add -m",
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_a_sweep_that_nobody_can_lead_is_refused_before_its_first_run(
    words: tuple[str, ...], call: Call, played: Played
) -> None:
    swept = ["job.args.lr=0.5,1.0"] if "-m" in words else []
    assert REFUSED[words] in one_line(call(*CPU, *words, *swept))
    assert played.rates == []


OPTUNA = {"_target_": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"}
BLIND = [
    (OPTUNA, SweepConfig(), "run", "hydra.sweeper=OptunaSweeper: has to be told what to make small"),
    (OPTUNA, SweepConfig(Objective.cost_usd), "plan", "hydra.sweeper=OptunaSweeper: chooses by what runs came to"),
    ({**OPTUNA, "direction": "maximize"}, SweepConfig(Objective.cost_usd), "run", "hydra.sweeper.direction=maximize"),
]  # fmt: skip


@pytest.mark.parametrize(("sweeper", "asked", "verb", "said"), BLIND)
def test_a_sweeper_that_asks_for_figures_needs_one(
    sweeper: dict[str, str], asked: SweepConfig, verb: str, said: str
) -> None:
    from orchestrator.config.sweeping import check_sweep
    from orchestrator.errors import ConfigError

    with pytest.raises(ConfigError) as refused:
        check_sweep(asked, sweeper, verb)
    assert str(refused.value).startswith(said)
    check_sweep(SweepConfig(Objective.cost_usd), {**OPTUNA, "direction": "Direction.minimize"}, "run")


def test_the_keys_of_a_sweep_are_those_typed_and_those_that_the_sweeper_was_given() -> None:
    typed = ["-m", "job.args.lr=tag(log, interval(1e-4, 1e-2))", "job.steps=5", "cluster=a,b"]
    params = OmegaConf.create({"params": {"job.micro_batch": "range(1, 4)"}})
    assert keys_of(typed, params) == ("job.args.lr", "cluster", "job.micro_batch")
    assert keys_of(["hydra.mode=MULTIRUN", *typed[1:]], {}) == ("job.args.lr", "cluster")
    assert keys_of(typed[1:], {}) == (), "a list, without the flag"
    config = compose(*CPU)
    assert varied_keys(config) is None
    assert varied_keys(with_varied(config, ["job.steps"])) == ("job.steps",)


@pytest.mark.skipif(HAS_OPTUNA, reason="hydra-optuna-sweeper is installed")
def test_the_extra_that_is_missing_is_named(call: Call) -> None:
    said = one_line(call("-m", "hydra/sweeper=optuna", "job.steps=5,6"))
    assert said == "hydra/sweeper=optuna: is not installed; pip install 'orchestrator[sweep]'"


@pytest.mark.skipif(not HAS_OPTUNA, reason="hydra-optuna-sweeper is not installed: pip install '.[sweep]'")
@pytest.mark.filterwarnings("ignore")  # Optuna 2 is of before SQLAlchemy's and Python's newest
def test_optuna_finds_the_learning_rate_that_comes_to_a_loss_for_the_fewest_dollars(
    call: Call, played: Played
) -> None:
    asked = ["-m", *CPU, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=12", "hydra.sweeper.n_jobs=1"]
    asked += ["hydra.sweeper.sampler.seed=3", "sweep.minimize=usd_to_loss", "sweep.loss=5"]
    code, out, _err = call(*asked, "job.args.lr=interval(0.1, 2.0)")
    assert code == 0
    assert len(played.rates) == 12
    (found,) = Path("runs/sweeps").glob("*/optimization_results.yaml")
    best = OmegaConf.load(found)
    values = [came_to(SweepConfig(Objective.usd_to_loss, 5.0), one) for one in folders(played)]
    assert best.best_value == min(value for value in values if value is not None)
    assert out.splitlines()[-1].endswith(f"job.args.lr={best.best_params['job.args.lr']}")


def folders(played: Played) -> Iterable[Path]:
    return (played.folder / f"run-{place}" for place in range(1, len(played.rates) + 1))
