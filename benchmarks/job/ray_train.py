"""The same script under Ray Train: python ray_train.py --ranks N [--address HOST:PORT] ... SCRIPT
ARGUMENTS"""

import argparse
import json
import os
import runpy
import sys
import time
from pathlib import Path

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

IMPORTED_UNIX_S = time.time()


def train(config: dict) -> None:
    sys.argv = config["argv"]
    runpy.run_path(sys.argv[0], run_name="__main__")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--address", default="local")
    parser.add_argument("--restarts", type=int, default=0)
    parser.add_argument("--spread", action="store_true", help="each rank on a host of its own")
    parser.add_argument("--folder", type=Path, required=True, help="for what is written; all hosts share it")
    parser.add_argument("argv", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    # Ray's own number of CPUs is that of the cores: more ranks than that would wait for ever.
    cpus = {"num_cpus": max(os.cpu_count() or 1, args.ranks + 1)} if args.address == "local" else {}
    ray.init(args.address, **cpus)
    (args.folder / "driver.json").write_text(
        json.dumps({"imported": IMPORTED_UNIX_S, "attached": time.time()})
    )
    trainer = TorchTrainer(
        train,
        train_loop_config={"argv": args.argv},
        torch_config=TorchConfig(backend="nccl" if args.cuda else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=args.ranks,
            use_gpu=args.cuda,
            placement_strategy="STRICT_SPREAD" if args.spread else "PACK",
        ),
        run_config=RunConfig(
            storage_path=str(args.folder / "ray_results"),
            failure_config=FailureConfig(max_failures=args.restarts),
        ),
    )
    trainer.fit()


if __name__ == "__main__":
    main()
