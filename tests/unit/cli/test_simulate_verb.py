"""`simulate` on a trace of a few jobs: the table, the JSON, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.cli import main

TRACE = "submit_time_s,duration_s,gpus\n0,5000,8\n10,60,8\n20,60,4\n"


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "jobs.csv"
    path.write_text(TRACE)
    return str(path)


def test_a_table_and_json_of_the_same(trace, capsys):
    assert main(["simulate", "--trace", trace, "--gpus", "8"]) == 0
    table = capsys.readouterr().out
    assert "ours_blind" in table
    assert "3 jobs on 8 GPUs" in table
    assert main(["simulate", "--trace", trace, "--gpus", "8", "--policies", "fifo,srsf", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["jobs"], body["gpus"], list(body["policies"])) == (3, 8, ["fifo", "srsf"])
    assert body["policies"]["fifo"]["avg_jct_s"] == pytest.approx((5000 + 5050 + 5100) / 3)
    assert body["policies"]["srsf"]["avg_jct_s"] < 2000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trace", "/no/such"], "--trace=/no/such: No such file"),
        (["--policies", "srff"], "--policies=srff: there are fifo"),
        (["--gpus", "4"], "--gpus=4: line 2 of the trace takes 8 GPUs"),
        (["--early", "2"], "--early=2: it is a share"),
        (["--early", "-1"], "'-1' is not a number of 0 or more"),
        (
            ["--jobs-csv", "/no/such/place.csv"],
            "--jobs-csv=/no/such/place.csv: there is no folder /no/such; make it",
        ),
        (["--png", "/dev/null/x.png"], "--png=/dev/null/x.png: there is no folder /dev/null;"),
        (["--png", "x.png", "--profile", "muri"], "--png: there is nothing to show of --profile=muri"),
        (["--profile", "x"], "--profile=x: there is muri only"),
    ],
)
def test_bad_input_is_refused_in_one_line(trace, capsys, words, said):
    flags = dict(zip(words[::2], words[1::2], strict=True))
    flags.setdefault("--trace", trace)
    assert main(["simulate", *(word for pair in flags.items() for word in pair)]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_a_bad_line_is_named(tmp_path, capsys):
    path = tmp_path / "bad.csv"
    path.write_text(TRACE + "30,-1,4\n")
    assert main(["simulate", "--trace", str(path)]) == 2
    assert "bad.csv, line 5: duration_s=-1 has to be above 0" in capsys.readouterr().err


def test_a_line_for_each_policy_and_job_and_a_picture(trace, tmp_path, capsys):
    words = ["--trace", trace, "--gpus", "8", "--policies", "fifo,ours", "--by-team"]
    assert (
        main(["simulate", *words, "--jobs-csv", str(tmp_path / "o.csv"), "--png", str(tmp_path / "o.png")])
        == 0
    )
    lines = (tmp_path / "o.csv").read_text().splitlines()
    assert lines[0].startswith("policy,key,team,gpus,")
    assert len(lines) == 1 + 2 * 3
    assert lines[1:3] == [
        "fifo,line 2,,8,1.0,0.000,0.000,5000.000,5000.000,0.000,0",
        "fifo,line 3,,8,1.0,10.000,5000.000,5060.000,60.000,4990.000,0",
    ]
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")
    assert "no team" in capsys.readouterr().out


FLEET = "pools: {gpus: {nodes: 2, gpus_per_node: 8}}\nteams: {nlp: {usd_per_month: 5, quota: {gpus: 8}}, cv: {}}\n"


def test_a_trace_is_played_on_a_fleet_and_told_by_team(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, fleet = tmp_path / "t.csv", tmp_path / "fleet.yaml"
    trace.write_text("submit_time_s,duration_s,gpus,team\n0,3600,8,nlp\n10,7200,16,cv\n20,600,8,nlp\n")
    fleet.write_text(FLEET)
    assert main(["simulate", "--trace", str(trace), "--fleet", str(fleet), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["jobs"], found["gpus"], list(found["teams"])) == (3, 16, ["cv", "nlp"])
    assert main(["simulate", "--trace", str(trace), "--fleet", str(fleet)]) == 0
    told = capsys.readouterr().out
    assert "3 jobs on the 16 GPUs of " in told
    assert "usd_per_month of nlp is not played" in told


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--fleet", "none.yaml"], "none.yaml: is not there, and says which pools and teams share the GPUs"),
        (["--fleet", "f.yaml", "--gpus", "8"], "--gpus: says nothing beside --fleet"),
        (["--fleet", "f.yaml", "--policies", "ours"], "--policies: says nothing beside --fleet"),
        (["--fleet", "f.yaml"], "f.yaml: pools: "),
    ],
)
def test_what_cannot_be_beside_a_fleet_is_refused(
    flags: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("submit_time_s,duration_s,gpus\n0,3600,8\n")
    (tmp_path / "f.yaml").write_text("teams: {}\n")
    assert main(["simulate", "--trace", "t.csv", *flags]) == 2
    assert why in capsys.readouterr().err
