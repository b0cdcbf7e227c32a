"""`simulate scenario=…`: tables, JSON and CSV of the same, and what is refused in one line."""

from __future__ import annotations

import csv
import io
import json

import pytest
from omegaconf import OmegaConf

from orchestrator.cli.cli import main
from orchestrator.config.load import conf_dir

SHORT = ["simulate", "scenario=two_sites", "scenario.weeks=2", "scenario.warmup_weeks=1", "scenario.seeds=2"]


def test_tables_json_and_csv_of_the_same(capsys):
    assert main([*SHORT, "scenario.more_at=oregon"]) == 0
    table = " ".join(capsys.readouterr().out.split())
    for said in ("2 weeks from 2026-01-05, 2 draws", "research", "Serving assistant", "Run again with 1,000"):
        assert said in table
    assert main([*SHORT, "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["gpus"], body["gpus_ordered"], body["gpus_wanted"]) == (1536, 256, 1700)
    assert [(row["site"], row["week"]) for row in body["sites"]] == [
        ("virginia", 1), ("virginia", 2), ("oregon", 1), ("oregon", 2),
    ]  # fmt: skip
    assert body["again"] is None
    virginia = body["more"][0]
    assert 0.5 < virginia["owned_usd_per_gpu_hour"] < virginia["rent_usd_per_gpu_hour"] == 3.0
    load = body["serving"][0]
    assert load["gpus"] % 8 == 0
    assert 0 < load["mean_gpus"] <= load["gpus"]
    assert load["capital_usd"] == 30_000 * load["gpus"]
    assert load["usd_per_day_rented"] == pytest.approx(load["gpus"] * 72)
    assert main([*SHORT, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["busy_mid"]) for row in rows] == [row["busy"]["mid"] for row in body["sites"]]
    peaks = [row["peak_mw"]["high"] for row in body["sites"]]
    assert max(peaks[:2]) <= 1.6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scenario.weeks=0"], "scenario.weeks=0: must be 1 or more"),
        (["scenario.begins=soon"], "scenario.begins=soon: it is no date"),
        (["scenario.more_at=oregano"], "did you mean 'oregon'?"),
        (
            ["scenario.sites.oregon.gpus=100"],
            "scenario.sites.oregon.gpus=100: give whole nodes of 8, e.g. 96",
        ),
        (["scenario.sites.oregon.pue=0.5"], "scenario.sites.oregon.pue=0.5: must be 1 or more"),
        (["scenario.sites.virginia.quota.product=0.7"], "its shares add up to 1.2"),
        (["+scenario.sites.oregon.quota.reserch=0"], "scenario.sites.oregon.quota"),
        (["scenario.sites.virginia.cap_by_hour=[1,1]"], "it has 2 numbers; give 24"),
        (["scenario.work.fine_tuning.share=0.3"], "scenario.work.*.share: the shares add up to 1.1"),
        (["scenario.work.pretraining.most_gpus=2048"], "holds a gang of 1024, and 2048 are never split"),
        (["scenario.work.pretraining.most_gpus=8"], "it is below least_gpus=256"),
        (["scenario.work.pretraining.median_hours=inf"], "give the hours of a job"),
        (["scenario.deliveries.next_week.site=origin"], "did you mean 'oregon'?"),
        (["scenario.serving.assistant.model=llama3_8c"], "did you mean 'llama3_8b'?"),
        (["scenario.serving.assistant.precision=fp7"], "scenario.serving.assistant"),
        (["scenario.owned_cluster=aws_p5"], "it has no figures of owning"),
        (
            ["--seeds", "5"],
            "--seeds: it is of a trace, and a scenario was named; leave it out; set scenario.seeds",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(capsys, words, said):
    assert main(["simulate", "scenario=two_sites", *words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_something_has_to_be_simulated(capsys):
    assert main(["simulate"]) == 2
    assert "give --trace FILE, or a scenario" in capsys.readouterr().err


def test_the_shipped_list_is_the_sources_with_its_warning():
    body = OmegaConf.to_container(OmegaConf.load(conf_dir() / "scenario" / "h100_2023.yaml"))
    assert sum(company["gpus"] for company in body["companies"].values()) == 432_000
    assert "with the exception of the 'who has how many GPUs' parts" in " ".join(body["warning"].split())
    sites = body["sites"].values()
    assert sum(site["count"] for site in sites) == 60
    ordered = sum(order["gpus"] for order in body["deliveries"].values())
    assert sum(site["count"] * site["gpus"] for site in sites) + ordered == 432_000
    parts = [*sites, *body["companies"].values(), *body["work"].values(), *body["deliveries"].values()]
    assert all(part["source"] for part in parts)
