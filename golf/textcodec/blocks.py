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
from typing import Any

import numpy as np

from golf.mixture.config import MixtureConfig
from golf.mixture.stream import MixtureState
from golf.textcodec import coder
from golf.textcodec.layout import CodecError
from golf.textcodec.range_coder import DAMAGED, DEFAULT_BITS, RangeDecoder, RangeEncoder, RangeError

__all__ = ["BlockCodec", "CodedBlock", "block_streams", "check_tokens"]

TOKENS_PER_STREAM = 512  # fewer would start cold too often
# Keys of attention that a block may ask for, all streams together: its decoder allocates them on the file's word.
FREE_KEYS, KEYS_PER_BYTE, MIN_KEYS = 1 << 14, 64, 256


@dataclass(frozen=True)
class CodedBlock:
    """``code`` of a block and ``stated_bits``, the sum of -log2 of the probabilities before they became integers."""

    code: bytes
    stated_bits: float


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
    ``bos``."""

    make_stepper: Callable[[int, int, np.ndarray | None], Any]
    mixture: MixtureConfig | None
    vocab_size: int
    bos: int
    streams: int
    window: int

    def encode(self, tokens: np.ndarray, *, advance: Callable[[int], object] = lambda n: None) -> CodedBlock:
        """Code ``tokens`` (N,); ``advance(n)`` is called whenever n more are done.

        Raises ``CodecError`` for a token outside the vocabulary, and for text so repetitive that its code would not
        carry the memory of its own decoder.
        """
        check_tokens(tokens, self.vocab_size)
        encoder = RangeEncoder()
        bits = self._run(encoder, np.array(tokens, np.int64), None, advance)
        code = encoder.finish()
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
        decoder, tokens = RangeDecoder(code), np.zeros(count, np.int64)
        bits = self._run(decoder, tokens, (np.asarray(sizes, np.int64), num_bytes), advance)
        decoder.finish()
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

    def _run(
        self,
        code: RangeEncoder | RangeDecoder,
        tokens: np.ndarray,
        limit: tuple[np.ndarray, int] | None,
        advance: Callable[[int], object],
    ) -> float:
        """Code ``tokens`` (N,), or, with the bytes of each token and of all, decode them in place; stated bits."""
        if not len(tokens):
            return 0.0
        streams = block_streams(len(tokens), self.streams)
        base, longer = divmod(len(tokens), streams)
        sizes, left = limit or (np.zeros(self.vocab_size, np.int64), 0)
        block = coder.Block(
            tokens, np.array([s * base + min(s, longer) for s in range(streams)]), np.full(streams, self.bos),
            code.words, code.interval, code.place, sizes, np.array([left]), np.empty(self.vocab_size, np.uint64),
            np.zeros(1),
        )  # fmt: skip
        mixer = MixtureState(self.mixture or MixtureConfig(), vocab_size=self.vocab_size, streams=streams)
        bias = coder.new_bias(self.mixture, streams, self.vocab_size)
        for stream in range(streams if self.mixture else 0):
            mixer.update(self.bos, stream=stream, starts_document=True)
        steps = base + (longer > 0)
        inputs = None if limit else self._inputs(block, steps)
        stepper = self.make_stepper(streams, self._keys(len(tokens), streams), inputs)
        for step in range(steps):
            rows = stepper.step(block.last)
            active = streams if step < base else longer  # the first streams are one token longer
            if isinstance(code, RangeEncoder):
                code.reserve(active)
                block = block._replace(words=code.words)
            online = mixer.reserve(active if self.mixture else 0)
            at = (step, active, DEFAULT_BITS, self.bos)
            _check(coder.code_step(online, self.mixture is not None, bias, block, rows, at, limit is not None))
            advance(active)
        return float(block.nats[0]) / math.log(2.0)

    def _inputs(self, block: coder.Block, steps: int) -> np.ndarray:
        """What the model reads at each step (S, steps): BOS, then the tokens before the one that is coded."""
        read = block.tokens[block.starts[:, None] + np.maximum(np.arange(steps) - 1, 0)]
        read[:, 0] = self.bos
        return np.asarray(read)


def _check(ended: int) -> None:
    if ended == coder.BROKEN:
        raise RangeError("the probabilities of a step are none: the artifact's weights are broken")
    if ended == coder.DAMAGED:
        raise RangeError(DAMAGED)
    if ended == coder.MANY_BYTES:
        raise RangeError("the tokens decode to more bytes than the block states: damaged")
