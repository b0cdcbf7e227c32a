"""pretrain.py with an engine that keeps its checkpoints elsewhere, as one does that stages them in memory.

They lie in `memory` beside --checkpoint_dir, where nothing is written. A load takes the newest of them
whatever tag it is given, and only where there is none what the script asked for.
"""

from pathlib import Path
from typing import Any

import deepspeed
import pretrain
import torch.distributed as dist
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine


class Staging(TorchCheckpointEngine):
    def is_decoupled(self) -> bool:
        return True


def main() -> int:
    initialize = deepspeed.initialize

    def staging(*args: Any, **kwargs: Any) -> Any:
        engine, *rest = initialize(*args, **kwargs)
        engine.checkpoint_engine = Staging()
        save, load = engine.save_checkpoint, engine.load_checkpoint

        def save_checkpoint(
            save_dir: str, tag: str, client_state: dict[str, Any], save_latest: bool = True
        ) -> Any:
            memory = Path(save_dir).with_name("memory")
            saved = save(str(memory), tag=tag, client_state=client_state, save_latest=False)
            if save_latest and dist.get_rank() == 0:
                (memory / "latest").write_text(tag)
            return saved

        def load_checkpoint(load_dir: str, tag: str | None = None) -> Any:
            memory = Path(load_dir).with_name("memory")
            if (memory / "latest").exists():
                return load(str(memory), tag=(memory / "latest").read_text())
            return load(load_dir, tag=tag)

        engine.save_checkpoint, engine.load_checkpoint = save_checkpoint, load_checkpoint
        return engine, *rest

    deepspeed.initialize = staging
    return int(pretrain.main())
