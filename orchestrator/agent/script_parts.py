"""What an agent says of a rank's script, beside what its engine says."""

from __future__ import annotations

from orchestrator.agent.messages import Part, RankCountedTokens, RankSavedFile, RankWithoutEngine
from orchestrator.rank.messages import FileSaved, OptimizerFollowed, TokensCounted


def script_part(rank: int, message: FileSaved | OptimizerFollowed | TokensCounted) -> Part | None:
    """None where another rank says the same."""
    match message:
        case OptimizerFollowed(optimizer):
            return RankWithoutEngine(optimizer)
        case FileSaved(path, step, seconds):
            return RankSavedFile(rank, path, step, seconds)
        case TokensCounted(step, tokens_per_step):
            return RankCountedTokens(step, tokens_per_step) if rank == 0 else None
