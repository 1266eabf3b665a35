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
from golf.textcodec.layout import CodecError
from golf.textcodec.predictor import new_predictor
from golf.textcodec.range_coder import DEFAULT_BITS, RangeDecoder, RangeEncoder, RangeError, frequencies

__all__ = ["BlockCodec", "CodedBlock", "block_streams", "check_tokens"]

TOKENS_PER_STREAM = 512  # fewer would start cold too often
# Keys of attention that a block may ask for, all streams together: its decoder allocates them on the file's word.
FREE_KEYS, KEYS_PER_BYTE, MIN_KEYS = 1 << 14, 64, 256


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
    """``left`` bytes of text at most, given the bytes of each token ``sizes`` (V,)."""

    def __init__(self, code: bytes, sizes: np.ndarray, left: int) -> None:
        self.range = RangeDecoder(code)
        self._sizes, self._left = sizes, left

    def inputs(self, starts: np.ndarray, steps: int, bos: int) -> np.ndarray | None:
        return None

    def code(self, counts: np.ndarray, position: int) -> int:
        token = self.range.decode(counts)
        self._left -= int(self._sizes[token])
        if self._left < 0:
            raise RangeError("the tokens decode to more bytes than the block states: damaged")
        return token


def block_streams(num_tokens: int, streams: int) -> int:
    """Streams of a block: ``streams``, or fewer so that each has at least ``TOKENS_PER_STREAM`` tokens."""
    return max(1, min(streams, num_tokens // TOKENS_PER_STREAM))


def check_tokens(tokens: np.ndarray, vocab_size: int) -> None:
    """Raises ``CodecError`` for a token (N,) outside the vocabulary: kernels and tables are indexed by tokens."""
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise CodecError(
            f"tokens {tokens.min()} to {tokens.max()}, expected 0 to {vocab_size - 1}: they are of another tokenizer; "
            "re-run `dvc repro`"
        )


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
        """Code ``tokens`` (N,); ``advance(n)`` is called whenever n more are done.

        Raises ``CodecError`` for a token outside the vocabulary, and for text so repetitive that its code would not
        carry the memory of its own decoder.
        """
        check_tokens(tokens, self.vocab_size)
        coder = _Encoding(tokens)
        _, bits = self._run(coder, len(tokens), advance)
        code = coder.range.finish()
        self.check_memory(len(tokens), len(code))
        return CodedBlock(code, bits)

    def decode(
        self,
        code: bytes,
        count: int,
        *,
        sizes: np.ndarray,
        num_bytes: int,
        advance: Callable[[int], object] = lambda n: None,
    ) -> tuple[np.ndarray, float]:
        """The ``count`` tokens of ``code``, int64, and their stated bits.

        ``sizes`` (V,) are the bytes of each token and ``num_bytes`` those of the block. Raises ``RangeError`` when it
        is not the code of so many tokens or decodes to more bytes.
        """
        coder = _Decoding(code, sizes, num_bytes)
        tokens, bits = self._run(coder, count, advance)
        coder.range.finish()
        return tokens, bits

    def check_memory(self, count: int, code_bytes: int) -> None:
        """Raises ``CodecError`` when ``count`` tokens in ``code_bytes`` ask for more than a decoder grants.

        No token costs less than the most likely one can, and the keys that the streams remember are paid for by code:
        ``FREE_KEYS`` and ``KEYS_PER_BYTE`` besides.
        """
        least_bits = DEFAULT_BITS - math.log2((1 << DEFAULT_BITS) - self.vocab_size + 1)
        if 0.99 * count * least_bits > 8 * (code_bytes + 16):
            raise CodecError(f"{count} tokens cannot be coded in {code_bytes} bytes: damaged")
        streams = block_streams(count, self.streams)
        keys, granted = streams * self._keys(count, streams), max(FREE_KEYS, KEYS_PER_BYTE * code_bytes)
        if keys > granted:
            raise CodecError(
                f"{streams} streams of {keys // streams} keys are more than {code_bytes} bytes of code may ask for "
                f"({granted}); code with a smaller --window or fewer --streams"
            )

    def _keys(self, count: int, streams: int) -> int:
        """Keys that each stream remembers: the window, or what there can be."""
        return min(self.window, max(count // streams + 1, MIN_KEYS))

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
        stepper = self.make_stepper(streams, self._keys(count, streams), inputs)
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
