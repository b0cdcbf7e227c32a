"""What loss a model of some size reaches on some tokens, by a published scaling law, and the batch to train
it with.

The law is the parametric one of Hoffmann et al. 2022 (Chinchilla, arXiv 2203.15556, approach 3): L = E + A /
N^alpha + B / D^beta. N are all parameters, embedding and head included, as that paper counts them (Pearce and
Song 2024, arXiv 2406.12907, on how Kaplan et al. counted otherwise); D are the tokens seen, each once. It was
fitted to dense transformers of 44M to 16B parameters on MassiveText: it ranks runs, and is no forecast of
another corpus's loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.config.schema import ModelConfig
from orchestrator.plan.perf.transformer import parameters

# Parameters times this, times tokens, are the FLOPs of training by the law's own count (Kaplan et al. 2020).
FLOPS_PER_PARAMETER_TOKEN = 6.0
MOST_BATCH_TOKENS = 2**24  # the largest batch of Llama 3 405B (arXiv 2407.21783, section 3.4)


@dataclass(frozen=True)
class ScalingLaw:
    """Loss in nats per token; ``irreducible`` is what no model gets below."""

    irreducible: float  # nats per token that no model gets below
    size_factor: float  # A of A / N^alpha
    token_factor: float  # B of B / D^beta
    size_exponent: float  # alpha
    token_exponent: float  # beta
    source: str  # where the law was published

    def loss(self, size: float, tokens: float) -> float:
        """Nats per token after `tokens` > 0 with `size` > 0 parameters."""
        by_size = self.size_factor / size**self.size_exponent
        return float(self.irreducible + by_size + self.token_factor / tokens**self.token_exponent)

    def optimal_tokens(self, size: float) -> float:
        """The tokens for which a model of `size` parameters is the best use of 6 N D FLOPs.

        There the loss gains as much from a per cent more parameters as from a per cent more tokens.
        """
        by_size = self.size_exponent * self.size_factor / size**self.size_exponent
        return float((self.token_exponent * self.token_factor / by_size) ** (1 / self.token_exponent))

    def optimal_parameters(self, flops: float) -> float:
        """The best size for `flops` = 6 N D (Hoffmann et al. 2022, equation 4)."""
        both = self.size_exponent + self.token_exponent
        ratio = self.size_exponent * self.size_factor / (self.token_exponent * self.token_factor)
        return float(
            ratio ** (1 / both) * (flops / FLOPS_PER_PARAMETER_TOKEN) ** (self.token_exponent / both)
        )


# The fit of Besiroglu et al. 2024, which mends two faults of the original one: its optimizer stopped too
# early, and its printed figures are rounded.
CHINCHILLA = ScalingLaw(
    irreducible=1.8172,
    size_factor=482.01,
    token_factor=2085.43,
    size_exponent=0.3478,
    token_exponent=0.3658,
    source="Hoffmann et al. 2022, approach 3, as refitted by Besiroglu et al. 2024 (arXiv 2404.10102)",
)


def batch_tokens(size: float, law: ScalingLaw = CHINCHILLA) -> int:
    """Tokens of one optimizer step of a model of `size` parameters, a power of two.

    0.292 C^0.3271 is the best batch for C FLOPs (DeepSeek LLM, arXiv 2401.02954, section 3.1); C is here what
    such a model is compute-optimal for, so that the batch depends on the size alone: 4M tokens for 8B, 16M
    for 70B. Llama 3 405B grew its batch from 4M to 16M, which is the most here.
    """
    flops = FLOPS_PER_PARAMETER_TOKEN * size * law.optimal_tokens(size)
    return min(MOST_BATCH_TOKENS, 1 << round(math.log2(0.292 * flops**0.3271)))


def batch_sequences(model: ModelConfig, ranks: int) -> int | None:
    """`batch_tokens` in sequences, cut down to a power of two times the odd part of the ranks, so that they
    divide it; None where not even the odd part's sequences are so few."""
    wanted = max(1, batch_tokens(parameters(model).active_with_embedding) // model.seq_len)
    odd = ranks // (ranks & -ranks)
    return odd << (wanted // odd).bit_length() - 1 if wanted >= odd else None
