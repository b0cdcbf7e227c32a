"""Mistakes as people make them: each is refused before anything starts, in one line that names the key, the
value and what to type."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli import cli

GPUS = ("job=llama3_8b", "cluster=dgx_h100", "cluster.nodes=2")
A_PLUS = "; a + adds keys to env, job.env, job.args and deepspeed; --cfg job prints all others"

MISTAKES: list[tuple[tuple[str, ...], str]] = [
    # values that would have cost
    (("deepspeed.zero_optimization.stage=4",), "deepspeed.zero_optimization.stage=4: DeepSpeed 0.19"),
    (("job.corpus=[]",), "job.corpus=[]: job 'tiny_gpt' trains on it; give files, directories or globs"),
    (("job.tokenizer=/no/such",), "job.tokenizer=/no/such: no such file"),
    (("job.tokenizer=absent.json",), "or job.tokenizer=null for the script's own"),
    (("job.cwd=/no/such",), "job.cwd=/no/such: no such folder; give one that is there, or job.cwd=null"),
    (("job.args.lr=nan",), """job.args.lr=nan: not a number; set one, or write 'job.args.lr="nan"' for the word"""),
    (("job.args.lr=inf",), "job.args.lr=inf: must be finite, at most 1000; write e.g. job.args.lr=0.0015"),
    (("job.args.lr=-1",), "job.args.lr=-1: must be greater than 0; write e.g. job.args.lr=0.0015"),
    (("job.args.beta2=1.0",), "job.args.beta2=1: must be at most 0.999999; write e.g. job.args.beta2=0.95"),
    (("env.CUDA_VISIBLE_DEVICES=7",), "env.CUDA_VISIBLE_DEVICES=7: Ray gives a run its GPUs, and those may be another's"),
    (("env.RANK=7",), "env.RANK: every rank gets its own from the run, and would not see this one; leave it out"),
    (("job.env.MASTER_PORT=7",), "or remove it with '~job.env.MASTER_PORT'"),
    (("+deepspeed.fp16.enabled=true", "+deepspeed.bf16.enabled=true"), "write deepspeed.fp16.enabled=false or"),
    (("job.supports=[quantum]",), "job.supports=[quantum]: no kind of parallelism of cp, tp, pp, sp, ep, vp"),
    (("snapshot.dirs=[/no/such]",), "snapshot.dirs=[/no/such]: no folder that can be written; make it, or write"),
    (("snapshot.park_bytes=999999999999999",), "snapshot.park_bytes=999999999999999: /dev/shm has"),
    (("snapshot.park_s=-1",), "snapshot.park_s=-1: must be 0 or more; write"),
    (("recovery.stop_grace_s=inf",), "write e.g. recovery.stop_grace_s=30"),
    (("job.steps=10000000000000000000000",), "job.steps=10000000000000000000000: must be at most 1e+12"),
    ((*GPUS, "planner.hbm_efficiency=0"), "planner.hbm_efficiency=0: must be greater than 0; write e.g."),
    ((*GPUS, "planner.hbm_efficiency=-1"), "planner.hbm_efficiency=-1: must be greater than 0"),
    # what has no such key
    (("+job.stesp=5",), f"job.stesp: no such key; did you mean 'job.steps'?{A_PLUS}"),
    (("++foo.bar=1",), f"foo.bar: no such key{A_PLUS}"),
    (("gpu.peak_flops.fp8=1e15",), "gpu.peak_flops.fp8: not set by the config"),
    (("gpu=h1000",), "gpu=h1000: no such option; did you mean 'h100_sxm'?"),
    (("+deepspeed.zero_optimization.stage=2",), "the configuration has that key, and a + is for one that it lacks; write deepspeed.zero_optimization.stage=2"),
    (("~job",), "~job: no run is without a job; leave that word out, or choose one with e.g. job=tiny_gpt"),
    # what is not of its kind
    (("job.corpus=/x",), "job.corpus=/x: takes a list of text; write e.g. 'job.corpus=[/x]'"),
    (("job.corpus=[null]",), "job.corpus=[null]: takes a list of text"),
    (("cluster=null",), "cluster=null: no such option; write e.g. cluster=local (cluster: aws_p4d, "),
    (("deepspeed=5",), "deepspeed=5: no such option; write e.g. deepspeed=zero1 ("),
    (("job.args=5",), "job.args=5: takes keys below it; write e.g. +job.args.NAME=…"),
    (("cluster.price=5",), "cluster.price=5: takes keys below it; write e.g. cluster.price.usd_per_gpu_hour=…"),
    (("+gpu.peak_flops.fp8=[x]",), "gpu.peak_flops.fp8=[x]: takes a number from 1 to 1e+24; write e.g. gpu."),
    (("~job.steps",), "~job.steps: a key of the schema always has a value; write job.steps=null"),
    (("~cluster.nodes",), "~cluster.nodes: a key of the schema always has a value; write cluster.nodes=1"),
    (("~model",), "~model: takes model.layers out, which the job asks for by ${model.layers}; leave that word out"),
    (("model.hidden=1e9",), "model.hidden=1e9: takes a whole number above 0 to 1e+06"),
    (("-m", "cluster.nodes=nope,16"), "cluster.nodes=nope: takes a whole number above 0 to 1e+06; write e.g. cluster.nodes=1"),
    (("model.hidden=1e3",), "model.hidden=1e3: takes a whole number above 0 to 1e+06; write e.g. model.hidden=1000"),
    (("job.resume=sometimes",), "job.resume=sometimes: takes never or auto; write e.g. job.resume=never"),
    (("tracking.required=maybe",), "tracking.required=maybe: takes true or false; write e.g. tracking.required=false"),
    (("cluster=aws_p5,dgx_h100",), "cluster=aws_p5,dgx_h100: several options are a sweep; choose one"),
    (("job.argv=[${nope}]",), "job.argv=[${nope}]: no key is called 'nope'; name one that is there, or write \\${nope}"),
    (("job.steps=${model.layres}",), "no key is called 'model.layres'; did you mean 'model.layers'?"),
    ((*GPUS, "gpu.architecture=hoper"), "gpu.architecture=hoper: planner.matmul_efficiency has no such key; did you mean 'hopper'?"),
    (("+job.args.x=${nope}",), "no key is called 'nope'"),
    # flags
    (("--csv",), "--csv: a flag of spend, compare and simulate, not of 'plan', which has --json; leave it out"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", *words]) == 2
    printed, refused = capsys.readouterr()
    assert said in refused
    assert refused.startswith("error: ")
    assert refused.count("\n") == 1
    assert printed == ""
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_a_plus_would_add_is_refused_by_verbs_that_do_not_look_at_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["compare", "+job.stesp=5"]) == 2
    assert "did you mean 'job.steps'?" in capsys.readouterr().err


def test_what_a_plus_is_for_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    added = ("+env.FOO=1", "+job.env.BAR=2", "+job.args.momentum=0.9", "+deepspeed.dump_state=true")
    assert cli.main(["plan", *added, "env.NCCL_DEBUG=INFO", "job.tokenizer=org/name"]) == 0
