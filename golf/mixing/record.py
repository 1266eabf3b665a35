"""What a neural pass hands to the mixture, per token.

Shapes: N tokens, J context candidates, S sampled positions, V vocabulary. Row t speaks of ``p(. | tokens[:t])``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from golf.errors import GolfError

__all__ = ["NeuralRecord", "record_from_log_probs", "summarise_row"]


@njit(cache=True)
def summarise_row(log_probs, probs):  # type: ignore[no-untyped-def]
    """Entropy in nats and argmax of one row of log-probabilities (V,) and their exponentials, float64."""
    entropy, best = 0.0, 0
    for v in range(len(log_probs)):
        if probs[v] > 0.0:
            entropy -= probs[v] * log_probs[v]
        if log_probs[v] > log_probs[best]:
            best = v
    return entropy, best


@dataclass(frozen=True)
class NeuralRecord:
    """Numbers of the neural distribution ``p`` at every position, after the document bias (A) when that is on.

    Row t belongs to the prediction of ``tokens[t]`` from ``tokens[:t]``; where ``scored[t]`` is false (the first
    token of a stream, which nothing predicts) the other fields are ignored, the token is only counted.
    Natural logarithms; float32 (29 bytes a token with J = 3) is enough for scores, float64 when the numbers are to
    be proved against whole rows or by coding: all fields of a row must come from ONE array of log-probabilities.

    - ``nll`` (N,): ``-log p(tokens[t])``, nats
    - ``entropy`` (N,): ``-sum p log p``, nats
    - ``argmax`` (N,) int32: most likely id, the lowest one on ties
    - ``argmax_log_prob`` (N,)
    - ``candidate_log_prob`` (N, J): ``log p`` at the ids of ``golf.mixing.candidates``; anything where the id is -1
    - ``scored`` (N,) bool
    - ``sample_positions`` (S,) int64 rising and ``sample_log_probs`` (S, V): whole rows, kept by the neural pass at a
      few positions, on which ``mix`` materialises the whole mixture and checks its sum; S may be 0
    """

    nll: np.ndarray
    entropy: np.ndarray
    argmax: np.ndarray
    argmax_log_prob: np.ndarray
    candidate_log_prob: np.ndarray
    scored: np.ndarray
    sample_positions: np.ndarray
    sample_log_probs: np.ndarray

    def __post_init__(self) -> None:
        num = len(self.nll)
        for name in ("entropy", "argmax", "argmax_log_prob", "scored"):
            if getattr(self, name).shape != (num,):
                raise GolfError(f"neural record: {name} has shape {getattr(self, name).shape}, wanted ({num},)")
        if self.candidate_log_prob.ndim != 2 or len(self.candidate_log_prob) != num:
            raise GolfError(f"neural record: candidate_log_prob has shape {self.candidate_log_prob.shape}, "
                             f"wanted ({num}, candidates)")
        if self.scored.dtype != np.bool_:
            raise GolfError(f"neural record: scored is {self.scored.dtype}, wanted bool")
        bad = self.scored & ~(np.isfinite(self.nll) & np.isfinite(self.entropy) & np.isfinite(self.argmax_log_prob))
        if bad.any():
            raise GolfError(f"neural record: position {int(bad.argmax())} is not finite; the neural pass gave "
                             f"nll {self.nll[bad.argmax()]}")
        if len(self.sample_positions) != len(self.sample_log_probs):
            raise GolfError(f"neural record: {len(self.sample_positions)} sample positions for "
                             f"{len(self.sample_log_probs)} rows")

    @property
    def num_bytes(self) -> int:
        """Memory of the per-token arrays, bytes."""
        arrays = (self.nll, self.entropy, self.argmax, self.argmax_log_prob, self.candidate_log_prob, self.scored)
        return sum(array.nbytes for array in arrays)


def record_from_log_probs(
    tokens: np.ndarray, log_probs: np.ndarray, candidate_ids: np.ndarray, *, first_scored: int = 1, samples: int = 0
) -> NeuralRecord:
    """The record of normalised rows ``log_probs`` (N, V), for text small enough to hold them all.

    ``candidate_ids`` (N, J) come from ``golf.mixing.candidates``; positions before ``first_scored`` are not scored;
    ``samples`` positions, evenly spread, keep their whole row.
    """
    rows = np.arange(len(tokens))
    exact = np.ascontiguousarray(log_probs, dtype=np.float64)
    summaries = [summarise_row(row, probs) for row, probs in zip(exact, np.exp(exact), strict=True)]
    entropy = np.array([entropy for entropy, _ in summaries])
    argmax = np.array([best for _, best in summaries], dtype=np.int32)
    scored = rows >= first_scored
    positions = np.unique(np.linspace(first_scored, len(tokens) - 1, samples).astype(np.int64))
    return NeuralRecord(
        nll=-log_probs[rows, tokens.astype(np.int64)],
        entropy=entropy,
        argmax=argmax,
        argmax_log_prob=log_probs[rows, argmax],
        candidate_log_prob=np.take_along_axis(log_probs, np.maximum(candidate_ids, 0).astype(np.int64), axis=1),
        scored=scored,
        sample_positions=positions,
        sample_log_probs=log_probs[positions],
    )
