"""Scale codes of all tensors as small residuals: the input of two matrices is often the same, and so are its codes.

Every vector of codes (N,) int8 is written as a reference u8 (0: none, ``j``: the ``j``-th vector before it, of the same
length), a level i8, and then each code minus the reference's code minus the level, modulo 256. docs/format.md, "Codes".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from golf.artifact.bytes import ArtifactError, Reader
from golf.artifact.layout import CODES_HEAD

__all__ = ["CodeReader", "CodeWriter"]

_TRIED = 24  # vectors looked back at by the writer; a reader takes up to 255
Codes = NDArray[np.int8]


class CodeWriter:
    """Writes vectors one after another; ``bytes()`` is the stream."""

    def __init__(self) -> None:
        self._seen: list[Codes] = []
        self._out: list[bytes] = []

    def add(self, codes: Codes) -> None:
        """Append one vector (N,) int8 under the reference that leaves the smallest residuals."""
        tried = [_residual(codes, np.zeros_like(codes), 0)]
        for back, other in enumerate(reversed(self._seen[-_TRIED:]), 1):
            if len(other) == len(codes):
                tried.append(_residual(codes, other, back))
        self._out.append(min(tried, key=lambda item: item[0])[1])  # the first wins a tie
        self._seen.append(codes)

    def __bytes__(self) -> bytes:
        return b"".join(self._out)


def _residual(codes: Codes, other: Codes, back: int) -> tuple[float, bytes]:
    """Estimated bits and bytes of ``codes`` given ``other``."""
    away = codes.astype(np.int64) - other
    level = int(np.clip(np.rint(np.median(away)), -128, 127)) if len(codes) else 0
    bits = float(np.log2(1.0 + np.abs(away - level)).sum()) + 8.0 * bool(back)
    return bits, bytes([back, level & 255]) + (away - level).astype(np.uint8).tobytes()


class CodeReader:
    """Reads what ``CodeWriter`` wrote, in the same order."""

    def __init__(self, stream: Reader) -> None:
        self._stream = stream
        self._seen: list[Codes] = []

    def take(self, count: int, field: str) -> Codes:
        """The next vector (``count``,) int8; ``ArtifactError`` for a reference to no vector of that length."""
        back, level = self._stream.take(CODES_HEAD, f"head of {field}")
        codes = np.frombuffer(self._stream.take(count, field), np.uint8) + np.uint8(level)  # modulo 256
        if back:
            if back > len(self._seen) or len(self._seen[-back]) != count:
                raise ArtifactError("tensor", f"{field}: {count} codes refer to vector -{back}, which does not fit")
            codes = codes + self._seen[-back].view(np.uint8)
        self._seen.append(codes.view(np.int8))
        return self._seen[-1]
