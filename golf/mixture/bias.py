"""A document bias on the full neural distribution.

``p_bias(v) = p(v) exp(g_v + d_v) / sum``; after every chunk ``g += rate_g sum_t (1[v = x_t] - p_bias(v))`` and the same
for ``d`` with its own rate; ``d`` starts at 0 in every document. The bias of a chunk is fixed before its first token is
scored: score before update at chunk granularity.

It needs whole rows, so it runs inside the neural pass, before a ``NeuralRecord`` is formed, on that pass's device. One
process does it for all while other GPUs wait, so a chunk takes few launches: six.
Shapes: R rows of whole chunks, V vocabulary. Source: unigram cache of Kuhn and De Mori (1990), as a gradient step on
the softmax biases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from golf.mixture.config import RecordConfig

if TYPE_CHECKING:
    import torch

__all__ = ["DocumentBias", "chunk_bounds"]


class DocumentBias:
    """What a stream of documents has taught so far, float64 (2, V): ``g``, and ``g + d``, which learns with the sum of
    the two rates; a new document begins with ``g`` alone."""

    def __init__(self, vocab_size: int, config: RecordConfig, device: torch.device) -> None:
        import torch

        rates = [config.bias_global_rate, config.bias_global_rate + config.bias_document_rate]
        self._rates = torch.tensor(rates, dtype=torch.float64).to(device)
        self._learned = self._rates.new_zeros(2, vocab_size)

    def apply(
        self, log_probs: torch.Tensor, ids: torch.Tensor, chunks: Sequence[tuple[int, int, bool]]
    ) -> torch.Tensor:
        """Normalized biased log-probabilities (R, V), chunk by chunk: score a chunk, then learn from it.

        ``log_probs`` float64 (R, V), logits do as well; ``ids`` int64 (R,) of the truth; ``chunks`` as from
        ``chunk_bounds``, which together are the R rows in order.
        """
        import torch

        out, minus_ones = torch.empty_like(log_probs), log_probs.new_full(ids.shape, -1.0)
        sizes = [end - begin for begin, end, _ in chunks]
        parts = [x.split(sizes) for x in (log_probs, ids, minus_ones, out)]
        shared, biases = self._learned
        for (_, _, starts_document), rows, targets, less, biased in zip(chunks, *parts, strict=True):
            if starts_document:
                biases.copy_(shared)
            torch.log_softmax(rows + biases, 1, out=biased)
            excess = biased.exp().sum(0).scatter_add_(0, targets, less)  # bincount would wait for the GPU
            self._learned.addr_(self._rates, excess, alpha=-1.0)
        return out


def chunk_bounds(doc_starts: np.ndarray, num_tokens: int, chunk_tokens: int) -> Iterator[tuple[int, int, bool]]:
    """Chunks of target positions ``(begin, end, starts_document)`` that cover 1..N-1 once, in order.

    The document of a target is that of the token before it, so a document starting at s owns the targets s + 1 up to
    the next document's first token, and chunks of ``chunk_tokens`` never straddle documents.
    """
    edges = [*(int(s) for s in doc_starts), num_tokens - 1]
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        for begin in range(first + 1, last + 1, chunk_tokens):
            yield begin, min(begin + chunk_tokens, last + 1), begin == first + 1
