"""Which window of the tokens is sample k, and which samples a rank reads: pure functions of integers.

Sample k of a run belongs to epoch k // N and is the window that a pseudo-random permutation of that
epoch puts at k % N. So a run's place in its data is one number, `consumed_samples`, and a rank's share is
arithmetic on it: no shuffle buffer, no sampler state, no dependence on how a global batch is split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

FEISTEL_ROUNDS = 6


def permute(index: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Images of `index` (integers in [0, size)) under a permutation of [0, size) in O(1) memory.

    A balanced Feistel network permutes the smallest power of four not below `size`; an image outside
    [0, size) is permuted again until it falls inside (cycle walking), which keeps the map a bijection:
    Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002.
    """
    half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    keys = [
        np.uint64(int.from_bytes(hashlib.blake2b(f"{seed} {epoch} {r}".encode(), digest_size=8).digest()))
        for r in range(FEISTEL_ROUNDS)
    ]
    result = _feistel(index.astype(np.uint64), half_bits, keys)
    while (outside := result >= size).any():
        result[outside] = _feistel(result[outside], half_bits, keys)
    return result.astype(np.int64)


def _feistel(value: np.ndarray, half_bits: np.uint64, keys: list[np.uint64]) -> np.ndarray:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = value >> half_bits, value & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half_bits) | right


def _mix(value: np.ndarray) -> np.ndarray:
    """Finaliser of SplitMix64 (Steele, Lea, Flood, 2014): every input bit reaches every output bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@dataclass(frozen=True)
class Share:
    """What one data-parallel rank reads of every global batch.

    Attributes:
        rank, ranks: data-parallel rank and their number.
        micro_batch: sequences per rank and forward pass.
        accumulation: forward passes per optimizer step.
    """

    rank: int
    ranks: int
    micro_batch: int
    accumulation: int = 1

    @property
    def global_batch(self) -> int:
        """Sequences per optimizer step, over all ranks."""
        return self.ranks * self.micro_batch * self.accumulation

    def samples(self, consumed_samples: int, micro_step: int) -> np.ndarray:
        """This rank's sample numbers, shape (micro_batch,), in pass `micro_step` after `consumed_samples`."""
        first = consumed_samples + (micro_step * self.ranks + self.rank) * self.micro_batch
        return np.arange(first, first + self.micro_batch, dtype=np.int64)


def past_skipped(consumed_samples: int, global_batch: int, skipped: Collection[int]) -> int:
    """Sample at which the next batch begins that shares none with a skipped one.

    Batch b is the samples b * global_batch <= k < (b + 1) * global_batch. A position inside a batch, left by
    a run with another global batch, moves past every skipped batch that the next one would reach into.
    """
    place = consumed_samples
    while skipped:
        last = (place + global_batch - 1) // global_batch
        reached = [batch for batch in (place // global_batch, last) if batch in skipped]
        if not reached:
            break
        place = (reached[-1] + 1) * global_batch
    return place


class Windows:
    """Non-overlapping windows of `seq_len` tokens, each read with the one token that follows it."""

    def __init__(self, tokens: np.ndarray, seq_len: int) -> None:
        self.tokens = tokens
        self.seq_len = seq_len
        self.count = max(0, (len(tokens) - 1) // seq_len)

    def read(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and next-token targets, int64, each of shape (len(windows), seq_len)."""
        rows = [self.tokens[w * self.seq_len : (w + 1) * self.seq_len + 1] for w in windows.tolist()]
        block = np.stack(rows).astype(np.int64)
        return block[:, :-1], block[:, 1:]

    def shuffled(self, samples: np.ndarray, seed: int) -> np.ndarray:
        """Windows of the given sample numbers of a run: each epoch has a permutation of its own."""
        windows = np.empty_like(samples)
        epochs = samples // self.count
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            windows[here] = permute(samples[here] % self.count, self.count, seed, epoch)
        return windows

    def spread(self, samples: np.ndarray, total: int) -> np.ndarray:
        """Windows of samples 0 <= k < `total` taken evenly over the whole slice, in order: for validation."""
        return samples * self.count // total


def split(tokens: np.ndarray, val_fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Training tokens and the held-out tail; no token is in both."""
    held_out = int(len(tokens) * val_fraction)
    return tokens[: len(tokens) - held_out], tokens[len(tokens) - held_out :]
