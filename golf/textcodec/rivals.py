"""General-purpose compressors at their strongest on the same text, the yardstick beside our own code."""

from __future__ import annotations

import bz2
import lzma

__all__ = ["rival_sizes"]


def rival_sizes(text: bytes) -> dict[str, int]:
    """Bytes of ``text`` under ``xz`` -9e, ``zstd`` -22 --ultra, ``bzip2`` -9 and, where they are installed, ``brotli``
    -11 and ``ppmd`` (PPMd variant H, the best of orders 4, 5, 6, 8 and 12)."""
    import zstandard

    sizes = {
        "xz": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
        "zstd": len(zstandard.ZstdCompressor(level=22).compress(text)),
        "bzip2": len(bz2.compress(text, 9)),
    }
    try:
        import brotli
    except ModuleNotFoundError:  # an optional dependency
        pass
    else:
        sizes["brotli"] = len(brotli.compress(text, quality=11, lgwin=24))
    try:
        import pyppmd
    except ModuleNotFoundError:
        pass
    else:
        memory = max(1 << 20, min(1 << 28, 32 * len(text)))
        sizes["ppmd"] = min(_ppmd(pyppmd, text, order, memory) for order in (4, 5, 6, 8, 12))
    return sizes


def _ppmd(pyppmd: object, text: bytes, order: int, memory: int) -> int:
    encoder = pyppmd.Ppmd7Encoder(order, memory)  # type: ignore[attr-defined]
    return len(encoder.encode(text)) + len(encoder.flush())
