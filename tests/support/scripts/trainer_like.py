"""What Hugging Face's Trainer does, without it: a folder checkpoint-N has DeepSpeed's own global_stepN and, put
there after it, a file of the trainer's. It brings its own DeepSpeed settings, and goes on only when it is told
to. Rank 0 dies once, between the two parts of a save."""

import argparse
import os
import signal

import deepspeed
import torch
import torch.distributed as dist

parser = argparse.ArgumentParser()
parser.add_argument("--output_dir")
parser.add_argument("--resume_from_checkpoint", default=None)
parser.add_argument("--accumulation", type=int, default=2)  # so that no plan can read it from the source
args = parser.parse_args()
deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
torch.manual_seed(0)
model = torch.nn.Linear(8, 1)
engine, *_ = deepspeed.initialize(
    model=model,
    optimizer=torch.optim.SGD(model.parameters(), 1e-2),
    config={"train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": args.accumulation},
)
step = 0
if args.resume_from_checkpoint:
    with open(f"{args.resume_from_checkpoint}/trainer_state.json") as file:
        step = int(file.read())
    engine.load_checkpoint(args.resume_from_checkpoint)
while step < 20:
    for _ in range(args.accumulation):
        engine.backward(engine(torch.ones(8, 8)).pow(2).mean())
        engine.step()
    step += 1
    if step % 5 == 0:
        folder = f"{args.output_dir}/checkpoint-{step}"
        engine.save_checkpoint(folder, tag=f"global_step{step}")
        if dist.get_rank() == 0:
            if step == 15 and not os.path.exists(f"{args.output_dir}/died"):
                open(f"{args.output_dir}/died", "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            with open(f"{folder}/trainer_state.json", "w") as file:
                file.write(str(step))
        dist.barrier()
dist.destroy_process_group()
