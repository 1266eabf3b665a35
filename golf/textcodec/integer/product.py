"""Exact products of 16-bit integers, as fast as the processor multiplies them.

``left @ right`` for int16 ``left`` (M, K) and ``right`` (K, N): products of neighbors in K are summed in 32 bits,
``GROUP`` terms at most, and these sums join float64 sums. While ``GROUP 2^(bits of left + bits of right) < 2^31`` and
the whole sum stays below 2^53 nothing is ever rounded, so the result knows nothing of order, blocks, threads or
instruction set. The inner loop is written in LLVM's own vector operations: pmaddwd or vpdpwssd where there is one,
whatever there is elsewhere, with the same bits.

``right`` is kept in panels (N / 16, K / 2, 16, 2): 16 columns of two neighbors in K stand side by side.
Shapes: M rows, K terms, N columns (a multiple of 16), P panels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from golf.base.jit import kernel, part

__all__ = ["GROUP", "PANEL", "multiply", "pack_panels", "panel_product", "product_of"]

PANEL = 16  # columns side by side: two vectors
GROUP = 64  # terms of a 32-bit sum
_BLOCK = 96  # rows that go through all panels together: they stay in the cache

_INT, _PAIRS, _WIDE = (ir.VectorType(ir.IntType(bits), size) for bits, size in ((32, 8), (16, 16), (32, 16)))
_FLOAT = ir.VectorType(ir.DoubleType(), 8)
_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _shuffle(builder: Any, vector: Any, places: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(_I32, len(places)), [ir.Constant(_I32, place) for place in places])
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def _at(builder: Any, address: Any, offset: Any, kind: Any) -> Any:
    """A pointer to ``kind``, ``offset`` bytes behind ``address``."""
    return builder.inttoptr(builder.add(address, offset), ir.PointerType(kind))


def _products(builder: Any, left: Any, right: Any) -> Any:
    """Sums of the products of neighbors: eight int32 of sixteen int16 each."""
    wide = builder.mul(builder.sext(left, _WIDE), builder.sext(right, _WIDE))
    even, odd = (_shuffle(builder, wide, list(range(first, 16, 2))) for first in (0, 1))
    return builder.add(even, odd)


def _tile(rows: int) -> Any:
    """``tile(left, left_step, right, pairs, out, out_step)``: ``rows`` rows of ``left`` times a panel, added to
    ``out`` (rows, 16) float64. Addresses, and steps between rows, in bytes; ``pairs`` of terms, one or more."""

    def number(value: int) -> Any:
        return ir.Constant(_I64, value)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        left, left_step, right, pairs, out, out_step = args
        starts = [builder.add(left, builder.mul(left_step, number(row))) for row in range(rows)]
        before = builder.block
        loop, end = builder.append_basic_block("pairs"), builder.append_basic_block("sums")
        builder.branch(loop)
        builder.position_at_end(loop)
        at = builder.phi(_I64)
        at.add_incoming(number(0), before)
        sums = [builder.phi(_INT) for _ in range(2 * rows)]
        offset = builder.mul(at, number(4 * PANEL))
        columns = [
            builder.load(_at(builder, right, builder.add(offset, number(32 * i)), _PAIRS), align=2) for i in range(2)
        ]
        after = []
        for row in range(rows):
            pair = builder.load(_at(builder, starts[row], builder.mul(at, number(4)), _I32), align=2)
            one = builder.insert_element(ir.Constant(_INT, ir.Undefined), pair, ir.Constant(_I32, 0))
            spread = builder.bitcast(_shuffle(builder, one, [0] * 8), _PAIRS)
            after += [
                builder.add(sums[2 * row + i], _products(builder, column, spread)) for i, column in enumerate(columns)
            ]
        following = builder.add(at, number(1))
        at.add_incoming(following, loop)
        for total, grown in zip(sums, after, strict=True):
            total.add_incoming(ir.Constant(_INT, [ir.Constant(_I32, 0)] * 8), before)
            total.add_incoming(grown, loop)
        builder.cbranch(builder.icmp_signed("<", following, pairs), loop, end)
        builder.position_at_end(end)
        for row in range(rows):
            place = builder.add(out, builder.mul(out_step, number(row)))
            for i in range(2):
                target = _at(builder, place, number(64 * i), _FLOAT)
                grown = builder.sitofp(after[2 * row + i], _FLOAT)
                builder.store(builder.fadd(builder.load(target, align=8), grown), target, align=8)
        return context.get_dummy_value()

    def typed(typing_context: Any, left: Any, left_step: Any, right: Any, pairs: Any, out: Any, out_step: Any) -> Any:
        return types.void(*(types.int64 for _ in range(6))), generate

    return intrinsic(typed)


_tile6, _tile3, _tile2, _tile1 = _tile(6), _tile(3), _tile(2), _tile(1)


@part(_nrt=False)
def panel_product(rows, left, left_step, right, pairs, out, out_step):  # type: ignore[no-untyped-def]
    """``rows`` of ``left`` times ``pairs`` of terms of one panel, added to ``out``; addresses and steps in bytes."""
    while rows > 0:
        if rows >= 6:
            step = 6
            _tile6(left, left_step, right, pairs, out, out_step)
        elif rows >= 3:
            step = 3
            _tile3(left, left_step, right, pairs, out, out_step)
        elif rows == 2:
            step = 2
            _tile2(left, left_step, right, pairs, out, out_step)
        else:
            step = 1
            _tile1(left, left_step, right, pairs, out, out_step)
        rows -= step
        left += step * left_step
        out += step * out_step


@part(_nrt=False)
def multiply(left, right, out):  # type: ignore[no-untyped-def]
    """The first 16 P columns of ``out`` (M, .) float64 become ``left`` (M, K or more) int16 times the panels ``right``
    (P, K / 2, 16, 2) int16."""
    rows, pairs = left.shape[0], right.shape[1]
    left_at, right_at, out_at = left.ctypes.data, right.ctypes.data, out.ctypes.data
    left_step, out_step = left.strides[0], out.strides[0]
    for block in range(0, rows, _BLOCK):
        height = min(rows - block, _BLOCK)
        for r in range(block, block + height):
            for c in range(PANEL * right.shape[0]):
                out[r, c] = 0.0
        for panel in range(right.shape[0]):
            for first in range(0, pairs, GROUP // 2):
                panel_product(
                    height, left_at + block * left_step + 4 * first, left_step,
                    right_at + 4 * PANEL * (panel * pairs + first), min(GROUP // 2, pairs - first),
                    out_at + block * out_step + 8 * PANEL * panel, out_step,
                )  # fmt: skip


product_of = kernel(multiply, _nrt=False)  # for Python


def pack_panels(right: np.ndarray) -> np.ndarray:
    """The panels (P, K / 2, 16, 2) of ``right`` (K, N) int16, with zeros behind an odd K and the last column."""
    terms, columns = right.shape
    padded = np.zeros((-(-terms // 2) * 2, -(-columns // PANEL) * PANEL), np.int16)
    padded[:terms, :columns] = right
    return np.ascontiguousarray(padded.reshape(padded.shape[0] // 2, 2, -1, PANEL).transpose(2, 0, 3, 1))
