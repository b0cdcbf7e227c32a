"""What can be rented, what has to be bought first, and how both are told."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cli import cli
from orchestrator.cli.show.budget import show_answer
from orchestrator.config import composing
from orchestrator.planner import budget


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert cli.main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def shown(width: int, *words: str) -> str:
    found = budget.answer(composing.composed(words).config, words)
    console = Console(file=io.StringIO(), width=width, color_system=None)
    show_answer(found, console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_a_budget_rents_what_somebody_offers_and_owning_is_its_own_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = printed(capsys, "budget_usd=30000")
    rented = {option["cluster"]: option for option in found["options"]}
    assert {option["price_kind"] for option in rented.values()} == {"list"}
    assert {option["price_quality"] for option in rented.values()} <= {"list", "quote"}
    for name in ("deepseek_h800", "gcp_a4"):
        assert name not in rented
        assert "nobody rents at their price, which is an assumption" in found["clusters_left_out"][name]
    assert [one["run"]["cluster"][:4] for one in found["owned"]] == ["dgx_"] * 4
    for one in found["owned"]:
        run, owned = one["run"], one["ownership"]
        assert one["capital_usd"] == pytest.approx(run["gpus"] * owned["capex_usd_per_gpu"])
        assert one["capital_usd"] > run["cost_usd"]
        assert run["price_usd_per_gpu_hour"] == pytest.approx(owned["usd_per_gpu_hour"])
        rents = [rent["usd_per_gpu_hour"] for rent in one["against"]]
        assert rents == sorted(rents)
        assert {rent["cluster"] for rent in one["against"]} <= rented.keys()
        months = [rent["break_even_months"] for rent in one["against"]]
        assert months == sorted(months, reverse=True)


def test_an_assumed_price_is_planned_on_by_name_and_an_offer_of_ones_own_counts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (option,) = printed(capsys, "budget_usd=30000", "cluster=deepseek_h800")["options"]
    assert (option["cluster"], option["price_quality"]) == ("deepseek_h800", "assumption")
    found = printed(capsys, "budget_usd=30000", "cluster.price.quality=quote")
    assert "deepseek_h800" in {one["cluster"] for one in found["options"]}


def test_an_owned_cluster_that_is_named_is_the_answer_with_its_capital() -> None:
    text = shown(100, "budget_usd=1e6", "cluster=dgx_b200", "cluster.nodes=32")
    assert "$16.5M buys these nodes" in text
    assert "owned" in text
    assert "PUE 1.58" in text


@pytest.mark.parametrize("width", [80, 200])
def test_how_it_is_paid_is_never_dropped_and_what_is_dropped_is_said(width: int) -> None:
    text = shown(width, "budget_usd=100000")
    rented = text.split("Best of each cluster")[1].split("Owned: to be bought first")
    assert "paid" in rented[0].splitlines()[1].split()
    assert rented[0].count("on demand") == 10
    assert "capital" in rented[1].splitlines()[1]
    below = " ".join(rented[1].split())
    assert ("Not shown for lack of width" in below) is (width < 200)
    assert ("layout;" in below or "layout," in below) is (width < 200)


def test_what_is_unsure_of_the_winner_is_said_with_it() -> None:
    """Nobody published a run like it, and nobody recorded of which day its price is."""
    said = " ".join(shown(110, "budget_usd=500000", "cluster=nebius_b200").split())
    assert "no published run like it: the nearest, of " in said
    assert "of which day the price is, nobody recorded" in said
    dated = ("budget_usd=500000", "cluster=nebius_b200", "cluster.price.as_of=2026-11")
    assert "nobody recorded" not in shown(110, *dated)


def test_no_figure_is_cut_on_a_narrow_terminal() -> None:
    said = shown(60, "budget_usd=500000", "clusters=[nebius_b200,aws_p5,gcp_a4]")
    table = said[said.index("Best of each cluster") :].split("\n\n")[0]
    assert "…" not in table
    assert all(word in table for word in ("cluster", "loss", "days", "USD", "paid", "assumed", "on demand"))
    assert "nodes" in said[said.index("Not shown for lack of width") :]


def test_numbers_are_for_people() -> None:
    text = shown(100, "budget_usd=1e9", "deadline_days=1", "model=llama3_8b")
    assert "within 1 day;" in text
    assert "e+" not in text.split("in detail")[0]


def test_own_compares_what_is_given_with_every_rent_of_the_same_gpu(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("own=true", "cluster=dgx_h100", "cluster.price.capex_usd_per_gpu=30000")
    (one,) = printed(capsys, *words)["owned"]
    assert one["ownership"]["capex_usd_per_gpu"] == 30000
    assert {rent["cluster"] for rent in one["against"]} >= {"nebius_h100", "aws_p5", "lambda_h100"}
    assert one["against"][0]["cluster"] == "nebius_h100"
    assert 15 < one["against"][0]["break_even_months"] < 25
    dearer = printed(capsys, *words[:2], "cluster.price.capex_usd_per_gpu=60000")["owned"][0]
    assert dearer["against"][0]["break_even_months"] > one["against"][0]["break_even_months"]


def test_own_without_a_cluster_has_all_that_can_be_bought(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "own=true", "cluster.price.occupancy=0.5"]) == 0
    text = capsys.readouterr().out
    for words in ("dgx_a100", "dgx_b200", "dgx_h100", "dgx_h200", "idle 50% of", "pays off after"):
        assert words in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cluster=aws_p5"], "cluster=aws_p5 has no figures of owning; set cluster.price.capex_usd_per_gpu"),
        (["cluster=dgx_h100", "cluster.price.occupancy=2"], "cluster.price.occupancy=2: must be at most 1"),
        (
            ["cluster=dgx_h100", "cluster.price.staff_usd_per_gpu_year=-1"],
            "staff_usd_per_gpu_year=-1: must be 0 or more",
        ),
        (["cluster=dgx_h100", "cluster.price.quality=rumour"], "quality"),
    ],
)
def test_what_cannot_be_owned_is_one_message(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", "own=true", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err[:7], len(err.strip().splitlines())) == ("", "error: ", 1)
    assert said in err
