"""What a scorer leaves behind: per-document nats and flat metrics.

Shapes: n targets, D documents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from golf.base.score import bits_per_byte
from golf.scoring.text import ValidationText

__all__ = ["Score", "Scored", "document_nats", "make_score"]


@dataclass(frozen=True)
class Score:
    """One scorer's result: ``nats`` float64 (n,) of every target, ``doc_nats`` float64 (D,), ``doc_bytes`` and
    ``doc_tokens`` int64 (D,), the number of ``windows`` (0 where there are none), ``details``: further flat metrics."""

    name: str
    nats: np.ndarray
    doc_nats: np.ndarray
    doc_bytes: np.ndarray
    doc_tokens: np.ndarray
    windows: int
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def total_nats(self) -> float:
        """Nats of all targets, documents added with one rounding (``math.fsum``)."""
        return math.fsum(self.doc_nats)

    @property
    def bits_per_byte(self) -> float:
        """``golf.base.score.bits_per_byte`` of the whole stream."""
        return bits_per_byte(self.total_nats, int(self.doc_bytes.sum()))

    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays that evaluate caches."""
        return {"doc_nats": self.doc_nats, "doc_bytes": self.doc_bytes, "doc_tokens": self.doc_tokens}

    def metrics(self, seconds: float) -> dict[str, float]:
        """Flat metrics; ``seconds`` is the wall-clock time of the scoring alone."""
        tokens = int(self.doc_tokens.sum())
        return {
            f"{self.name}_bits_per_byte": self.bits_per_byte,
            f"{self.name}_nats_per_token": self.total_nats / tokens,
            f"{self.name}_seconds": seconds,
            f"{self.name}_tokens_per_second": tokens / seconds,
            "tokens": tokens,
            "bytes": int(self.doc_bytes.sum()),
            "documents": len(self.doc_nats),
            "windows": self.windows,
            **self.details,
        }


@dataclass(frozen=True)
class Scored:
    """A ``score`` and the arrays of each target (n,) that the stage caches for later stages."""

    score: Score
    tensors: Mapping[str, np.ndarray]


def make_score(
    name: str, text: ValidationText, nats: np.ndarray, *, windows: int = 0, details: Mapping[str, float] | None = None
) -> Score:
    """Sum the nats of all targets (n,) by document."""
    return Score(
        name=name,
        nats=nats,
        doc_nats=document_nats(text, nats),
        doc_bytes=text.doc_bytes,
        doc_tokens=text.doc_tokens,
        windows=windows,
        details=details or {},
    )


def document_nats(text: ValidationText, nats: np.ndarray) -> np.ndarray:
    """float64 (D,): nats of each document's targets, each sum rounded once, so that no order of work can change it."""
    assert nats.shape == (text.num_targets,) and nats.dtype == np.float64
    bounds = text.target_bounds
    return np.array([math.fsum(nats[a:b]) for a, b in zip(bounds[:-1], bounds[1:], strict=True)])
