"""What one rank is: the complete description that a launcher turns into a process."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class RankSpec:
    """One training process.

    `env` is the complete environment of the rank, not an addition to the launcher's. `script` is
    given to the rank as written (`sys.argv[0]`); a relative one is looked up from `cwd`. Standard
    output and standard error are appended to `log_path`. `snapshot` is for
    :class:`~orchestrator.checkpoint.engine.RankSnapshots`; None leaves checkpoints to DeepSpeed.
    `stop_signals` are those that ask the whole run to stop, see :mod:`~orchestrator.rank.stop_signals`.
    `tracking` is for :class:`~orchestrator.rank.tracking.Recorder`; None leaves MLflow to the script.
    `kind` is a word of :class:`~orchestrator.vocabulary.ProgramKind`; `module` is run where it is a module.
    `began_unix_s` is when the run began, the same for all of its ranks and attempts.
    """

    rank: int
    local_rank: int
    world_size: int
    title: str
    script: str
    args: list[str]
    cwd: str
    env: dict[str, str]
    log_path: str
    snapshot: dict[str, Any] | None = None
    stop_signals: list[int] = field(default_factory=list)
    tracking: dict[str, Any] | None = None
    kind: str = "script"
    module: str | None = None
    began_unix_s: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank {self.rank} does not exist in a world of {self.world_size} ranks: ranks count from 0"
            )
        if not 0 <= self.local_rank < self.world_size:
            raise ValueError(
                f"local rank {self.local_rank} does not exist in a world of {self.world_size} ranks"
            )

        for name, path in (("cwd", self.cwd), ("log_path", self.log_path)):
            if not os.path.isabs(path):
                raise ValueError(f"{name} is {path!r}: a launcher runs elsewhere, so write the whole path")

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> RankSpec:
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields)
