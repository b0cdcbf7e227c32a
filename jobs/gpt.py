"""A decoder-only transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU, no biases."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

INIT_STD = 0.02


@dataclass(frozen=True)
class Shape:
    """Sizes of a model.

    Attributes:
        ffn: width between the up and down projections of the SwiGLU.
        vocab: rows of the embedding, the tokenizer's vocabulary or more.
        seq_len: tokens per training sequence, and the most that `generate` looks back on.

    Raises:
        ValueError: the sizes do not fit each other; the message has the numbers and the remedy.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    seq_len: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        if min(self.layers, self.hidden, self.heads, self.kv_heads, self.ffn, self.vocab, self.seq_len) < 1:
            raise ValueError(f"every size must be at least 1: {self}")
        if self.hidden % (2 * self.heads):
            raise ValueError(
                f"hidden={self.hidden} must be a multiple of 2 x heads={2 * self.heads}: rotary positions "
                "turn pairs within a head"
            )
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}: change one of them"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def parameters(self) -> int:
        """Trainable parameters: embeddings; per layer attention, SwiGLU and two norms; the last norm."""
        embeddings = self.vocab * self.hidden * (1 if self.tie_embeddings else 2)
        attention = 2 * self.hidden**2 + 2 * self.hidden * self.kv_heads * self.head_dim
        layer = attention + 3 * self.hidden * self.ffn + 2 * self.hidden
        return embeddings + self.layers * layer + self.hidden


class Linear(nn.Module):
    """Matrix without bias that is initialised in its own constructor, before ZeRO-3 partitions it."""

    def __init__(self, inputs: int, outputs: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.normal_(self.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Embedding(nn.Module):
    def __init__(self, vocab: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab, hidden))
        nn.init.normal_(self.weight, std=INIT_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight)


class RMSNorm(nn.Module):
    def __init__(self, hidden: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


@functools.lru_cache(maxsize=4)
def rotary_table(seq_len: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position, float32, each (seq_len, head_dim / 2): Su et al., RoFormer, 2021.

    Not a buffer of the module: DeepSpeed casts buffers to bf16, in which positions above 256 are no
    longer told apart.
    """
    rates = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(seq_len, dtype=torch.float32), rates)
    return angles.cos().to(device), angles.sin().to(device)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn x of shape (batch, heads, seq, head_dim) by its positions, in float32."""
    cos, sin = table
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).type_as(x)


class Attention(nn.Module):
    def __init__(self, shape: Shape, residual_std: float) -> None:
        super().__init__()
        self.shape = shape
        kv_width = shape.kv_heads * shape.head_dim
        self.q_proj = Linear(shape.hidden, shape.hidden, INIT_STD)
        self.k_proj = Linear(shape.hidden, kv_width, INIT_STD)
        self.v_proj = Linear(shape.hidden, kv_width, INIT_STD)
        self.o_proj = Linear(shape.hidden, shape.hidden, residual_std)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            projection(x).view(batch, length, -1, self.shape.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        table = rotary_table(length, self.shape.head_dim, self.shape.rope_theta, x.device)
        grouped = self.shape.kv_heads != self.shape.heads
        out = F.scaled_dot_product_attention(
            rotate(q, table), rotate(k, table), v, is_causal=True, enable_gqa=grouped
        )
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


class SwiGLU(nn.Module):
    def __init__(self, shape: Shape, residual_std: float) -> None:
        super().__init__()
        self.gate_proj = Linear(shape.hidden, shape.ffn, INIT_STD)
        self.up_proj = Linear(shape.hidden, shape.ffn, INIT_STD)
        self.down_proj = Linear(shape.ffn, shape.hidden, residual_std)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        # Each block adds to the residual stream twice: keep the sum's variance independent of depth.
        residual_std = INIT_STD / (2 * shape.layers) ** 0.5
        self.attention_norm = RMSNorm(shape.hidden, shape.norm_eps)
        self.attention = Attention(shape, residual_std)
        self.mlp_norm = RMSNorm(shape.hidden, shape.norm_eps)
        self.mlp = SwiGLU(shape, residual_std)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    """Language model. Called with targets it returns the mean loss, without it the logits."""

    def __init__(self, shape: Shape, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.shape = shape
        self.activation_checkpointing = activation_checkpointing
        self.embedding = Embedding(shape.vocab, shape.hidden)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.hidden, shape.norm_eps)
        self.head = None if shape.tie_embeddings else Linear(shape.hidden, shape.vocab, INIT_STD)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Mean cross-entropy in nats per token (a float32 scalar), or logits (batch, seq, vocab).

        `tokens` and `targets` are int64 of shape (batch, seq).
        """
        x = self.embedding(tokens)
        for block in self.blocks:
            if self.activation_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        x = self.norm(x)
        logits = F.linear(x, self.embedding.weight) if self.head is None else self.head(x)
        if targets is None:
            return logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def generate(
        self, prompt: Tensor, count: int, temperature: float, vocab: int, generator: torch.Generator
    ) -> Tensor:
        """`prompt` (1, length) followed by `count` sampled tokens below `vocab`; temperature 0 is greedy.

        `generator` lives on the CPU, so that the same seed gives the same text on any device.
        """
        tokens = prompt
        for _ in range(count):
            logits = self(tokens[:, -self.shape.seq_len :])[0, -1, :vocab].float().cpu()
            if temperature == 0:
                chosen = logits.argmax(keepdim=True)
            else:
                probabilities = (logits / temperature).softmax(dim=-1)
                chosen = torch.multinomial(probabilities, 1, generator=generator)
            tokens = torch.cat((tokens, chosen.to(tokens.device)[None]), dim=1)
        return tokens
