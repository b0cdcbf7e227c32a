"""An MLflow database with any number of runs, as the ledger's sink would have left it: written with SQL,
which takes seconds where MLflow itself would take an hour."""

from __future__ import annotations

import math
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from orchestrator.ledger.bill import Bucket

EXPERIMENT = "generated"
LOSS_POINTS, BILL_POINTS = 100, 30
CLUSTERS = {
    "aws_p5": ("H100", 12.29),
    "lambda_h100": ("H100", 2.99),
    "dgx_h100": ("H100", 2.1),
    "gcp_a3": ("H100", 11.06),
}
_BEGAN_MS = 1_760_000_000_000
_SHARES = {
    Bucket.STARTING: 0.03,
    Bucket.TRAINING: 0.86,
    Bucket.CHECKPOINT: 0.02,
    Bucket.REDONE: 0.03,
    Bucket.RECOVERING: 0.05,
    Bucket.STOPPING: 0.01,
}


def write_database(path: Path, runs: int, seed: int = 0) -> str:
    """Make the file, which must not be there yet; returns its URI."""
    from orchestrator.ledger.mlflow.database import make_ready

    uri = f"sqlite:///{path}"
    make_ready(uri)
    chance = random.Random(seed)
    with closing(sqlite3.connect(path)) as connection, connection:
        place = connection.execute("SELECT max(experiment_id) + 1 FROM experiments").fetchone()[0]
        connection.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, workspace)"
            " VALUES (?, ?, ?, 'active', 'default')",
            (place, EXPERIMENT, str(path.parent / "artifacts")),
        )
        for number in range(runs):
            _write_run(connection, place, number, chance)
    return uri


def _write_run(connection: sqlite3.Connection, experiment: int, number: int, chance: random.Random) -> None:
    """One run of a sweep over learning rate, batch, seed and cluster, whose loss falls as a power of its
    steps, with noise."""
    run_id, began_ms = f"{number:032x}", _BEGAN_MS + number * 60_000
    cluster = chance.choice(list(CLUSTERS))
    gpu, price = CLUSTERS[cluster]
    gpus, rate, batch = (
        chance.choice((8, 16, 32, 64)),
        chance.choice((1e-4, 3e-4, 1e-3)),
        2 ** chance.randint(6, 9),
    )
    hours = chance.uniform(2.0, 40.0)
    lowest = 1.9 + 0.3 * abs(math.log10(rate / 3e-4)) + chance.gauss(0.0, 0.03)
    cost = hours * gpus * price
    failed = chance.random() < 0.06
    status = "failed" if failed else "finished"
    connection.execute(
        "INSERT INTO runs (run_uuid, name, source_type, user_id, status, start_time, end_time,"
        " lifecycle_stage, experiment_id) VALUES (?, ?, 'LOCAL', 'ada', ?, ?, ?, 'active', ?)",
        (
            run_id,
            f"lr{rate:g}-b{batch}-{number}",
            status.upper(),
            began_ms,
            began_ms + round(hours * 3.6e6),
            experiment,
        ),
    )
    tags = {
        "status": status,
        "run": f"run-{number}",
        "job": "llama3_8b",
        "cluster": cluster,
        "gpu_type": gpu,
        "gpus": str(gpus),
        "unit": "GPU",
        "owner": "ada",
        "project": "lm",
        "price_usd_per_gpu_hour": str(price),
        "run_dir": f"/runs/{number}",
        "git_commit": "0" * 40,
        "mlflow.user": "ada",
        "nodes": str(gpus // 8 or 1),
        "engine.global_batch": str(batch),
        "engine.precision": "bf16",
        "engine.zero_stage": "1",
    }
    params = {
        "job.args.lr": f"{rate:g}",
        "job.args.seed": str(number % 5),
        "layout.global_batch_size": str(batch),
        "cluster.name": cluster,
        "cluster.nodes": str(gpus // 8),
        "cluster.gpus_per_node": "8",
        "gpu.name": gpu,
        "fabric.name": "efa",
        "model.name": "llama3_8b",
        "job.steps": "1000",
        "job.args.warmup": "100",
        "layout.zero_stage": "1",
        "version.torch": "2.13.0",
        "version.ray": "2.60.0",
        "version.deepspeed": "0.19.8",
    }
    tokens, tokens_per_s = 1000.0 * batch * 4096, 1000.0 * batch * 4096 / (hours * 3600 * 0.86)
    final = {
        "loss": lowest,
        "cost_usd": cost,
        "gpu_hours": hours * gpus,
        "tokens": tokens,
        "final_loss": lowest,
        "mean_tokens_per_s": tokens_per_s,
        "mean_tokens_per_s_per_gpu": tokens_per_s / gpus,
        "mean_mfu": chance.uniform(0.3, 0.5),
        "goodput": chance.uniform(0.7, 0.98),
        "restarts": float(chance.randint(0, 3)),
        "cost_usd_per_million_tokens": cost * 1e6 / tokens,
        "predicted_cost_usd": cost * chance.gauss(0.95, 0.08),
        "predicted_step_time_s": 3.4,
        "actual_step_time_s": 3.5,
        "incidents": 1.0,
        "incident_cost_usd": cost * 0.05,
    }
    final["actual_over_predicted_cost"] = cost / final["predicted_cost_usd"]
    final["actual_over_predicted_step_time"] = 3.5 / 3.4
    final |= {f"seconds_{bucket.value}": share * hours * 3600 for bucket, share in _SHARES.items()}
    final |= {f"cost_usd_{bucket.value}": share * cost for bucket, share in _SHARES.items()}
    end_ms = began_ms + round(hours * 3.6e6)
    for table, values in (("tags", tags), ("params", params)):
        connection.executemany(
            f"INSERT INTO {table} (key, value, run_uuid) VALUES (?, ?, ?)",
            [(key, value, run_id) for key, value in values.items()],
        )
    connection.executemany(
        "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)"
        " VALUES (?, ?, ?, 1000, 0, ?)",
        [(key, value, end_ms, run_id) for key, value in final.items()],
    )
    connection.executemany(
        "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, 0, ?)",
        [(*point, run_id) for point in _points(began_ms, hours, lowest, cost, gpus, chance)],
    )


def _points(
    began_ms: int, hours: float, lowest: float, cost: float, gpus: int, chance: random.Random
) -> Iterator[tuple[str, float, int, int]]:
    for place in range(1, LOSS_POINTS + 1):
        share = place / LOSS_POINTS
        loss = lowest + 8.0 * (place * 10) ** -0.45 - 8.0 * 1000**-0.45 + chance.gauss(0.0, 0.03)
        yield "loss", loss, began_ms + round((0.03 + 0.96 * share) * hours * 3.6e6), place * 10
    for place in range(BILL_POINTS + 1):
        share = place / BILL_POINTS
        for key, whole in (("cost_usd", cost), ("gpu_hours", hours * gpus)):
            yield key, share * whole, began_ms + round(share * hours * 3.6e6), round(share * 1000)
