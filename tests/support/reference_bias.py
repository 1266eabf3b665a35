"""The document bias written plainly in numpy: ``g`` and ``d`` apart, one call to score and one to learn.

It shares no code with ``golf.mixture.bias`` and has parallel streams, as the text codec does.
Shapes: T positions of one chunk, V vocabulary.
"""

from __future__ import annotations

import numpy as np

from golf.mixture.config import RecordConfig

__all__ = ["ReferenceBias"]


class ReferenceBias:
    """``biased = apply(rows)``, then ``update(biased, tokens)``; ``beside`` is another stream with the same ``g``."""

    def __init__(self, vocab_size: int, config: RecordConfig) -> None:
        self.config = config
        self.shared, self.document = np.zeros(vocab_size), np.zeros(vocab_size)

    def beside(self) -> ReferenceBias:
        """A new stream: own document bias, the same shared one."""
        other = ReferenceBias(len(self.shared), self.config)
        other.shared = self.shared
        return other

    def start_document(self) -> None:
        """Forget the document."""
        self.document[:] = 0.0

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Normalized biased log-probabilities (T, V) of logits or log-probabilities (T, V)."""
        biased = rows + (self.shared + self.document)
        return np.asarray(biased - np.logaddexp.reduce(biased, axis=1, keepdims=True))

    def update(self, biased: np.ndarray, tokens: np.ndarray) -> None:
        """Learn the ``tokens`` (T,) of the chunk that ``apply`` returned."""
        error = np.bincount(tokens, minlength=len(self.shared)) - np.exp(biased).sum(0)
        self.shared += self.config.bias_global_rate * error
        self.document += self.config.bias_document_rate * error
