"""A Lightning module by DDP. It goes on where --ckpt_path says, else from the beginning.

torchrun --nproc_per_node=8 lightning_ddp.py --out=out --devices=8
"""

import argparse
import json
import os

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Regression(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class WriteLosses(Callback):
    def __init__(self, out: str) -> None:
        self.path = os.path.join(out, "losses.jsonl")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.is_global_zero:
            with open(self.path, "a") as log:
                line = {"step": trainer.global_step, "loss": outputs["loss"].item()}
                log.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--max_epochs", type=int, default=4)
    parser.add_argument("--ckpt_path", default=None)
    args = parser.parse_args()

    lightning.seed_everything(1234)
    x = torch.randn(80, 16)
    loader = DataLoader(TensorDataset(x, x.tanh().sum(1, keepdim=True)), batch_size=8, shuffle=True)
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=args.devices,
        strategy="ddp",
        max_epochs=args.max_epochs,
        logger=False,
        enable_progress_bar=False,
        callbacks=[WriteLosses(args.out), ModelCheckpoint(args.out, save_top_k=-1)],
    )
    trainer.fit(Regression(), loader, ckpt_path=args.ckpt_path)


if __name__ == "__main__":
    main()
