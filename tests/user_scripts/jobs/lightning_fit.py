"""Train a small transformer with Lightning's DeepSpeedStrategy.

torchrun --nproc_per_node=2 lightning_fit.py --output_dir=out --deepspeed_config=zero2_lightning.json
"""

from __future__ import annotations

import argparse
import inspect
import typing

import lightning
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CONTEXT = 64


class NumberedProcessors(CPUAccelerator):
    """DeepSpeedStrategy numbers its devices, which Lightning's own leaves out for processors."""

    @staticmethod
    def get_parallel_devices(devices: int) -> list[torch.device]:
        return [torch.device("cpu", index) for index in range(devices)]


class DeepSpeedOnProcessors(DeepSpeedStrategy):
    """Lightning's own asks for CUDA; DeepSpeed itself does not."""

    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()


class LanguageModel(lightning.LightningModule):
    def __init__(self, width: int = 64, learning_rate: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.embedding = nn.Embedding(256, width)
        self.positions = nn.Parameter(torch.zeros(CONTEXT, width))
        layer = nn.TransformerEncoderLayer(
            width, nhead=2, dim_feedforward=4 * width, dropout=0.1, batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 256)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=tokens.device)
        return self.head(self.layers(self.embedding(tokens) + self.positions, mask=mask, is_causal=True))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        (tokens,) = batch
        logits = self(tokens[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        self.log("train_loss", loss, sync_dist=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.learning_rate)


class Text(lightning.LightningDataModule):
    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        text = torch.tensor(list(inspect.getsource(typing).encode()))
        self.windows = text[: len(text) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            TensorDataset(self.windows), batch_size=self.batch_size, shuffle=True, drop_last=True
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--deepspeed_config", required=True)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--max_steps", type=int, default=20)
    parser.add_argument("--save_every", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=8)
    args = parser.parse_args()

    lightning.seed_everything(1234, workers=True)
    on_gpus = torch.cuda.is_available()
    strategy = DeepSpeedStrategy if on_gpus else DeepSpeedOnProcessors
    trainer = lightning.Trainer(
        accelerator="cuda" if on_gpus else NumberedProcessors(),
        devices=args.devices,
        strategy=strategy(config=args.deepspeed_config),
        max_steps=args.max_steps,
        log_every_n_steps=1,
        logger=CSVLogger(args.output_dir, name="csv"),
        callbacks=[ModelCheckpoint(args.output_dir, every_n_train_steps=args.save_every, save_last=True)],
    )
    trainer.fit(LanguageModel(), Text(args.batch_size), ckpt_path="last")


if __name__ == "__main__":
    main()
