"""``plan serve=MODEL`` as it is typed, printed and refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.cli import cli
from orchestrator.config.words import in_full

LOAD = ("requests_per_day=1e6", "tokens_in=500", "tokens_out=300")


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert cli.main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_cluster_that_rents_is_compared_and_owned_ones_stand_apart(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = printed(capsys, "serve=llama3_70b", *LOAD)
    usd = [option["usd_per_day"] for option in found["options"]]
    assert usd == sorted(usd)
    assert len(usd) > 12
    assert {option["price_kind"] for option in found["options"]} == {"list"}
    assert {option["cluster"] for option in found["owned"]} == {
        "dgx_a100",
        "dgx_b200",
        "dgx_h100",
        "dgx_h200",
    }
    assert all(option["capital_usd"] is None for option in found["options"])
    assert all(option["capital_usd"] > 1e5 for option in found["owned"])
    assert {"deepseek_h800", "gcp_a4"} <= found["clusters_left_out"].keys()
    assert found["load"]["peak_to_mean"] == 2
    best = found["options"][0]
    assert best["usd_per_day"] == pytest.approx(best["gpus"] * best["price_usd_per_gpu_hour"] * 24)


def test_one_cluster_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "serve=llama3_8b", "cluster=aws_p5", *LOAD, "tpot_s=0.05"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "Serving llama3_8b", "2 times the mean", "aws_p5", "first token after", "(target 50 ms)",
        "per million tokens", "busy over the day", "a day on demand", "serve.software_share",
    ):  # fmt: skip
        assert words in text


def test_an_owned_machine_that_serves_is_never_idle(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("serve=llama3_8b", *LOAD, "cluster=dgx_h100")
    one, other = (printed(capsys, *words, f"cluster.price.occupancy={share}") for share in (0.4, 1.0))
    assert one["options"][0]["usd_per_day"] == other["options"][0]["usd_per_day"]
    assert one["owned"] == one["options"]


def test_fewer_bits_and_smaller_caches_take_fewer_machines(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("serve=llama3_70b", "requests_per_day=1e8", *LOAD[1:], "cluster=aws_p5")
    wide = printed(capsys, *words)["options"][0]["gpus"]
    assert printed(capsys, *words, "serve.precision=fp8")["options"][0]["gpus"] < wide
    assert printed(capsys, *words, "serve.kv_precision=fp8")["options"][0]["gpus"] <= wide


def test_short_words_are_what_they_are_short_for() -> None:
    typed = ["serve=llama3_8b", "tokens_in=5", "serve.days=9", "serve={asked:true}", "job.args.tokens_in=3"]
    assert in_full(typed) == [
        "model=llama3_8b", "serve.asked=true", "serve.tokens_in=5", "serve.days=9", "serve={asked:true}",
        "job.args.tokens_in=3",
    ]  # fmt: skip
    assert in_full(["serve=auto"]) == ["serve.asked=true"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve=llama3_8b"], "serve.requests_per_day is not set"),
        (["serve=llama3_8b", "requests_per_day=5", "tokens_in=5"], "set tokens_out=…"),
        (
            ["serve=llama3_8b", "requests_per_day=0", *LOAD[1:]],
            "serve.requests_per_day=0: must be greater than 0",
        ),
        (["serve=llama3_8b", "requests_per_day=nan", *LOAD[1:]], "requests_per_day"),
        (
            ["serve=llama3_8b", *LOAD, "tokens_out=0.5"],
            "serve.tokens_out=0.5: must be 1 or more",
        ),
        (["serve=llama3_8b", *LOAD, "peak_to_mean=0.5"], "serve.peak_to_mean=0.5"),
        (["serve=llama3_8b", *LOAD, "serve.memory_share=2"], "serve.memory_share=2"),
        (["serve=llama3_8b", *LOAD, "serve.software_share=0"], "serve.software_share=0"),
        (["serve=llama3_8b", *LOAD, "serve.precision=int3"], "choose one of bf16, fp16, fp8, int8, int4"),
        (["serve=llama3_8b", *LOAD, "serve.precision=fp8", "cluster=aws_p4d"], "no gpu.peak_flops.fp8"),
        (["serve=llama3_8b", *LOAD, "cluster.nodes=4", "cluster=aws_p5"], "cluster.nodes=4"),
        (["serve=llama3_8b", *LOAD, "cluster=local", "gpu=cpu"], "no time can be predicted"),
        (["serve=nosuch", *LOAD], "nosuch"),
        (["serve=llama3_8b", "requests_per_day=1e12", "tokens_in=5e3", "tokens_out=9e3"], "fewer or shorter"),
        (
            ["serve=llama3_8b", *LOAD, "planner.hbm_efficiency=0"],
            "planner.hbm_efficiency=0: must be greater than 0",
        ),
        (
            ["serve=llama3_8b", *LOAD, "gpu.nvlink_bytes_per_s=-1"],
            "gpu.nvlink_bytes_per_s=-1: must be 1 or more",
        ),
        (["serve=auto", *LOAD], "which model?"),
        ([*LOAD], "which model?"),
    ],
)
def test_what_cannot_be_served_is_one_message(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err[:7], len(err.strip().splitlines())) == ("", "error: ", 1)
    assert said in err


def test_a_run_does_not_serve(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "serve=llama3_8b", *LOAD]) == 2
    assert "answered by 'plan'" in capsys.readouterr().err


def test_several_models_are_served_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "-m", "serve=llama3_8b,llama2_7b", *LOAD, "cluster=aws_p5"]) == 0
    text = capsys.readouterr().out
    assert text.index("Serving  llama3_8b") < text.index("Serving  llama2_7b")


def test_a_request_beyond_the_models_length_is_remarked_on(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("serve=llama3_8b", "cluster=aws_p5", LOAD[0], "tokens_out=300")
    assert cli.main(["plan", *words, "tokens_in=8000"]) == 0
    assert "longer than model.seq_len=8,192" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["plan", *words, "tokens_in=7000"]) == 0
    assert "longer than" not in capsys.readouterr().out


# ---- training and serving in one budget --------------------------------------------------------


def test_a_budget_pays_for_training_and_serving_and_a_smaller_model_is_trained_for_longer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("budget_usd=3e6", "cluster=nebius_h100")
    (alone,) = printed(capsys, *words)["options"]
    (both,) = printed(capsys, *words, "serve=auto", "requests_per_day=2e7", *LOAD[1:])["options"]
    assert both["total_usd"] == pytest.approx(both["cost_usd"] + both["served"]["usd"])
    assert both["total_usd"] <= 3e6
    assert both["served"]["usd"] == pytest.approx(both["served"]["result"]["usd_per_day"] * 365)
    assert both["served"]["cluster"] == "nebius_h100"
    assert both["parameters"] < alone["parameters"]
    assert both["tokens_per_parameter"] > 1.5 * alone["tokens_per_parameter"]
    assert alone["served"] is None
    assert alone["total_usd"] == alone["cost_usd"]


def test_a_given_model_is_trained_on_what_its_serving_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("budget_usd=1e6", "serve=llama3_8b", "cluster=nebius_h100,aws_p5", *LOAD)
    year, month = printed(capsys, *words), printed(capsys, *words, "serve.days=30")
    assert {option["cluster"] for option in year["options"]} == {"nebius_h100", "aws_p5"}
    for option in year["options"]:
        assert option["parameters"] == 8_030_261_248
        assert (
            option["served"]["cluster"] == "nebius_h100"
        )  # the cheaper one serves whatever is trained where
    assert month["options"][0]["tokens"] > year["options"][0]["tokens"]


def test_what_trains_and_serves_is_told_in_one_bill(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("budget_usd=1e6", "serve=llama3_8b", "cluster=nebius_h100", *LOAD)
    assert cli.main(["plan", *words]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "for 365 days on nebius_h100: 8 GPUs, $566.40 a day" in text
    assert "training and serving" in text
    command = text.split("in detail: ")[1]
    assert "serve" not in command.split("Loss:")[0]


def test_serving_that_takes_the_whole_budget_is_refused_with_its_cost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["plan", "budget_usd=1e5", "serve=llama3_8b", "cluster=nebius_h100", *LOAD]) == 2
    err = capsys.readouterr().err
    assert "serving llama3_8b for serve.days=365 alone takes 206,736 USD on nebius_h100" in err
    words = ("serve=llama3_8b", "cluster=nebius_h100", *LOAD)
    assert cli.main(["plan", "budget_usd=206740", *words]) == 2
    least = capsys.readouterr().err.split("the least that would do is budget_usd=")[1].split(",")[0]
    assert int(least) > 206_740
    assert printed(capsys, f"budget_usd={least}", *words)["options"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["budget_usd=1e6", "serve=auto"], "serve.requests_per_day is not set"),
        (["budget_usd=1e6", "serve=auto", *LOAD, "serve.days=0"], "serve.days=0: must be greater than 0"),
        (["budget_usd=1e6", "cluster=nebius_h100,nosuch"], "clusters=nosuch: no such cluster"),
        (["clusters=[aws_p5]"], "'plan -m cluster=A,B' makes a table"),
        (["cluster=aws_p5,lambda_h100"], "--multirun"),
    ],
)
def test_what_a_budget_cannot_compare_is_one_message(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err[:7], len(err.strip().splitlines())) == ("", "error: ", 1)
    assert said in err


def test_clusters_by_name_are_compared_whatever_their_price(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "budget_usd=50000", "cluster=deepseek_h800,nebius_h100,dgx_h100")
    assert {option["cluster"] for option in found["options"]} == {"deepseek_h800", "nebius_h100"}
    assert [one["run"]["cluster"] for one in found["owned"]] == ["dgx_h100"]
    assert found["clusters_left_out"] == {}
