"""From the model's log-probabilities to the distribution that is coded: alone, or through the online mixture.

The mixture's counts and weights are shared by all streams and learn after every token, in (step, stream) order: stream
5 at step 9 already knows the tokens of streams 0 to 4 at step 9. The document bias learns after every token too (the
batch scorer waits for a chunk because a neural pass has many rows; here there is one row at a time).

Shapes: V vocabulary, S streams.
"""

from __future__ import annotations

import hashlib
import json
from typing import Protocol

import numpy as np

from golf.base.params import to_dict
from golf.mixture.bias import DocumentBias, numpy_ops
from golf.mixture.config import MixtureConfig
from golf.mixture.stream import MixtureState

__all__ = ["GivenPredictor", "MixturePredictor", "NeuralPredictor", "Predictor", "mixture_hash", "new_predictor"]


class Predictor(Protocol):
    """``begin`` each stream, then for each token ``row`` before it and ``learn`` after it."""

    def begin(self, stream: int, bos: int) -> None: ...

    def row(self, log_probs: np.ndarray, stream: int) -> np.ndarray: ...

    def learn(self, token: int, stream: int, *, starts_document: bool) -> None: ...


class NeuralPredictor:
    """The model's distribution as it is."""

    def begin(self, stream: int, bos: int) -> None:
        """Nothing to remember."""

    def row(self, log_probs: np.ndarray, stream: int) -> np.ndarray:
        """Probabilities (V,) float64 from normalized ``log_probs`` (V,)."""
        return np.asarray(np.exp(log_probs))

    def learn(self, token: int, stream: int, *, starts_document: bool) -> None:
        """Nothing to learn."""


class GivenPredictor(NeuralPredictor):
    """Rows that are probabilities already."""

    def row(self, log_probs: np.ndarray, stream: int) -> np.ndarray:
        """The row as it is."""
        return log_probs


class MixturePredictor:
    """Document bias, then the mixture of ``golf.mixture``, with state shared by ``streams``."""

    def __init__(self, config: MixtureConfig, *, vocab_size: int, streams: int) -> None:
        self._state = MixtureState(config, vocab_size=vocab_size, streams=streams)
        self._biases: list[DocumentBias] = []
        self._rows: list[np.ndarray | None] = [None] * streams
        if config.record.bias:
            first = DocumentBias(np.zeros(vocab_size), numpy_ops(vocab_size), config.record)
            self._biases = [first, *(first.beside() for _ in range(streams - 1))]

    @property
    def num_bytes(self) -> int:
        """Memory of the counts, bytes."""
        return self._state.num_bytes

    def begin(self, stream: int, bos: int) -> None:
        """``stream`` stands behind ``bos``, which nobody predicted."""
        self._state.update(bos, stream=stream, starts_document=True)

    def row(self, log_probs: np.ndarray, stream: int) -> np.ndarray:
        """Probabilities (V,) float64 of the next token of ``stream``."""
        if self._biases:
            log_probs = self._biases[stream].apply(log_probs[None])[0]
            self._rows[stream] = log_probs
        return self._state.distribution(log_probs, stream=stream)

    def learn(self, token: int, stream: int, *, starts_document: bool) -> None:
        """Learn the ``token`` that ``row`` predicted."""
        self._state.update(token, stream=stream, starts_document=starts_document)
        row = self._rows[stream]
        if row is not None:
            self._biases[stream].update(row[None], np.array([token]))
            if starts_document:
                self._biases[stream].start_document()


def new_predictor(
    config: MixtureConfig | None, *, vocab_size: int, streams: int, probabilities: bool = False
) -> Predictor:
    """A predictor before the first token; ``None`` is the model alone, whose rows may be ``probabilities`` already."""
    if config is None:
        return GivenPredictor() if probabilities else NeuralPredictor()
    return MixturePredictor(config, vocab_size=vocab_size, streams=streams)


def mixture_hash(config: MixtureConfig | None) -> str:
    """16 hex digits that name the mixture's configuration; zeros for none."""
    if config is None:
        return "0" * 16
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:16]
