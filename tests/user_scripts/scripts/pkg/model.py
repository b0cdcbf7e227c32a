"""The model of the package."""

import torch
from torch import nn


class TinyGPT(nn.Module):
    """Letters to the letters that follow them, by one layer of attention."""

    def __init__(self, letters: int = 32, width: int = 32, context: int = 16) -> None:
        super().__init__()
        self.letters, self.context = letters, context
        self.embedding = nn.Embedding(letters, width)
        self.positions = nn.Embedding(context, width)
        self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, letters)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        count = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(count, device=tokens.device)
        hidden = self.embedding(tokens) + self.positions(torch.arange(count, device=tokens.device))
        return self.head(self.layer(hidden, src_mask=mask, is_causal=True))
