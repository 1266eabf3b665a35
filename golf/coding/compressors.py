"""General-purpose compressors on the same integers, as the yardstick beside our coder.

They get what suits them best: one byte per symbol (bit-packing first costs them 5-20 %), tensors one after another.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

__all__ = ["compare", "packed_bits"]


def packed_bits(tensors: Sequence[NDArray[np.integer]], *, bits: int = 6) -> int:
    """Bytes of all integers in fixed-width ``bits`` each; tensors of a wider range take the width they need."""
    total = 0
    for values in tensors:
        widest = int(np.abs(values.astype(np.int64)).max(initial=0)).bit_length() + 1  # sign bit
        total += values.size * max(bits, widest)
    return (total + 7) // 8


def _as_bytes(tensors: Sequence[NDArray[np.integer]]) -> bytes:
    parts = []
    for values in tensors:
        flat = values.ravel().astype(np.int16)
        if flat.size and (flat.min() < -128 or flat.max() > 127):
            parts.append((flat >> 8).astype(np.int8).tobytes())  # wide tensors: a plane of high bytes before the low
        parts.append((flat & 0xFF).astype(np.uint8).tobytes())
    return b"".join(parts)


def _zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=22).compress(data)


def _brotli(data: bytes) -> bytes:
    import brotli

    packed: bytes = brotli.compress(data, quality=11, lgwin=24)
    return packed


def compare(tensors: Sequence[NDArray[np.integer]], *, threads: int = 1) -> dict[str, int]:
    """Bytes under ``raw`` (6-bit packed), ``zlib`` -9, ``zstd`` -22, ``xz`` -9e and, if installed, ``brotli`` -11."""
    data = _as_bytes(tensors)
    methods: dict[str, Callable[[bytes], bytes]] = {
        "zlib": lambda raw: zlib.compress(raw, 9),
        "zstd": _zstd,
        "xz": lambda raw: lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME),
        "brotli": _brotli,
    }
    try:
        import brotli  # noqa: F401  (an optional dependency)
    except ModuleNotFoundError:
        del methods["brotli"]
    with ThreadPoolExecutor(max_workers=threads) as pool:  # each of them releases the interpreter lock
        sizes = dict(zip(methods, pool.map(lambda run: len(run(data)), methods.values()), strict=True))
    return {"raw": packed_bits(tensors), **sizes}
