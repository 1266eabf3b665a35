"""Quantized tensors and models, and the arithmetic that turns integers back into float weights.

``R`` rows, ``C`` columns. A weight is ``value * row step * column step``; with a trellis the value is read off the path
of states. Everything here is IEEE arithmetic on integers and stored constants (no libm), so every machine
reconstructs the same float32 bits. Format: docs/format.md, "Grids".

Trellis-coded quantization (TCQ): integers k read along a path of states, about 1.1 dB better than rounding.

Each weight has one integer k. In state s it means the value (2 k + (s & 1)) / 2 in units of the step, and the next
state is ``table[s][k & 1]``; every row starts in state 0. Neighboring states use grids shifted by half a step, and the
code decides which of them may follow, so the grid is twice as fine at the bytes of the coarse one. Source: Marcellin
& Fischer 1990, Ungerboeck's one-dimensional codes (1987, table I); entropy-coded TCQ as in VVC and NNC. The search for
the best path is part of ``golf.quantize.gptq``.

Decoding is table look-up and pure integer work, eight columns at a time. Shapes: R rows, C columns, S = 8 states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golf.base.errors import GolfError

__all__ = [
    "NEXT_STATES", "QuantizedModel", "QuantizedTensor", "ROLES", "column_steps", "parent_table", "row_steps",
    "trellis_values",
]  # fmt: skip

NEXT_STATES = ((0, 2), (5, 7), (1, 3), (4, 6), (2, 0), (7, 5), (3, 1), (6, 4))
"""The trellis, docs/format.md: next state by state and k & 1."""


def parent_table() -> np.ndarray:
    """int64 (S, 2, 3): for each state its two incoming branches as (from state, k & 1, 2 k + (state & 1) modulo 4)."""
    branches: list[list[tuple[int, int, int]]] = [[] for _ in NEXT_STATES]
    for state, pair in enumerate(NEXT_STATES):
        for bit, after in enumerate(pair):
            branches[after].append((state, bit, 2 * bit + (state & 1)))
    return np.array(branches, dtype=np.int64)


@cache
def _byte_tables() -> tuple[np.ndarray, np.ndarray]:
    """Eight steps at once, by state * 256 + byte of eight k & 1 (first column highest): state after, state parities."""
    table = np.array(NEXT_STATES, dtype=np.int64)
    state = np.repeat(np.arange(len(table)), 256)
    byte = np.tile(np.arange(256), len(table))
    parities = np.zeros(len(state), dtype=np.int64)
    for shift in range(7, -1, -1):
        parities = parities * 2 + (state & 1)
        state = table[state, (byte >> shift) & 1]
    return state * 256, parities.astype(np.uint8)


def trellis_values(values: np.ndarray) -> np.ndarray:
    """Values in units of the step, float32 (R, C), of integers k ``values`` int16 (R, C); exact multiples of 0.5."""
    out = np.empty(values.shape, np.float32)
    some = max(1, (1 << 24) // max(1, values.shape[1]))
    for i in range(0, len(values), some):  # steps between need several times the memory
        out[i : i + some] = _trellis_values(np.ascontiguousarray(values[i : i + some]))
    return out


def _trellis_values(values: np.ndarray) -> np.ndarray:
    num_rows, num_columns = values.shape
    after, parities = _byte_tables()
    bits = np.packbits((values & 1).astype(np.uint8), axis=1)  # zero padded: the padding's parities are cut off below
    path = np.empty((bits.shape[1], num_rows), dtype=np.uint8)
    state = np.zeros(num_rows, dtype=np.int64)
    for i, column in enumerate(np.ascontiguousarray(bits.T)):
        index = state + column
        path[i] = parities[index]
        state = after[index]
    out = np.unpackbits(np.ascontiguousarray(path.T), axis=1, count=num_columns).astype(np.float32)
    out *= np.float32(0.5)
    out += values
    return out


ROLES = ("embedding", "attention", "mlp", "control")
# 2^(i/8) rounded to float32 and written out: no power function is called on either side
_EIGHTHS = tuple(
    float.fromhex(text)
    for text in (
        "0x1.000000p+0",
        "0x1.172b84p+0",
        "0x1.306fe0p+0",
        "0x1.4bfdaep+0",
        "0x1.6a09e6p+0",
        "0x1.8ace54p+0",
        "0x1.ae89fap+0",
        "0x1.d5818ep+0",
    )
)


def _octaves(codes: NDArray[np.int8], per_octave: int) -> NDArray[np.float32]:
    whole = codes.astype(np.int32)
    part = np.array(_EIGHTHS[:: 8 // per_octave], np.float32)[whole % per_octave]
    steps: NDArray[np.float32] = np.ldexp(part, whole // per_octave)  # exact: only the exponent moves
    return steps


def row_steps(scale: NDArray[np.float16] | NDArray[np.int8]) -> NDArray[np.float32]:
    """Steps (R,) float32 of rows: fp16 steps as they are, int8 codes ``c`` mean ``2^(c/8)``."""
    return _octaves(scale.astype(np.int8), 8) if scale.dtype == np.int8 else scale.astype(np.float32)


def column_steps(codes: NDArray[np.int8]) -> NDArray[np.float32]:
    """Steps (C,) float32 of columns: int8 codes ``c`` mean ``2^(c/4)``."""
    return _octaves(codes, 4)


@dataclass(frozen=True)
class QuantizedTensor:
    """One matrix as integers and steps; invariants are checked on construction (``GolfError`` names the tensor)."""

    name: str
    role: str  # one of ROLES
    shape: tuple[int, ...]  # shape in the model; the last axis is the columns, all others are rows
    values: NDArray[np.int16]  # (R, C), never clipped on the way into a file
    row_scale: NDArray[np.float16] | NDArray[np.int8]  # (R,) steps, or codes of 1/8 octave
    column_codes: NDArray[np.int8] | None = None  # (C,) codes of 1/4 octave
    trellis: bool = False  # values are indices along the 8-state trellis

    def __post_init__(self) -> None:
        rows, columns = math.prod(self.shape[:-1]), self.shape[-1] if self.shape else 0
        if len(self.shape) < 2 or self.values.shape != (rows, columns) or self.values.dtype != np.int16:
            found = f"{self.values.dtype} {self.values.shape}"
            raise GolfError(f"{self.name}: integers are {found}, expected int16 {(rows, columns)} for {self.shape}")
        if self.role not in ROLES:
            raise GolfError(f"{self.name}: role is {self.role!r:.60}, expected one of {', '.join(ROLES)}")
        scale, codes = self.row_scale, self.column_codes
        if scale.shape != (rows,) or scale.dtype not in (np.float16, np.int8):
            found = f"{scale.dtype} {scale.shape}"
            raise GolfError(f"{self.name}: row scales are {found}, expected float16 or int8 ({rows},)")
        if scale.dtype == np.float16 and not (np.isfinite(scale) & (scale >= 0)).all():
            raise GolfError(f"{self.name}: a row step is negative or not finite")
        if codes is not None and (codes.shape != (columns,) or codes.dtype != np.int8):
            raise GolfError(f"{self.name}: column codes are {codes.dtype} {codes.shape}, expected int8 ({columns},)")

    def dequantize(self) -> NDArray[np.float32]:
        """Float weights of shape ``shape``: ``float32(value) * row step * column step``, in this order."""
        if self.trellis:
            from golf.quantize.tensors import trellis_values

            weights: NDArray[np.float32] = trellis_values(self.values)
        else:
            weights = self.values.astype(np.float32)
        weights *= row_steps(self.row_scale)[:, None]
        if self.column_codes is not None:
            weights *= column_steps(self.column_codes)
        return weights.reshape(self.shape)


@dataclass(frozen=True)
class QuantizedModel:
    """All of a model after quantization: what `quantize` saves and what the artifact holds."""

    config: dict[str, Any]  # golf.models.registry.config_to_dict
    vocab_size: int
    tensors: dict[str, QuantizedTensor]
    plain: dict[str, NDArray[np.float16] | NDArray[np.float32]] = field(default_factory=dict)  # control tensors
    aliases: dict[str, str] = field(default_factory=dict)  # tied name -> the name that holds the data

    def num_weights(self) -> int:
        """Stored numbers, tied storage once."""
        return sum(t.values.size for t in self.tensors.values()) + sum(a.size for a in self.plain.values())

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Float32 arrays under every name of the model's state dict; tied names share one array."""
        arrays = {name: tensor.dequantize() for name, tensor in self.tensors.items()}
        arrays |= {name: array.astype(np.float32) for name, array in self.plain.items()}
        return arrays | {alias: arrays[name] for alias, name in self.aliases.items()}
