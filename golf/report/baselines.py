"""General-purpose compressors at their strongest, the yardstick beside our own code, on texts and on integers.

brotli and ppmd are measured where they are installed.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

__all__ = ["integer_sizes", "packed_bits", "text_sizes", "xz"]

Compressor = Callable[[bytes], bytes]


def xz(data: bytes) -> bytes:
    """``xz -9e``."""
    return lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)


def _compressors() -> dict[str, Compressor]:
    """``zlib`` -9, ``bzip2`` -9, ``zstd`` -22 --ultra, ``xz`` -9e and, if installed, ``brotli`` -11."""
    import zstandard

    found: dict[str, Compressor] = {
        "zlib": lambda data: zlib.compress(data, 9),
        "bzip2": lambda data: bz2.compress(data, 9),
        "zstd": zstandard.ZstdCompressor(level=22).compress,
        "xz": xz,
    }
    try:
        import brotli
    except ModuleNotFoundError:
        return found
    return {**found, "brotli": lambda data: brotli.compress(data, quality=11, lgwin=24)}


def text_sizes(text: bytes) -> dict[str, int]:
    """Bytes of ``text`` under ``xz``, ``zstd``, ``bzip2``, ``brotli`` and ``ppmd`` (PPMd variant H, the best of orders
    4, 5, 6, 8 and 12)."""
    sizes = {name: len(run(text)) for name, run in _compressors().items() if name != "zlib"}
    try:
        import pyppmd
    except ModuleNotFoundError:
        return sizes
    memory = max(1 << 20, min(1 << 28, 32 * len(text)))
    encoders = (pyppmd.Ppmd7Encoder(order, memory) for order in (4, 5, 6, 8, 12))
    return {**sizes, "ppmd": min(len(encoder.encode(text)) + len(encoder.flush()) for encoder in encoders)}


def integer_sizes(tensors: Sequence[NDArray[np.integer]], *, threads: int = 1) -> dict[str, int]:
    """Bytes of integers under ``raw`` (6-bit packed), ``zlib``, ``zstd``, ``xz`` and ``brotli``.

    They get what suits them best: one byte per symbol (bit-packing first costs them 5-20 %), one tensor after another.
    """
    data = _as_bytes(tensors)
    methods = {name: run for name, run in _compressors().items() if name != "bzip2"}
    with ThreadPoolExecutor(max_workers=threads) as pool:  # each of them releases the interpreter lock
        sizes = dict(zip(methods, pool.map(lambda run: len(run(data)), methods.values()), strict=True))
    return {"raw": packed_bits(tensors), **sizes}


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
