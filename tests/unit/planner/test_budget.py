"""What a budget or a deadline can train: its properties on one cluster, and the command line around it."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import math
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.cli import cli
from orchestrator.cli.show.budget import show_answer
from orchestrator.config import catalog, composing, load
from orchestrator.config.catalog import read_all
from orchestrator.config.fabric_schema import ROUTE_VARIABLES
from orchestrator.config.schema import Config, PriceKind
from orchestrator.plan.forecast.price import Offer
from orchestrator.plan.forecast.price_schedule import Schedule
from orchestrator.plan.layout.layout import derive_layout
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.perf.machine import Machine
from orchestrator.plan.perf.transformer import parameters
from orchestrator.plan.search.space import Sharding
from orchestrator.plan.sizing.best_run import LEAST_HOURS, ClusterOptimizer, climb
from orchestrator.plan.sizing.limits import Freedom, Limits, RunCandidate
from orchestrator.plan.sizing.model_ladder import ladder
from orchestrator.plan.sizing.scaling_law import CHINCHILLA
from orchestrator.planner.budget import answer

SHAPES = ladder()
SHARDINGS = (Sharding(Zero(1, overlap_comm=True)), Sharding(Zero(3, overlap_comm=True)))
NODES = [2**power for power in range(10)]
BUDGETS = st.floats(3e2, 1e8)


def composed(*words: str) -> Any:
    return composing.composed(words).config


@functools.cache
def config_of(*words: str) -> Config:
    return load.load(composed("job=pretrain", *words))


def market(limits: Limits, *words: str, able: frozenset[str] = frozenset()) -> ClusterOptimizer:
    config = config_of(*(words or ("cluster=nebius_h100",)))
    return ClusterOptimizer(config, "bf16", limits, Freedom(SHARDINGS, able=able), {})


def best(limits: Limits, *words: str) -> RunCandidate:
    return market(limits, *words).best(SHAPES, NODES)[0]


# ---- one cluster --------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(BUDGETS, st.floats(0.05, 400))
def test_neither_the_budget_nor_the_deadline_is_ever_exceeded(usd: float, days: float) -> None:
    for option in market(Limits(usd, days)).best(SHAPES, NODES):
        assert option.prediction.cost_usd is not None
        assert option.prediction.cost_usd <= usd
        assert LEAST_HOURS / 24 <= option.days * (1 + 1e-6) <= days * (1 + 2e-6)
        assert option.tokens == option.prediction.tokens


@settings(max_examples=25, deadline=None)
@given(BUDGETS)
def test_one_step_more_would_be_too_much(usd: float) -> None:
    """All but a few thousandths of the budget, or of the days, are used."""
    option = best(Limits(usd, 90.0))
    steps = option.prediction.steps
    assert steps is not None
    used = max((option.prediction.cost_usd or 0.0) / usd, option.days / 90.0)
    assert 1 - 3 / steps - 0.003 <= used <= 1


@settings(max_examples=15, deadline=None)
@given(BUDGETS, st.floats(1.3, 30))
def test_more_money_trains_a_better_model_with_more_work(usd: float, more: float) -> None:
    less, rich = best(Limits(usd, 90.0)), best(Limits(usd * more, 90.0))
    assert rich.loss <= less.loss + 1e-4
    assert rich.parameters * rich.tokens >= less.parameters * less.tokens * 0.95


@pytest.mark.parametrize("later", [0.5, 2.0, 0.0])
def test_a_price_that_changes_is_paid_as_it_changes(later: float) -> None:
    """Ten days at one price, all others at another: the budget is neither passed nor left lying."""
    begin = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    schedule = Schedule(2.0, ((begin + 10 * 86400, later),))
    offer = Offer(2.0, "s", kind=PriceKind.list, paid="on demand", schedule=schedule, begins_unix_s=begin)
    assert Limits(470.0 * 8, None).hours(8, offer) == pytest.approx(235, rel=2e-3)
    hours = Limits(680.0 * 8, 90.0).hours(8, offer)
    assert hours == pytest.approx(240 + 200 / later if later else 90 * 24, rel=2e-3)
    assert Limits(680.0 * 8, 12.0).hours(8, offer) == pytest.approx(288), "the deadline comes first"
    assert Limits(None, 12.0).hours(8, offer) == 288
    assert Limits(24.0, None).hours(8, offer) == pytest.approx(1.5, rel=2e-3)


def test_a_budget_goes_further_where_the_price_falls() -> None:
    words = ("cluster=nebius_h100", "cluster.price.begins=2027-01-01T00:00Z")
    falling = (*words, "+cluster.price.schedule={2027-01-02: 1.0}")
    plain, cheaper = best(Limits(3e5, 90.0), *words), best(Limits(3e5, 90.0), *falling)
    assert cheaper.prediction.cost_usd == pytest.approx(3e5, rel=0.01), "none of it is left lying"
    assert cheaper.loss < plain.loss


@settings(max_examples=10, deadline=None)
@given(BUDGETS)
def test_no_rung_of_the_ladder_is_better_on_the_same_nodes(usd: float) -> None:
    """What climbing finds is what looking at every size finds, but for the last digit."""
    found, deals = best(Limits(usd, 90.0)), market(Limits(usd, 90.0))
    others = [deals.option(shape, found.candidate.layout.nodes) for shape in SHAPES]
    assert found.loss <= min(option.loss for option in others if option is not None) + 5e-4


def test_the_optimum_is_near_twenty_tokens_per_parameter() -> None:
    """Costs per token that grow a little less than the size, as utilisation does, move it; not far."""
    for usd in (3e5, 1e6, 3e6):
        option = best(Limits(usd, 365.0))
        assert 8 < option.tokens / option.parameters < 45
        assert 0.4 < option.share_of_optimal_tokens < 2.2


def test_batches_and_layouts_are_what_a_plan_derives() -> None:
    for usd, able in ((1e4, frozenset[str]()), (3e6, frozenset({"tp", "pp"}))):
        option = market(Limits(usd, 60.0), able=able).best(SHAPES, NODES)[0]
        layout = option.candidate.layout
        assert layout.micro_batch * layout.accumulation * layout.dp == layout.global_batch
        job = dataclasses.replace(option.config.job, micro_batch=layout.micro_batch)
        degrees = dataclasses.replace(
            option.config.layout, tp=layout.tp, pp=layout.pp, recompute=layout.recompute
        )
        zero = {"zero_optimization": {"stage": layout.zero_stage}}
        config = dataclasses.replace(
            option.config, job=dataclasses.replace(job, supports=None), layout=degrees
        )
        assert derive_layout(dataclasses.replace(config, deepspeed=zero)) == layout


def test_more_ways_to_lay_out_a_run_are_never_worse() -> None:
    limits = Limits(2e6, 45.0)
    plain, free = market(limits), market(limits, able=frozenset({"tp", "pp"}))
    for shape in SHAPES[10:30:4]:
        one, other = plain.option(shape, 32), free.option(shape, 32)
        if one is not None:
            assert other is not None
            assert other.loss <= one.loss + 1e-3


def test_of_experts_those_that_compute_a_token_are_counted() -> None:
    model = config_of("model=mixtral_8x7b").model
    assert model is not None
    option = market(Limits(1e6, 90.0)).option(model, 16)
    assert option is not None
    assert option.parameters == parameters(model).total
    assert option.loss == CHINCHILLA.loss(parameters(model).active_with_embedding, option.tokens)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=40), st.data())
def test_climbing_finds_the_bottom_of_a_valley(slopes: list[float], data: st.DataObject) -> None:
    bottom = data.draw(st.integers(0, len(slopes) - 1))
    losses = [
        sum(slopes[min(i, bottom) : max(i, bottom)]) + 0.1 * abs(i - bottom) for i in range(len(slopes))
    ]
    limit = data.draw(st.integers(bottom, len(slopes)))  # larger ones do not fit
    shown = [loss if place <= limit else math.inf for place, loss in enumerate(losses)]
    start = data.draw(st.integers(0, len(slopes) - 1))
    assert climb(shown.__getitem__, len(shown), start) == bottom


# ---- clusters without Hydra ---------------------------------------------------------------------


def test_clusters_read_here_are_those_that_hydra_composes() -> None:
    overrides = {"cluster.nodes": 7, "gpu.memory_bytes": 10**11}
    read, unreadable = read_all(composed(), overrides, nodes_needed=True)
    assert not unreadable
    assert len(read) >= 20
    for name in ("azure_nd_h100_v5", "deepseek_h800", "dgx_a100", "gcp_a4"):
        config = config_of(f"cluster={name}", *(f"{key}={value}" for key, value in overrides.items()))
        assert (read[name].cluster, read[name].gpu) == (config.cluster, config.gpu)
        of_route = {k: v for k, v in config.fabric.environment.items() if k in ROUTE_VARIABLES}
        assert dataclasses.replace(config.fabric, environment=of_route, leave_unset={}) == read[name].fabric
        assert Machine.of(read[name].cluster, read[name].gpu, read[name].fabric) == Machine.of_config(config)


def test_a_cluster_of_ones_own_whose_numbers_cannot_be_is_left_out_with_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = (load.conf_dir() / "cluster" / "dgx_h100.yaml").read_text()
    for name, number in {"cold": "pue: 0.5", "dark": "nics_per_node: -8", "usual": "pue: 1.5"}.items():
        key = number.partition(":")[0]
        body = re.sub(rf"(?m)^  {key}: .*$", "", file).replace("cluster:\n", f"cluster:\n  {number}\n", 1)
        (tmp_path / f"{name}.yaml").write_text(body)
    monkeypatch.setattr(catalog, "cluster_files", lambda: {p.stem: p for p in tmp_path.iterdir()})
    read, unreadable = read_all(composed(), {}, nodes_needed=False)
    assert list(read) == ["usual"]
    assert "cold.yaml cannot be read: cluster.pue=0.5: must be 1 or more" in unreadable["cold"]
    assert "cluster.nics_per_node=-8: must be 0 or more" in unreadable["dark"]


# ---- the command line ---------------------------------------------------------------------------


def answered(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert cli.main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "words",
    [
        ("budget_usd=20000",),
        ("budget_usd=1e6", "job=pretrain", "job.supports=[tp,pp]", "cluster=aws_p5"),
        ("budget_usd=2e5", "cluster.price.kind=spot", "deadline_days=10"),
        ("budget_usd=50000", "job=llama3_8b", "cluster=lambda_h100"),
        ("deadline_days=3", "cluster=dgx_h100", "cluster.nodes=3", "model.vocab=32000", "model.seq_len=4096"),
    ],
)
def test_the_command_plans_what_was_answered(
    words: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    said = answered(capsys, *words)["options"][0]
    typed = shlex.split(said["command"])
    assert typed[:4] == ["python", "-m", "orchestrator", "plan"]
    assert cli.main([*typed[3:], "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["model"]["parameters"] == said["parameters"]
    assert plan["layout"] == said["layout"]
    assert plan["prediction"]["tokens"] == said["tokens"]
    assert plan["prediction"]["cost_usd"] == pytest.approx(said["cost_usd"])
    assert plan["prediction"]["hours"] == pytest.approx(said["days"] * 24)


def test_options_are_ranked_and_each_cluster_has_one(capsys: pytest.CaptureFixture[str]) -> None:
    found = answered(capsys, "budget_usd=30000")
    losses = [round(option["predicted_loss_nats_per_token"], 3) for option in found["options"]]
    assert losses == sorted(losses)
    clusters = [option["cluster"] for option in found["options"]]
    clusters += [one["run"]["cluster"] for one in found["owned"]]
    assert len(clusters) == len(set(clusters)) >= 20
    assert "local" not in clusters
    assert not found["deadline_was_given"]
    assert all(option["cost_usd"] <= 30000 for option in found["options"] + found["sooner"])
    assert all(option["days"] < found["options"][0]["days"] for option in found["sooner"])


def test_a_deadline_alone_keeps_to_the_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    found = answered(capsys, "deadline_days=30", "cluster=azure_nd_h100_v5")
    (option,) = found["options"]
    assert (option["nodes"], found["budget_usd"]) == (4, None)
    assert 29.9 < option["days"] <= 30
    more = answered(capsys, "deadline_days=30", "cluster=azure_nd_h100_v5", "cluster.nodes=16")["options"][0]
    assert more["predicted_loss_nats_per_token"] < option["predicted_loss_nats_per_token"]


def test_a_given_model_is_kept_and_compared_with_the_best_size(capsys: pytest.CaptureFixture[str]) -> None:
    found = answered(capsys, "budget_usd=5e5", "model=llama3_8b", "cluster=nebius_h100")
    option = found["options"][0]
    assert found["model_was_given"]
    assert option["parameters"] == 8_030_261_248
    assert option["share_of_compute_optimal_tokens"] > 10
    assert found["any_size"]["predicted_loss_nats_per_token"] < option["predicted_loss_nats_per_token"]


def test_a_person_sees_winner_command_table_and_what_it_rests_on() -> None:
    found = answer(composed("budget_usd=100000"), ["budget_usd=100000"])
    console = Console(file=io.StringIO(), width=100, color_system=None)
    show_answer(found, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    rows = text.split("Best of each cluster")[1].split("\n\n")[0].strip().splitlines()
    assert len(rows) == 11
    assert max(map(len, rows)) <= 100
    for words in (
        "$100,000",
        "nats per token",
        "tokens",
        "python -m orchestrator plan job=pretrain",
        "arXiv 2404.10102",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["budget_usd=0"], "budget_usd=0"),
        (["budget_usd=-5"], "budget_usd=-5: must be greater than 0"),
        (["budget_usd=nan"], "not a number; set one"),
        (["budget_usd=inf"], "finite"),
        (["deadline_days=-1"], "deadline_days=-1"),
        (["deadline_days=nan"], "not a number; set one"),
        (["deadline_days=0.01"], "deadline_days=0.0417"),
        (["budget_usd=40", "cluster=azure_nd_h100_v5"], "budget_usd=100"),
        (["budget_usd=1"], "cluster.nodes=1"),
        (["budget_usd=100", "model=llama3_405b"], "least that would do"),
        (["deadline_days=30", "model=llama3_405b"], "fits none"),
        (["deadline_days=30", "cluster=aws_p5", "cluster.nodes=???"], "cluster.nodes"),
        (["budget_usd=1e5", "cluster=local"], "matmul_efficiency"),
        (["budget_usd=1e5", "cluster.price.kind=owned", "cluster=aws_p5"], "capex_usd_per_gpu"),
        (
            ["budget_usd=9", "cluster=aws_p5", "cluster.nodes=2", "cluster.price.usd_per_gpu_hour=0"],
            "deadline_days",
        ),
        (["budget_usd=1e5", "job.steps=100"], "job.steps=100"),
        (["budget_usd=1e5", "model.layers=7"], "model.layers=7"),
    ],
)
def test_what_cannot_be_answered_is_one_message(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_the_least_that_would_do_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "budget_usd=1"]) == 2
    least = capsys.readouterr().err.split("budget_usd=")[2].split(",")[0]
    assert answered(capsys, f"budget_usd={least}")["options"]


def test_a_run_does_not_begin_on_a_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "budget_usd=1000"]) == 2
    assert "'plan'" in capsys.readouterr().err
