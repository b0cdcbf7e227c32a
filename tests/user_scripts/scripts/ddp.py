"""DistributedDataParallel as in torch's own tutorial: how long and how often to save are positional arguments,
and it loads its snapshot when there is one.

torchrun --nproc_per_node=8 ddp.py 20 5
"""

import argparse
import json
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler


class Trainer:
    def __init__(self, model: nn.Module, snapshot_path: str) -> None:
        self.rank, self.snapshot_path, self.epoch = dist.get_rank(), snapshot_path, 0
        self.model = DistributedDataParallel(model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        if os.path.exists(snapshot_path):
            self.load_snapshot()

    def load_snapshot(self) -> None:
        snapshot = torch.load(self.snapshot_path, map_location="cpu")
        self.model.module.load_state_dict(snapshot["model"])
        self.optimizer.load_state_dict(snapshot["optimizer"])
        self.epoch = snapshot["epoch"]
        print(f"going on from the snapshot at epoch {self.epoch}", flush=True)

    def save_snapshot(self) -> None:
        snapshot = {
            "model": self.model.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
        }
        torch.save(snapshot, self.snapshot_path + ".tmp")
        os.replace(self.snapshot_path + ".tmp", self.snapshot_path)

    def train(self, loader: DataLoader, total_epochs: int, save_every: int) -> None:
        while self.epoch < total_epochs:
            loader.sampler.set_epoch(self.epoch)
            for x, y in loader:
                self.optimizer.zero_grad()
                loss = nn.functional.mse_loss(self.model(x), y)
                loss.backward()
                self.optimizer.step()
            self.epoch += 1
            if self.rank == 0:
                with open("losses.jsonl", "a") as log:
                    log.write(json.dumps({"step": self.epoch, "loss": loss.item()}) + "\n")
                if self.epoch % save_every == 0:
                    self.save_snapshot()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("total_epochs", type=int)
    parser.add_argument("save_every", type=int)
    parser.add_argument("--batch_size", type=int, default=32)
    args = parser.parse_args()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    torch.manual_seed(0)
    x = torch.randn(64, 20)
    data = TensorDataset(x, x.square().mean(1, keepdim=True))
    loader = DataLoader(data, args.batch_size, sampler=DistributedSampler(data))
    trainer = Trainer(nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1)), "snapshot.pt")
    trainer.train(loader, args.total_epochs, args.save_every)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
