"""rANS with one static table per call, through the ``constriction`` library.

``N`` symbols, ``A`` alphabet. Facts of constriction 0.5 that shape this file: symbols are 1-D int32; integer
frequencies as float32 are exact and ``perfect=False`` maps them to 24-bit fixed point the same way everywhere; an
alphabet of one symbol is refused by the library and needs no bits; a damaged stream is not noticed by it, and an empty
coder gives symbol 0 for ever. So one bit, 1, ends the code, and after it the coder must be empty.
Source: Duda, arXiv 1311.2540; PR #1510 (order-0 rANS per tensor).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golf.artifact.bytes import ArtifactError

__all__ = ["decode", "encode"]


def encode(symbols: NDArray[np.int32], frequencies: NDArray[np.int64]) -> bytes:
    """Code symbols (N,) in 0..A-1 by frequencies (A,); little-endian 32-bit words, none for A == 1 or N == 0."""
    if len(frequencies) == 1 or symbols.size == 0:
        return b""
    import constriction  # its submodules are attributes, not importable by name

    coder = constriction.stream.stack.AnsCoder()
    model = constriction.stream.model.Categorical(frequencies.astype(np.float32), perfect=False)
    coder.encode_reverse(np.ones(1, np.int32), _end_model())
    coder.encode_reverse(np.ascontiguousarray(symbols, np.int32), model)
    words: NDArray[np.uint32] = coder.get_compressed()
    return words.astype("<u4").tobytes()


def decode(data: bytes, count: int, frequencies: NDArray[np.int64], *, what: str) -> NDArray[np.int32]:
    """Inverse of ``encode``: ``count`` symbols (N,) int32; ``what`` names the tensor in errors.

    Raises ``ArtifactError`` (``payload``) when the words are not exactly one code of that many symbols.
    """
    if len(data) % 4:
        raise ArtifactError("payload", f"{what}: payload has {len(data)} bytes, wanted a multiple of 4")
    if len(frequencies) == 1 or count == 0:
        if data:
            raise ArtifactError("payload", f"{what}: payload has {len(data)} bytes, a constant tensor needs none")
        return np.zeros(count, np.int32)
    import constriction

    least = count * math.log2(float(frequencies.sum() / frequencies.max())) * 0.99  # bits, with room for rounding
    if least > 8 * len(data) + 64:  # a lie about the count could otherwise keep the library busy for long
        raise ArtifactError("payload", f"{what}: {len(data)} payload bytes for {count} symbols: too few")
    words = np.frombuffer(data, "<u4").astype(np.uint32)
    if words.size and words[-1] == 0:
        raise ArtifactError("payload", f"{what}: the last of {words.size} payload words is 0, which no coder writes")
    coder = constriction.stream.stack.AnsCoder(words)
    model = constriction.stream.model.Categorical(frequencies.astype(np.float32), perfect=False)
    symbols: NDArray[np.int32] = coder.decode(model, count)
    if coder.decode(_end_model(), 1)[0] != 1 or not coder.is_empty():
        raise ArtifactError("payload", f"{what}: the rANS code does not end after {count} symbols: damaged words")
    return symbols


def _end_model() -> Any:
    """One fair bit; its value 1 is never what an empty coder gives."""
    import constriction

    return constriction.stream.model.Categorical(np.ones(2, np.float32), perfect=False)
