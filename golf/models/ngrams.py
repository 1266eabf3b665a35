"""What a token knows of the one or two before it, before any layer: a hashed table of bigrams and trigrams.

Shapes: ``B`` batch, ``T`` tokens, ``D`` width, ``R`` rows, ``E`` row width. Source: hash constants and wiring of
openai/parameter-golf PR #1545 (bigram and trigram in one table). There table and projection both started at zero, so
that neither ever got a gradient; here both start at random. The first token of a document (``bos_id``) takes nothing
from the document before.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.models.layers import Matrix

__all__ = ["NO_TOKEN", "HashEmbedding", "hash_buckets", "previous_tokens"]

NO_TOKEN = -1  # before the first token of a text
TABLE_STD = 0.02  # starts the hashed term at about a sixth of the token table's 0.005


def previous_tokens(ids: Tensor, before: Tensor, bos_id: int) -> tuple[Tensor, Tensor]:
    """The tokens one and two places before each of ``ids`` (B,T); -1 where that is another document or nothing.

    ``before`` (B,2) holds the two tokens before the first, -1 for none.
    """
    joined = torch.cat((before, ids), dim=1)
    one, two = joined[:, 1:-1], joined[:, :-2]
    one = one.masked_fill(ids == bos_id, NO_TOKEN)
    two = two.masked_fill((one == NO_TOKEN) | (one == bos_id), NO_TOKEN)
    return one, two


def hash_buckets(ids: Tensor, one: Tensor, two: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Rows of the bigram and of the trigram ending at each token, (B,T) each; the last row where there is none."""
    mod = rows - 1
    mixed = (36313 * ids) ^ (27191 * one)
    bigram = torch.where(one == NO_TOKEN, mod, mixed % mod)
    trigram = torch.where(two == NO_TOKEN, mod, (mixed ^ (51497 * two)) % mod)
    return bigram, trigram


class HashEmbedding(nn.Module):
    """``scale * projection(table[bigram] + table[trigram])``."""

    tables = ("embedding",)

    def __init__(self, rows: int, row_width: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(rows, row_width) * TABLE_STD)
        self.projection = Matrix(row_width, width, "mlp")
        self.scale = nn.Parameter(torch.tensor([0.05]))

    def forward(self, ids: Tensor, one: Tensor, two: Tensor, dtype: torch.dtype) -> Tensor:
        """``ids``, ``one``, ``two`` (B,T) as from ``previous_tokens`` -> (B,T,D) in ``dtype``."""
        bigram, trigram = hash_buckets(ids, one, two, self.embedding.size(0))
        rows = F.embedding(bigram, self.embedding) + F.embedding(trigram, self.embedding)
        out: Tensor = self.scale.to(dtype) * self.projection(rows.to(dtype)).to(dtype)
        return out
