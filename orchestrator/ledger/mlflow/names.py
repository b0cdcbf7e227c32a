"""The names under which MLflow has a run, and what each means: what docs/reference.md says of them.

Whoever writes one of these says it here too; tests/project/test_reference.py compares them with what is
written.
"""

from __future__ import annotations

from orchestrator.ledger.bill import Bucket

# A point for every step, but for those that thinning leaves out of a long run; of a step that was done again
# the first.
STEP_METRICS = {
    "loss": "mean over ranks",
    "lr": "learning rate, as DeepSpeed tells it",
    "grad_norm": "norm of the gradients, as DeepSpeed tells it",
    "step_time_s": "of the slowest rank",
    "tokens_per_s": "of the step; of the run `mean_tokens_per_s`",
    "tokens_per_s_per_gpu": "of the step",
    "mfu": "of the step, 0 to 1",
}
# The run so far: a point every `tracking.flush_s`, rarer in a long run, and one at the end.
RUN_METRICS = {
    "gpu_hours": "held so far",
    "core_hours": "the same of a run on processor cores",
    "cost_usd": "spent so far",
    "cost_usd_per_million_tokens": "spent over what was trained",
    "goodput": "training's share of the GPU-seconds held, 0 to 1",
    "restarts": "attempts after the first",
    "tokens": "trained on, each new step once",
    "mean_tokens_per_s": "of the steady state",
    "mean_tokens_per_s_per_gpu": "of the steady state",
    "mean_mfu": "of the steady state, 0 to 1",
    **{f"seconds_{bucket.value}": f"wall seconds spent {doing}" for bucket, doing in {
        Bucket.WAITING: "before nodes are held, which cost nothing",
        Bucket.STARTING: "until the first step of the first attempt",
        Bucket.TRAINING: "on new steps",
        Bucket.CHECKPOINT: "standing still for a save",
        Bucket.REDONE: "on steps that an earlier attempt had done",
        Bucket.RECOVERING: "from a fault to the next step",
        Bucket.STOPPING: "from the last step to the release of the nodes",
        Bucket.UNOBSERVED: "where no rank told of its steps any more",
        Bucket.SKIPPED: "on steps that the loss scale of fp16 skipped",
    }.items()},
    "skipped_steps": "steps that the loss scale of fp16 skipped; only where there were some",
    "incidents": "how many there were",
    "incident_cost_usd": "what their recoveries and redone steps cost",
}  # fmt: skip
# What each bucket has cost, which is `cost_usd` in all.
BUCKET_USD_METRICS = {
    f"cost_usd_{bucket.value}": f"of `cost_usd`, what went to {bucket.value}"
    for bucket in Bucket
    if bucket is not Bucket.WAITING  # which costs nothing
}
# One point, when the run has ended.
END_METRICS = BUCKET_USD_METRICS | {
    "final_loss": "of the last step",
    "predicted_memory_bytes": "of the fullest rank, as planned",
    "actual_memory_bytes": "the peak of the fullest rank",
    "actual_over_predicted_memory": "actual over predicted",
    "predicted_step_time_s": "as planned",
    "actual_step_time_s": "median, without the first three of each attempt",
    "actual_over_predicted_step_time": "actual over predicted",
    "predicted_cost_usd": "of the steps that were done, as planned",
    "actual_over_predicted_cost": "`cost_usd` over predicted",
    "measured_gpu_energy_kwh": "of the nodes' GPUs, by NVML's counters",
    "measured_processor_energy_kwh": "of the nodes' processor packages, by RAPL's counters",
    "modelled_energy_kwh": "of the nodes with their building, by the plan's power and the hours held",
    "co2_kg": "of the modelled energy, else of the measured one, by `cluster.grid_gco2_per_kwh`",
}
# Names that are not ours in full.
OTHER_METRICS = {
    "system/NODE/NAME": "a figure of a node (processor, memory, network, GPU), as its agent samples it",
    "NAME": "a figure that the job printed in a line of JSON",
    "job/NAME": "the same where NAME is one of those above and says something else",
    "NAME, CHILD/NAME": "a metric that the script told MLflow, by itself or in a nested run",
    "rank-N/NAME": "the same of another rank than the first, with `tracking.ranks=all`",
}
# The driver's, known before the run begins (tracking.json); one that is not known is left out.
START_TAGS = {
    "cluster": "name of the cluster",
    "gpu_type": "name of the GPU, or of the processor",
    "unit": "what an hour is counted of: `GPU` or `CPU core`",
    "job": "name of the job",
    "price_source": "where the price comes from",
    "git_commit": "of the working directory's repository, or else of the script's; `+`: changed since",
    "run_dir": "the run's directory",
    "script_run_id": "what the script's own calls of MLflow have for the run's number",
    "run_number": "the label of its gauges on a cluster of several machines",
    "owner": "who pays: `owner`, else who started the run",
    "project": "`project`, else the repository that the script lies in",
    "cost_center": "`cost_center`",
    "mlflow.user": "who started the run",
    "mlflow.source.name": "the job's script",
    "mlflow.source.git.commit": "the same",
}
# What the journal says later.
RUN_TAGS = {
    "status": "`running`, `finished`, `failed`, `interrupted` or `budget_reached`; `unknown` where the"
    " driver was lost",
    "status_reason": "why it ended, or was taken up again",
    "run": "name of the run",
    "gpus": "how many the run has",
    "price_usd_per_gpu_hour": "what it is billed by",
    "price_usd_per_core_hour": "the same of a run on processor cores",
    "nodes": "how many it holds",
    "incidents": "how many of each kind, what they cost, and the last one in words",
}
# What the script's own calls of MLflow may say of the run under MLflow's names.
SCRIPT_SYSTEM_TAGS = ("mlflow.note.content", "mlflow.loggedArtifacts")
# Ours, where it is known what stands between what others have written; see description.py.
NOTE_TAGS = {
    "mlflow.note.content": "the run's description: cost, predicted against actual, incidents, how to go on;"
    " what the script or somebody else writes there stays"
}
# With which values DeepSpeed trains, as its engine says.
ENGINE_TAGS = {
    "global_batch": "sequences of a step of all ranks",
    "micro_batch": "sequences that a rank takes at once",
    "accumulation": "micro-batches of a step",
    "precision": "`bf16`, `fp16` or `fp32`",
    "zero_stage": "of ZeRO, 0 to 3",
    "world_size": "how many ranks there are",
}
RUN_TAGS |= {
    f"engine.{name}": f"{what}: what DeepSpeed's engine runs with" for name, what in ENGINE_TAGS.items()
}
SWEEP_TAG, SWEEP_VALUES_TAG = "orchestrator.sweep", "sweep_values"
# Of the run that a sweep's runs are children of.
SWEEP_METRICS = {
    "sweep_runs": "how many it has",
    "sweep_cost_usd": "spent on all of them",
    "sweep_best_final_loss": "the lowest of theirs",
}
SWEEP_TAGS = {
    SWEEP_VALUES_TAG: "of a run of a sweep: what is varied, as it has it",
    SWEEP_TAG: "of the run that they are children of: the sweep's number",
}
KEY_TAG = "orchestrator.key"
OWN_TAGS = {KEY_TAG: "by which a run is found again whose creation was cut short"}
PARAMS = {
    "KEY": "a key of the [configuration](configuration.md) that can differ between runs, as `cluster.nodes`:"
    " what was typed, and of the rest what neither follows from a name nor is at its default; secrets are"
    " hidden, config.yaml has all keys",
    "layout.NAME": "each field of the plan's [layout](#layout); where the script is not handed"
    " `{deepspeed_config}`, without batch sizes, precision and ZeRO, which are its own",
    "version.NAME": "version of a package or of the interpreter",
    "NAME": "a parameter that the script told MLflow; a later value of it is the tag `param.NAME`",
}
# The first four are there before the run begins (tracking.json); the others come with its end.
START_ARTIFACTS = {
    "config.yaml": "the configuration, secrets hidden",
    "plan.json": "the [plan](#plan)",
    "plan.txt": "the plan as it was printed",
    "deepspeed.json": "DeepSpeed's part of it",
}
JOURNAL, INCIDENTS, LOGS = "journal.jsonl", "incidents.json", "logs"
END_ARTIFACTS = {
    JOURNAL: "the [journal](#the-journal)",
    INCIDENTS: "the [incidents](#incident)",
    LOGS: "the ends of up to 256 logs of ranks, 256 KiB each",
}


def hours_key(unit: str) -> str:
    """What the hours that a run held are called: those of cores are no GPU-hours."""
    return "core_hours" if unit.endswith("core") else "gpu_hours"


def price_key(unit: str) -> str:
    """The same of what one of them costs."""
    return f"price_usd_per_{hours_key(unit).removesuffix('s')}"
