"""What writer and reader of the artifact share: the prefix, limits, index records, and the rules of its content.

Scale codes of all tensors are small residuals: the input of two matrices is often the same, and so are its codes. Every
vector of codes (N,) int8 is written as a reference u8 (0: none, ``j``: the ``j``-th vector before it, of the same
length), a level i8, and then each code minus the reference's code minus the level, modulo 256. docs/format.md, "Codes".
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golf.artifact.bytes import ArtifactError, Reader
from golf.base.params import quoted
from golf.quantize.tensors import QuantizedModel

__all__ = ["CodeReader", "CodeWriter", "MAGIC", "Record", "Unpacked", "VERSION", "config_bytes", "validate"]

MAGIC = b"GOLF"
VERSION = 2
PREFIX = struct.Struct("<4sHHQQQ32s")  # magic, version, zero, file bytes, weights, payload bytes, SHA-256 of the rest
HASH_AT = PREFIX.size - 32
PLAIN = (np.dtype("<f2"), np.dtype("<f4"))  # grids 0 and 1
MAX_NAME, MAX_CONFIG, MAX_TENSORS, MAX_RANK, MAX_VOCAB = 255, 1 << 16, 1 << 14, 8, 1 << 18
MAX_INDEX, MAX_TOKENIZER, MAX_TABLES = 1 << 23, 1 << 24, 1 << 16
FREE_WEIGHTS, WEIGHTS_PER_BYTE = 1 << 20, 64  # declared by a file at most: less than 1/8 bit a weight is a lie
BLOCKS = ("low", "high", "codes", "side")
CODES_HEAD = 2  # bytes before each vector of scale codes: reference and level


@dataclass(frozen=True)
class Record:
    """One entry of the index. ``grid``: 0 fp16, 1 fp32, else 2 + octave rows + 2 * column codes + 4 * trellis."""

    name: str
    role: str
    grid: int
    shape: tuple[int, ...]
    coder: int = 0
    side_bytes: int = 0
    payload_bytes: int = 0

    octave_rows = property(lambda self: self.grid >= 2 and bool((self.grid - 2) & 1))
    column_codes = property(lambda self: self.grid >= 2 and bool((self.grid - 2) & 2))
    trellis = property(lambda self: self.grid >= 2 and bool((self.grid - 2) & 4))

    @property
    def weights(self) -> int:
        """Numbers in the tensor."""
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """Product of all dimensions but the last."""
        return math.prod(self.shape[:-1])

    @property
    def raw_bytes(self) -> dict[str, int]:
        """Bytes that the tensor has in each of ``BLOCKS``, before compression."""
        if self.grid < 2:
            count, width, codes = self.weights, PLAIN[self.grid].itemsize, 0
        else:
            count, width = 0 if self.octave_rows else self.rows, 2
            codes = (self.rows + CODES_HEAD) * self.octave_rows + (self.shape[-1] + CODES_HEAD) * self.column_codes
        return {"low": count * (width - 1), "high": count, "codes": codes, "side": self.side_bytes}

    @property
    def scale_bytes(self) -> int:
        """Bytes of steps, codes, or (plain tensors) of the numbers themselves, before compression."""
        if self.grid < 2:
            return self.weights * PLAIN[self.grid].itemsize
        return self.rows * (1 if self.octave_rows else 2) + (self.shape[-1] if self.column_codes else 0)


@dataclass(frozen=True)
class Unpacked:
    """A decoded artifact: the model as integers, the tokenizer, the index, and where the bytes went."""

    model: QuantizedModel
    tokenizer: bytes
    records: tuple[Record, ...]
    sections: dict[str, int]  # bytes in the file: prefix, index, low, high, codes, side, tokenizer, payload
    sha256: str
    num_bytes: int


def validate(model: QuantizedModel, tokenizer: bytes) -> None:
    """The rules of an artifact's content; ``ArtifactError`` (``index`` or ``tensor``) says which one is broken."""
    names = [*model.tensors, *model.plain, *model.aliases]
    if not 2 <= model.vocab_size <= MAX_VOCAB:
        raise ArtifactError("index", f"vocabulary of {model.vocab_size} pieces, expected 2 to {MAX_VOCAB}")
    if not isinstance(model.config, dict) or not isinstance(model.config.get("family"), str):
        raise ArtifactError("index", "model config has no `family`")
    if len(config_bytes(model.config)) > MAX_CONFIG:
        raise ArtifactError("index", f"model config has more than {MAX_CONFIG} bytes of JSON")
    if len(set(names)) != len(names) or len(names) > MAX_TENSORS or not tokenizer:
        found = f"{len(names)} names, {len(set(names))} different, {len(tokenizer)} bytes of tokenizer"
        raise ArtifactError("index", f"{found}; expected at most {MAX_TENSORS} distinct names and a tokenizer")
    for name in names:
        if not 1 <= len(name.encode()) <= MAX_NAME or not name.isprintable():
            raise ArtifactError("index", f"tensor name {quoted(name)}, expected 1 to {MAX_NAME} printable bytes")
    for alias, name in model.aliases.items():
        if name not in model.tensors and name not in model.plain:
            raise ArtifactError("index", f"{alias} is tied to {name}, which is not stored")
    for name, tensor in model.tensors.items():
        if tensor.name != name or len(tensor.shape) > MAX_RANK or not tensor.values.size:
            raise ArtifactError("tensor", f"{name}: named {tensor.name} inside, shape {tensor.shape}")
    for name, array in model.plain.items():
        if array.dtype not in PLAIN or array.ndim > MAX_RANK:
            raise ArtifactError("tensor", f"{name}: {array.dtype} of rank {array.ndim}, expected float16 or float32")
        if not np.isfinite(array).all():
            raise ArtifactError("tensor", f"{name}: holds NaN or infinity")


def config_bytes(config: dict[str, Any]) -> bytes:
    return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


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
