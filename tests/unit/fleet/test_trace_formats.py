"""Traces of six kinds, and lines that are no jobs."""

from __future__ import annotations

import json

import pytest

from orchestrator.errors import ConfigError
from orchestrator.fleet.contest import refuse_too_large
from orchestrator.fleet.trace import TraceJob
from orchestrator.fleet.trace_formats import read_trace

OURS = "submit_time_s,duration_s,gpus,team\n"
ACME = "job_id,user,gpu_num,type,state,submit_time,duration\n"
SACCT = "JobID|Account|Submit|ElapsedRaw|State|AllocTRES\n"


def _read(text: str) -> list[TraceJob]:
    return read_trace(text, "t")


def test_ours_by_submission_and_from_zero():
    jobs = _read(OURS + "100,5,2,nlp\n40,7.5,1,cv\n")
    assert [(job.key, job.submit_s, job.duration_s, job.gpus, job.team) for job in jobs] == [
        ("line 3", 0.0, 7.5, 1, "cv"),
        ("line 2", 60.0, 5.0, 2, "nlp"),
    ]


def test_a_job_keeps_the_name_that_the_trace_gives_it_and_is_found_by_its_line():
    head, rows = "submit_time_s,duration_s,gpus,", "0,5,2,night-1\n\n40,7.5,16,\n50,7.5,1,night-3\n"
    for column in ("job", "key", "job_id", "name", "id"):
        named, unnamed, last = _read(f"\ufeff{head}{column}\n{rows}")
        assert (named.key, named.told()) == ("night-1", "job night-1 (line 2)")
        assert (unnamed.key, unnamed.told()) == ("line 4", "line 4")
        assert last.told() == "job night-3 (line 5)"
    with pytest.raises(ConfigError, match=r"--gpus=8: line 4 of the trace takes 16 GPUs"):
        refuse_too_large([named, unnamed], 8)
    with pytest.raises(ConfigError, match=r"--gpus=1: job night-1 \(line 2\) of the trace takes 2 GPUs"):
        refuse_too_large([named], 1)


def test_muri_counts_milliseconds():
    [job] = _read("job_id,num_gpu,submit_time,iterations,model_name,duration\n7,4,9000,10,bert,2500\n")
    assert (job.key, job.submit_s, job.duration_s, job.gpus, job.model) == ("7", 0.0, 2.5, 4, "bert")


def test_acme_leaves_out_jobs_without_gpus_and_those_that_never_ran():
    rows = ["a,u1,8,Pretrain,COMPLETED,2023-08-01 00:00:10+08:00,60", "b,u1,0,Other,COMPLETED,2023-08-01 00:00:00+08:00,60",
            "c,u2,16,Eval,CANCELLED,2023-08-01 00:00:00+08:00,0", "d,u2,16,Eval,FAILED,2023-08-01 00:00:30+08:00,5"]  # fmt: skip
    jobs = _read(ACME + "\n".join(rows))
    assert [(job.key, job.submit_s, job.gpus, job.state) for job in jobs] == [
        ("a", 0, 8, "completed"),
        ("d", 20, 16, "failed"),
    ]


def test_sacct_leaves_out_steps():
    rows = "12|nlp|2024-01-01T00:00:00|90|COMPLETED|cpu=8,gres/gpu=8\n12.batch|nlp|2024-01-01T00:00:00|90|COMPLETED|cpu=8,gres/gpu=8\n13|cv|2024-01-01T00:01:00|30|CANCELLED by 5|cpu=1,gres/gpu=2\n14|cv|2024-01-01T00:01:00|30|COMPLETED|cpu=1\n"
    assert [
        (job.key, job.team, job.submit_s, job.duration_s, job.gpus, job.state) for job in _read(SACCT + rows)
    ] == [
        ("12", "nlp", 0, 90, 8, "completed"),
        ("13", "cv", 60, 30, 2, "cancelled"),
    ]


def test_philly_adds_the_attempts_up():
    detail = [{"ip": "m1", "gpus": ["0", "1"]}, {"ip": "m2", "gpus": ["0", "1"]}]
    attempts = [
        {"start_time": "2017-10-01 00:00:00", "end_time": "2017-10-01 00:01:00", "detail": detail},
        {"start_time": "2017-10-01 01:00:00", "end_time": "2017-10-01 01:00:30", "detail": detail},
    ]
    body = [
        {
            "jobid": "x",
            "vc": "v",
            "status": "Pass",
            "submitted_time": "2017-10-01 00:00:00",
            "attempts": attempts,
        },
        {
            "jobid": "never",
            "vc": "v",
            "status": "Killed",
            "submitted_time": "2017-10-01 00:00:00",
            "attempts": [],
        },
    ]
    [job] = _read(json.dumps(body))
    assert (job.key, job.team, job.duration_s, job.gpus, job.state) == ("x", "v", 90, 4, "pass")


def test_kueue_from_admitted_to_finished():
    pods = {
        "count": 2,
        "template": {"spec": {"containers": [{"resources": {"requests": {"nvidia.com/gpu": "8"}}}]}},
    }
    at = [
        {"type": "Admitted", "status": "True", "lastTransitionTime": "2024-01-01T00:05:00Z"},
        {"type": "Finished", "status": "True", "lastTransitionTime": "2024-01-01T00:07:00Z"},
    ]
    item = {
        "metadata": {"name": "w", "namespace": "n", "creationTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {"queueName": "q", "podSets": [pods]},
        "status": {"conditions": at},
    }
    [job] = _read(json.dumps({"items": [item]}))
    assert (job.key, job.team, job.duration_s, job.gpus) == ("w", "q", 120, 16)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OURS + "1,5,2,a\n2,-5,1,a\n", "t, line 3: duration_s=-5 has to be above 0"),
        (OURS + "1,5,2,a\n,5,1,a\n", "t, line 3: submit_time_s is missing"),
        (OURS + "1\n", "t, line 2: gpus is missing"),
        (OURS + "1,5,2,a\n\n2,-5,1,a\n", "t, line 4: duration_s=-5 has to be above 0"),
        (OURS + "1,five,2,a\n", "t, line 2: duration_s=five is not a number"),
        (OURS + "1,nan,2,a\n", "t, line 2: duration_s=nan has to be above 0"),
        (OURS + "1,5,0,a\n", "t, line 2: gpus=0 has to be 1 or more"),
        (OURS + "1,5,1.5,a\n", "t, line 2: gpus=1.5 has to be a whole number"),
        (OURS, "t: it has no job that ran on a GPU"),
        ("a,b\n1,2\n", "t, line 1: 'a,b' is no trace's header"),
        ("", "t, line 1: '' is no trace's header"),
        (ACME + "a,u,8,x,DONE,yesterday,60\n", "t, line 2: 'yesterday' is not a time"),
        ("[1]", "t, item 1: "),
        ("[{]", "t: it begins as JSON and is none"),
        ('{"a": 1}', "t: it is JSON, but neither Philly's list of jobs nor Kueue's"),
        ('[{"jobid": 1}]', "t, item 1: attempts is missing"),
    ],
)  # fmt: skip
def test_a_bad_line_is_refused_by_its_number(text, said):
    with pytest.raises(ConfigError) as refused:
        _read(text)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)
