"""What a neural pass hands to the mixture, per token.

Shapes: N tokens, J context candidates, S sampled positions, V vocabulary. Row t speaks of ``p(. | tokens[:t])``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np

from golf.base.errors import GolfError
from golf.base.jit import kernel
from golf.base.mapped import forget

__all__ = ["NeuralRecord", "StreamRecord", "pieces", "summarize_row"]

ROUNDING = 1e-3  # nats above 0 that the logarithm of a probability may have
PIECE = 1 << 20


@kernel
def summarize_row(log_probs, probs):  # type: ignore[no-untyped-def]
    """Entropy in nats and argmax of one row of log-probabilities (V,) and their exponentials, float64."""
    entropy, best = 0.0, 0
    for v in range(len(log_probs)):
        if probs[v] > 0.0:
            entropy -= probs[v] * log_probs[v]
        if log_probs[v] > log_probs[best]:
            best = v
    return entropy, best


def pieces(size: int) -> Iterator[slice]:
    """All of ``size`` positions, ``PIECE`` at a time: what is made of a long text need not exist as a whole."""
    return (slice(begin, min(begin + PIECE, size)) for begin in range(0, size, PIECE))


@dataclass(frozen=True)
class NeuralRecord:
    """Numbers of the neural distribution ``p`` at every position, under the document bias when that is on.

    Row t belongs to the prediction of ``tokens[t]`` from ``tokens[:t]``; where ``scored[t]`` is false (the first
    token of a stream, which nothing predicts) the other fields are ignored, the token is only counted.
    Natural logarithms; float32 (29 bytes a token with J = 3) is enough for scores, float64 (53 bytes, as `evaluate
    streaming` makes it) when the numbers are to be proved against whole rows or by coding: all fields of a row must
    come from ONE array of log-probabilities.

    - ``nll`` (N,): ``-log p(tokens[t])``, nats
    - ``entropy`` (N,): ``-sum p log p``, nats
    - ``argmax`` (N,) int32: most likely id, the lowest one on ties
    - ``argmax_log_prob`` (N,)
    - ``candidate_log_prob`` (N, J): ``log p`` at the ids of ``golf.mixture.counts.candidates``; anything where it is -1
    - ``scored`` (N,) bool
    - ``sample_positions`` (S,) int64 rising and ``sample_log_probs`` (S, V): whole rows, kept by the neural pass at a
      few positions, on which ``mix`` materializes the whole mixture and checks its sum; S may be 0
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
                raise GolfError(f"neural record: {name} has shape {getattr(self, name).shape}, expected ({num},)")
        if self.candidate_log_prob.ndim != 2 or len(self.candidate_log_prob) != num:
            raise GolfError(
                f"neural record: candidate_log_prob has shape {self.candidate_log_prob.shape}, "
                f"expected ({num}, candidates)"
            )
        if self.scored.dtype != np.bool_:
            raise GolfError(f"neural record: scored is {self.scored.dtype}, expected bool")
        for name, kind in (("argmax", "i"), ("sample_positions", "i"), ("nll", "f"), ("entropy", "f")):
            array = getattr(self, name)
            if array.dtype.kind != kind or array.ndim != 1:
                expected = "whole numbers" if kind == "i" else "floats"
                raise GolfError(f"neural record: {name} is {array.dtype} {array.shape}, expected {expected} (n,)")
        for piece in pieces(num):
            numbers = (self.nll[piece], self.entropy[piece], self.argmax_log_prob[piece])
            bad = self.scored[piece] & ~np.logical_and.reduce([np.isfinite(each) for each in numbers])
            if bad.any():
                at = piece.start + int(bad.argmax())
                raise GolfError(f"neural record: position {at} is not finite; the neural pass gave nll {self.nll[at]}")
            forget(self.nll)
        if len(self.sample_positions) != len(self.sample_log_probs):
            raise GolfError(
                f"neural record: {len(self.sample_positions)} sample positions for {len(self.sample_log_probs)} rows"
            )

    def check(self, vocab_size: int) -> None:
        """Raises ``GolfError`` unless every id and row is of ``vocab_size`` entries, by which kernels index, and all
        logarithms are of probabilities."""
        if (self.sample_positions < 1).any():
            raise GolfError("neural record: a sampled position is below 1; nothing predicts the first token")
        rows = self.sample_log_probs.shape
        if len(rows) != 2 or (rows[0] and rows[1] != vocab_size):
            raise GolfError(f"neural record: sampled rows have shape {rows}, expected {vocab_size} entries each")
        wrong = [] if (self.sample_log_probs <= ROUNDING).all() else ["sampled rows"]
        for piece in pieces(len(self.nll)):
            scored, argmax = self.scored[piece], self.argmax[piece]
            outside = scored & ((argmax < 0) | (argmax >= vocab_size))
            if outside.any():
                at = int(outside.argmax())
                raise GolfError(
                    f"neural record: argmax of position {piece.start + at} is {int(argmax[at])}, expected 0 to "
                    f"{vocab_size - 1}; re-run `evaluate streaming`"
                )
            for name, sign in (("nll", -1), ("entropy", -1), ("argmax_log_prob", 1), ("candidate_log_prob", 1)):
                numbers = getattr(self, name)[piece]
                sound = numbers <= ROUNDING if sign > 0 else numbers >= -ROUNDING
                if not (sound.T | ~scored).all():
                    wrong.append(name)
            forget(self.nll)
        if wrong:
            raise GolfError(
                f"neural record: {wrong[0]} holds a probability above 1 or none; re-run `evaluate streaming`"
            )

    @property
    def num_bytes(self) -> int:
        """Memory of the per-token arrays, bytes."""
        arrays = (self.nll, self.entropy, self.argmax, self.argmax_log_prob, self.candidate_log_prob, self.scored)
        return sum(array.nbytes for array in arrays)


@dataclass(frozen=True)
class StreamRecord:
    """``base``: N rows of the distribution that the mixture lies over, row t speaks of token t; it is the network's,
    under the document bias when that is on. Of the network itself float64: ``nats`` (n,), the streaming score of every
    target; ``tempered`` (K, n), the same under logits / temperature; ``sample_log_probs`` (S, V), whole rows at the
    sampled positions of ``base``."""

    base: NeuralRecord
    nats: np.ndarray
    tempered: np.ndarray
    sample_log_probs: np.ndarray

    def tensors(self) -> dict[str, np.ndarray]:
        """Flat arrays for one safetensors file."""
        own = {name: getattr(self, name) for name in ("nats", "tempered", "sample_log_probs")}
        return own | {f"base.{field}": array for field, array in vars(self.base).items()}

    @classmethod
    def from_tensors(cls, flat: Mapping[str, np.ndarray]) -> StreamRecord:
        """The inverse of ``tensors``; raises ``GolfError`` for arrays that do not fit together."""

        parts = [field.name for field in fields(NeuralRecord)]
        wanted = [*(f"base.{name}" for name in parts), "nats", "tempered", "sample_log_probs"]
        missing = [name for name in wanted if name not in flat]
        if missing:
            raise GolfError(f"streaming record: found no {missing[0]}; re-run `evaluate streaming`")
        base = NeuralRecord(**{name: flat[f"base.{name}"] for name in parts})
        nats, tempered, rows = (flat[name] for name in wanted[len(parts) :])
        for name, array in (("nats", nats[None]), ("tempered", tempered)):
            fits = array.ndim == 2 and array.dtype.kind == "f" and array.shape[1] + 1 == len(base.nll)
            if not fits or not all(_are_nats(array[:, piece]) for piece in pieces(array.shape[-1])):
                raise GolfError(
                    f"streaming record: {len(base.nll)} positions and {name} of shape {flat[name].shape}, expected "
                    "finite numbers, one for each position but the first; re-run `evaluate streaming`"
                )
            forget(array)
        if rows.shape != base.sample_log_probs.shape or not (rows <= ROUNDING).all():
            raise GolfError(
                f"streaming record: sample_log_probs of shape {rows.shape}, expected {base.sample_log_probs.shape} "
                "logarithms of probabilities; re-run `evaluate streaming`"
            )
        return cls(base, nats, tempered, rows)


def _are_nats(array: np.ndarray) -> bool:
    return bool((np.isfinite(array) & (array >= -ROUNDING)).all())
