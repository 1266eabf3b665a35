"""Code one block of tokens over parallel streams; encoder and decoder are the same function with another coder.

The block's N tokens are cut into S contiguous segments, the first N mod S one token longer. Every stream begins behind
a BOS that is not coded. At each step the model sees the last token of every stream, then the streams are coded in
order. A BOS among the tokens begins a document: it is coded like any token.

Shapes: N tokens, S streams, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from golf.mixture.config import MixtureConfig
from golf.textcodec.predictor import new_predictor
from golf.textcodec.range_coder import RangeDecoder, RangeEncoder, frequencies

__all__ = ["BlockCodec", "CodedBlock", "block_streams"]

TOKENS_PER_STREAM = 512  # fewer would start cold too often


@dataclass(frozen=True)
class CodedBlock:
    """``code`` of a block and ``stated_bits``, the sum of -log2 of the probabilities before they became integers."""

    code: bytes
    stated_bits: float


class _Coder(Protocol):
    def inputs(self, starts: np.ndarray, steps: int, bos: int) -> np.ndarray | None: ...

    def code(self, counts: np.ndarray, position: int) -> int: ...


class _Encoding:
    def __init__(self, tokens: np.ndarray) -> None:
        self._known = np.asarray(tokens, dtype=np.int64)
        self._tokens = tokens.tolist()
        self.range = RangeEncoder()

    def inputs(self, starts: np.ndarray, steps: int, bos: int) -> np.ndarray | None:
        """What the model reads at each step (S, steps): ``bos``, then the tokens before the one that is coded."""
        read = self._known[starts[:, None] + np.maximum(np.arange(steps) - 1, 0)]
        read[:, 0] = bos
        return np.asarray(read)

    def code(self, counts: np.ndarray, position: int) -> int:
        token: int = self._tokens[position]
        self.range.encode(counts, token)
        return token


class _Decoding:
    def __init__(self, code: bytes) -> None:
        self.range = RangeDecoder(code)

    def inputs(self, starts: np.ndarray, steps: int, bos: int) -> np.ndarray | None:
        return None

    def code(self, counts: np.ndarray, position: int) -> int:
        return self.range.decode(counts)


def block_streams(num_tokens: int, streams: int) -> int:
    """Streams of a block: ``streams``, or fewer so that each has at least ``TOKENS_PER_STREAM`` tokens."""
    return max(1, min(streams, num_tokens // TOKENS_PER_STREAM))


@dataclass(frozen=True)
class BlockCodec:
    """``make_stepper(streams, window, inputs)`` from ``open_stepper``; ``streams`` at most, ``window`` keys, BOS id
    ``bos``. ``probabilities``: that is what the stepper gives, not their logarithms."""

    make_stepper: Callable[[int, int, np.ndarray | None], Any]
    mixture: MixtureConfig | None
    vocab_size: int
    bos: int
    streams: int
    window: int
    probabilities: bool = False

    def encode(self, tokens: np.ndarray, *, advance: Callable[[int], object] = lambda n: None) -> CodedBlock:
        """Code ``tokens`` (N,); ``advance(n)`` is called whenever n more are done."""
        coder = _Encoding(tokens)
        _, bits = self._run(coder, len(tokens), advance)
        return CodedBlock(coder.range.finish(), bits)

    def decode(self, code: bytes, count: int, *, advance: Callable[[int], object] = lambda n: None) -> np.ndarray:
        """The ``count`` tokens of ``code``, int64. Raises ``RangeError`` when it is not the code of so many."""
        coder = _Decoding(code)
        tokens, _ = self._run(coder, count, advance)
        coder.range.finish()
        return tokens

    def _run(self, coder: _Coder, count: int, advance: Callable[[int], object]) -> tuple[np.ndarray, float]:
        tokens = np.zeros(count, dtype=np.int64)
        if count == 0:
            return tokens, 0.0
        streams = block_streams(count, self.streams)
        predictor = new_predictor(
            self.mixture, vocab_size=self.vocab_size, streams=streams, probabilities=self.probabilities
        )
        for stream in range(streams):
            predictor.begin(stream, self.bos)
        base, longer = divmod(count, streams)
        starts = [s * base + min(s, longer) for s in range(streams)]
        inputs = coder.inputs(np.array(starts), base + (longer > 0), self.bos)
        stepper = self.make_stepper(streams, self.window, inputs)
        last = np.full(streams, self.bos, dtype=np.int64)
        counts = np.empty(self.vocab_size, np.uint64)
        nats = 0.0
        for step in range(base + (longer > 0)):
            rows = stepper.step(last)
            active = streams if step < base else longer  # the first streams are one token longer
            for stream in range(active):
                row = predictor.row(rows[stream], stream)
                position = starts[stream] + step
                token = coder.code(frequencies(row, out=counts), position)
                nats -= math.log(max(float(row[token]), 1e-300))
                predictor.learn(token, stream, starts_document=token == self.bos)
                tokens[position] = last[stream] = token
            advance(active)
        return tokens, nats / math.log(2.0)
