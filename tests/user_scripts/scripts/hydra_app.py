"""A Hydra application: its settings are conf/config.yaml and words like optimizer.lr=0.02.

torchrun --nproc_per_node=8 hydra_app.py trainer.steps=20
"""

import json
import os
from pathlib import Path

import hydra
import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def newest(folder: Path) -> Path | None:
    """Of the files step-N.pt; one that is half written has another name."""
    found = sorted(folder.glob("step-*.pt"), key=lambda path: int(path.stem.partition("-")[2]))
    return found[-1] if found else None


def save(path: Path, state: dict) -> None:
    half = path.with_suffix(".half")
    torch.save(state, half)
    os.replace(half, path)


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank, out = dist.get_rank(), Path(cfg.trainer.out)
    (Path(HydraConfig.get().runtime.output_dir) / f"rank-{rank}.txt").write_text("was here")
    torch.manual_seed(cfg.seed)
    model = DistributedDataParallel(hydra.utils.instantiate(cfg.model))
    optimizer = hydra.utils.instantiate(cfg.optimizer, params=model.parameters())
    step = 0
    if (path := newest(out)) is not None:
        state = torch.load(path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    while step < cfg.trainer.steps:
        step += 1
        numbers = torch.Generator().manual_seed(10 * step + rank)
        x = torch.randn(cfg.trainer.batch, cfg.model.in_features, generator=numbers)
        loss = nn.functional.l1_loss(model(x), x.amax(1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0:
            with (out / "losses.jsonl").open("a") as log:
                log.write(json.dumps({"step": step, "loss": loss.item()}) + "\n")
            if step % cfg.trainer.save_every == 0:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                save(out / f"step-{step}.pt", state)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
