"""A document bias on the full neural distribution.

``p_bias(v) = p(v) exp(g_v + d_v) / sum``; after every chunk ``g += rate_g sum_t (1[v = x_t] - p_bias(v))`` and the same
for ``d`` with its own rate; ``d`` starts at 0 in every document. The bias of a chunk is fixed before its first token is
scored: score before update at chunk granularity.

It needs whole rows, so it runs inside the neural pass, before a ``NeuralRecord`` is formed, on whatever array library
that pass uses: every operation is an operator or one of the three functions of ``ArrayOps``.
Shapes: T positions of one chunk, V vocabulary. Source: unigram cache of Kuhn and De Mori (1990), as a gradient step on
the softmax biases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from golf.mixture.config import RecordConfig

__all__ = ["ArrayOps", "DocumentBias", "chunk_bounds", "numpy_ops"]


@dataclass(frozen=True)
class ArrayOps:
    """The array functions the bias needs: ``log_sum_exp(x (T, V)) -> (T, 1)``, ``exp``, ``counts(ids (T,)) -> (V,)``.

    In torch: ``lambda x: x.logsumexp(-1, keepdim=True)``, ``torch.exp``, ``lambda i: torch.bincount(i, minlength=V)``.
    """

    log_sum_exp: Callable[[Any], Any]
    exp: Callable[[Any], Any]
    counts: Callable[[Any], Any]


def numpy_ops(vocab_size: int) -> ArrayOps:
    """``ArrayOps`` for numpy arrays."""

    def log_sum_exp(x: np.ndarray) -> np.ndarray:
        top = x.max(axis=-1, keepdims=True)
        return np.asarray(top + np.log(np.exp(x - top).sum(axis=-1, keepdims=True)))

    return ArrayOps(log_sum_exp, np.exp, lambda ids: np.bincount(ids, minlength=vocab_size))


class DocumentBias:
    """Carried state: ``shared`` g (V,) of all text and ``document`` d (V,) of one stream's document.

    ``zeros`` is a float array (V,) of zeros in the library, precision and device of the rows. Parallel streams of
    documents use one object per stream made by ``beside``: they share g, which then learns in the order of the
    ``update`` calls.
    """

    def __init__(self, zeros: Any, ops: ArrayOps, config: RecordConfig) -> None:
        self._ops = ops
        self._rates = (config.bias_global_rate, config.bias_document_rate)
        self._shared = [zeros + 0.0]
        self._zeros = zeros
        self.document = zeros + 0.0

    @property
    def shared(self) -> Any:
        """The bias learned from all text, (V,)."""
        return self._shared[0]

    def beside(self) -> DocumentBias:
        """A new stream: own document bias, the same shared one."""
        other = object.__new__(DocumentBias)
        other._ops, other._rates, other._shared, other._zeros = self._ops, self._rates, self._shared, self._zeros
        other.document = self._zeros + 0.0
        return other

    def start_document(self) -> None:
        """Forget the document; call it before the chunk whose context begins with a document's first token."""
        self.document = self._zeros + 0.0

    def apply(self, log_probs: Any) -> Any:
        """Normalized biased log-probabilities (T, V) of a chunk (T, V); logits do as well as log-probabilities."""
        biased = log_probs + (self.shared + self.document)
        return biased - self._ops.log_sum_exp(biased)

    def update(self, biased: Any, targets: Any) -> None:
        """Learn from the chunk just scored: ``biased`` is what ``apply`` returned, ``targets`` (T,) its tokens."""
        error = self._ops.counts(targets) - self._ops.exp(biased).sum(0)
        self._shared[0] = self.shared + self._rates[0] * error
        self.document = self.document + self._rates[1] * error


def chunk_bounds(doc_starts: np.ndarray, num_tokens: int, chunk_tokens: int) -> Iterator[tuple[int, int, bool]]:
    """Chunks of target positions ``(begin, end, starts_document)`` that cover 1..N-1 once, in order.

    The document of a target is that of the token before it, so a document starting at s owns the targets s + 1 up to
    the next document's first token, and chunks of ``chunk_tokens`` never straddle documents.
    """
    edges = [*(int(s) for s in doc_starts), num_tokens - 1]
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        for begin in range(first + 1, last + 1, chunk_tokens):
            yield begin, min(begin + chunk_tokens, last + 1), begin == first + 1
