"""A training script with MLflow calls of its own on every rank, as people have them; of the first attempt rank 1
is killed in the middle."""

from __future__ import annotations

import argparse
import os
import signal

import deepspeed
import mlflow
import torch
import torch.distributed as dist

STEPS, EVERY, KILLED_AT = 12, 4, 6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out")
    out = parser.parse_args().out
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
    model = torch.nn.Linear(8, 1)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 1e-2),
        config={"train_batch_size": 16, "train_micro_batch_size_per_gpu": 8},
    )
    path, state = engine.load_checkpoint(out)
    step = begun = state["step"] if path else 0
    mlflow.set_experiment("an experiment of its own")
    with mlflow.start_run(run_name="a name of its own") as run:
        mlflow.log_params({"mine_lr": 0.01, "begun": begun})
        while step < STEPS:
            loss = engine(torch.ones(8, 8)).pow(2).mean()
            engine.backward(loss)
            engine.step()
            step += 1
            mlflow.log_metric("mine", loss.item(), step)
            if step % EVERY == 0:
                engine.save_checkpoint(out, tag=f"s{step}", client_state={"step": step})
            if step == KILLED_AT and not path and dist.get_rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        mlflow.log_text("a note", f"notes/from-{begun}.txt")
        with mlflow.start_run(nested=True, run_name="exam"):
            mlflow.log_metric("score", 0.5)
        assert mlflow.get_run(run.info.run_id).data.metrics["mine"] == loss.item()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
