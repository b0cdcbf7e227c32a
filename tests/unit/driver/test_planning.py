"""The planner asked by a program says what the command line says, and refuses in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import orchestrator as orc
from orchestrator.cli import cli
from orchestrator.config import load
from orchestrator.driver import handle
from orchestrator.driver.preflight import plan_of

LARGE = ("job=llama3_8b", "cluster=dgx_h100", "cluster.nodes=4")


def printed(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["plan", *words]) == 0
    return capfd.readouterr().out


def test_print_of_a_plan_is_what_the_verb_prints(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    assert printed(capfd, *LARGE) == f"{orc.make_plan(orc.compose(*LARGE), observed=False)}\n"


def test_a_search_is_that_of_the_command_line_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    best = orc.search_layout(orc.compose(*LARGE), observed=False)
    assert capfd.readouterr() == ("", "")
    verb = json.loads(printed(capfd, *LARGE, "layout=auto", "--json"))["search"]
    assert list(best.overrides) == verb["overrides"]
    assert [other.why for other in best.runners_up] == [other["why"] for other in verb["runners_up"]]
    assert best.plan.layout == orc.make_plan(best.config, observed=False).layout
    again = orc.make_plan(orc.compose(*LARGE, *best.overrides), observed=False)
    assert (again.layout, again.deepspeed) == (best.plan.layout, best.plan.deepspeed)


def test_layout_auto_is_searched_once_whoever_asks() -> None:
    config = orc.compose(*LARGE, "layout=auto")
    best = orc.search_layout(config, observed=False)
    assert orc.make_plan(config, observed=False) == best.plan
    assert orc.make_plan(best.config, observed=False) == best.plan
    assert best.plan.layout != orc.make_plan(orc.compose(*LARGE), observed=False).layout


def test_a_run_is_started_with_the_layout_that_was_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []

    def ask(what: dict[str, Any], _timeout_s: float) -> tuple[None, dict[str, str]]:
        told.append(what)
        return None, {"path": "runs/night"}

    monkeypatch.setattr(handle, "ask", ask)
    config = orc.compose(*LARGE, "layout=auto")
    best = orc.search_layout(config, observed=False)
    for given in (config, best.config):
        orc.start(given)
        planned = plan_of(load.from_container(told[-1]["config"]), observed=False)
        assert (planned.layout, planned.deepspeed) == (best.plan.layout, best.plan.deepspeed)


def test_keys_that_were_set_are_kept_by_a_search() -> None:
    config = orc.compose(
        "job=pretrain", "model=llama3_8b", "cluster=dgx_h100", "cluster.nodes=4", "job.supports=null"
    )
    config.layout.tp = 8
    config.job.micro_batch = 2
    best = orc.search_layout(config, observed=False)
    assert (best.plan.layout.tp, best.plan.layout.micro_batch) == (8, 2)
    assert set(best.kept) == {"++layout.tp=8", "++job.micro_batch=2"}


def test_a_budget_is_that_of_the_command_line(capfd: pytest.CaptureFixture[str]) -> None:
    found = orc.plan_budget(orc.compose("cluster=dgx_h100"), usd=200_000)
    assert capfd.readouterr() == ("", "")
    verb = json.loads(printed(capfd, "cluster=dgx_h100", "budget_usd=200000", "--json"))
    assert [option["cost_usd"] for option in verb["options"]] == [
        o.prediction.costs[0].usd for o in found.options
    ]
    assert found.best is found.options[0]
    assert found.best.prediction.costs[0].usd <= 200_000


def test_serving_is_that_of_the_command_line(capfd: pytest.CaptureFixture[str]) -> None:
    words = ("serve=llama3_8b", "cluster=aws_p5", "requests_per_day=1e7", "tokens_in=500", "tokens_out=300")
    found = orc.plan_serving(orc.compose(*words))
    assert capfd.readouterr() == ("", "")
    verb = json.loads(printed(capfd, *words, "--json"))
    assert [option["usd_per_day"] for option in verb["options"]] == [
        option.result.usd_per_day for option in found.options
    ]
    config = orc.compose(*words)
    config.serve.requests_per_day = 5e8
    assert orc.plan_serving(config).options[0].result.gpus > found.options[0].result.gpus


def test_a_sweep_is_that_of_the_command_line(capfd: pytest.CaptureFixture[str]) -> None:
    swept = orc.sweep(orc.compose(*LARGE), {"cluster.nodes": [2, 4], "cluster": ["dgx_h100", "aws_p5"]})
    assert capfd.readouterr() == ("", "")
    words = ("job=llama3_8b", "cluster.nodes=2,4", "cluster=dgx_h100,aws_p5")
    assert cli.main(["plan", "-m", *words, "--json"]) == 0
    verb = json.loads(capfd.readouterr().out)
    assert [point.plan.prediction.cost_usd for point in swept if point.plan] == [
        point["plan"]["prediction"]["cost_usd"] for point in verb
    ]
    assert [row.pareto for row in swept.rows] == [point["pareto"] for point in verb]
    assert (len(swept), swept[1:2].points, swept[0].overrides) == (
        4,
        swept.points[1:2],
        ("cluster.nodes=2", "cluster=dgx_h100"),
    )


def test_a_point_that_is_refused_has_its_reason_and_is_no_failure_of_the_others() -> None:
    swept = orc.sweep(orc.compose(*LARGE), {"job.micro_batch": [1, 64], "job.stepz": [1]})
    assert all(point.plan is None and "did you mean" in point.refused for point in swept)
    swept = orc.sweep(orc.compose(*LARGE), {"job.global_batch": [128, 7]})
    assert [point.plan is None for point in swept] == [False, True]


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: orc.compose("job.stepz=1"), "did you mean"),
        (lambda: orc.make_plan(orc.compose(*LARGE, "layout.tp=3")), "layout.tp=3"),
        (
            lambda: orc.search_layout(orc.compose("job=script", "job.script=x.py")),
            "layout=auto: nothing to choose by",
        ),
        (lambda: orc.plan_budget(orc.compose()), "give usd=… or days=…"),
        (lambda: orc.plan_budget(orc.compose(), usd=-1), "budget_usd=-1"),
        (lambda: orc.plan_budget(orc.compose(), days="soon"), "deadline_days='soon'"),  # type: ignore[arg-type]
        (lambda: orc.sweep(orc.compose(), {"cluster.nodes": 8}), "cluster.nodes=8: a sweep needs a list"),  # type: ignore[dict-item]
        (lambda: orc.start(orc.compose("budget_usd=1000")), "plan_budget"),
        (lambda: orc.start(orc.compose("serve=llama3_8b")), "plan_serving"),
        (lambda: orc.plan_serving(orc.compose("serve=llama3_8b")), "serve.requests_per_day is not set"),
        (lambda: orc.run(orc.compose("run_name=a/b")), "run_name=a/b"),
        (lambda: orc.resume("nowhere"), "no run 'nowhere'"),
        (lambda: orc.open_run("nowhere"), "no run 'nowhere'"),
        (lambda: orc.calibrate(["nowhere"]), "no run 'nowhere'"),
        (lambda: orc.calibrate("nowhere"), "give a list of runs"),
        (lambda: orc.calibrate(), "no run in runs can be used"),
        (lambda: orc.runs(sort="costs"), "unknown sort key 'costs'"),
        (lambda: orc.runs(status="finishd"), "did you mean 'finished'"),
        (lambda: orc.runs(limit=0), "limit=0"),
        (lambda: orc.runs(), "no runs yet"),
    ],
)
def test_what_cannot_be_answered_is_one_line(
    ask: Callable[[], object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(orc.OrchestratorError) as refusal:
        ask()
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == [], "it was refused, and something was left"


def test_a_calibration_names_what_it_could_not_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "night"
    run.mkdir(parents=True)
    (run / "journal.jsonl").touch()
    with pytest.raises(
        orc.ConfigError, match=r"none of the runs named can be used \(night: it never began\)"
    ):
        orc.calibrate([orc.open_run("night")])
