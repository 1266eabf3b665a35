"""Attention of one token over the ring of kept keys, in exact sums.

Shapes: H query heads, K key/value heads, G = H / K, E head width, C slots of the ring.
"""

from __future__ import annotations

import numpy as np

from golf.base.exact import MAGIC
from golf.base.jit import part, step
from golf.textcodec.integer.exact import ATTENTION_BITS, POWERS, ZERO, exp_nonpositive, grid
from golf.textcodec.integer.product import GROUP, PANEL, panel_product

__all__ = ["attend"]


@part(fastmath={"reassoc", "nsz", "nnan"})  # the largest number is the same in any order
def _highest(scores, g, first, end):  # type: ignore[no-untyped-def]
    top = scores[g, first]
    for c in range(first + 1, end):
        top = scores[g, c] if scores[g, c] > top else top
    return top


@step
def _score(q_at, keys_at, group, width, scores, first, end):  # type: ignore[no-untyped-def]
    """Products of the queries of a group with the keys of slots ``first`` to ``end``, and of their panels."""
    begin = first // PANEL
    for g in range(group):
        for c in range(PANEL * begin, -(-end // PANEL) * PANEL):
            scores[g, c] = 0.0
    for panel in range(begin, -(-end // PANEL)):
        for e in range(0, width, GROUP):
            panel_product(
                group, q_at + 2 * e, 2 * width, keys_at + 2 * PANEL * (panel * width + e), min(GROUP, width - e) // 2,
                scores.ctypes.data + 8 * PANEL * panel, 8 * scores.shape[1],
            )  # fmt: skip


@step
def _soften(scores, weights, g, high, first, end):  # type: ignore[no-untyped-def]
    """Integer softmax weights of the scores; their sum."""
    one, total = np.float64(1 << ATTENTION_BITS), np.int64(0)
    for c in range(first, end):
        weights[g, c] = np.int16(np.int32((exp_nonpositive(scores[g, c] - high) * one + MAGIC) - MAGIC))
    for c in range(first, end):
        total += np.int64(weights[g, c])
    return total


@step
def _average(weights, values_at, group, sums, first, end):  # type: ignore[no-untyped-def]
    """The weighted values of slots ``first`` to ``end`` join ``sums`` (G, 16 P). ``first`` is even."""
    slots = weights.shape[1]
    for panel in range(sums.shape[1] // PANEL):
        for c in range(first, end, GROUP):
            panel_product(
                group, weights.ctypes.data + 2 * c, 2 * slots, values_at + 2 * PANEL * (panel * slots + c),
                (min(GROUP, end - c) + 1) // 2, sums.ctypes.data + 8 * PANEL * panel, 8 * sums.shape[1],
            )  # fmt: skip


@step
def _exclude(y, r, first, own, unit):  # type: ignore[no-untyped-def]
    """``y`` without its projection on the own value: ``y - (y . v / v . v) v``, both sums over grid numbers."""
    scale, dot, square = 1.0 / unit, np.int64(0), np.int64(0)
    for e in range(len(own)):
        value = np.int64(own[e])
        dot += np.int64(grid(y[r, first + e], scale)) * value
        square += value * value
    share = (np.float64(dot) * (unit * unit)) / max(np.float64(square) * (unit * unit), 1e-24)
    for e in range(len(own)):
        y[r, first + e] = y[r, first + e] - share * (own[e] * unit)


@part(_nrt=False)
def attend(shape, weights, block, scratch, ring, place):  # type: ignore[no-untyped-def]
    """Row ``r`` of ``scratch.y`` (R, H E) from its queries. ``place``: layer, r, stream, position,
    the first position that may be seen, exclusive."""
    layer, r, stream, position, earliest, exclusive = place
    group, width, slots = shape.heads // shape.kv_heads, shape.head_dim, PANEL * ring.keys.shape[3]
    begin, after = max(earliest, position - ring.window + 1) % slots, position % slots + 1
    # the query sees one run of slots, or two where the ring wraps
    runs = ((begin, after), (0, 0)) if begin < after else ((begin, slots), (0, after))
    exponent = weights.value_exponent[block]
    unit = POWERS[ZERO + exponent - ATTENTION_BITS]
    score_unit = POWERS[ZERO + 2 * (shape.key_exponent - ATTENTION_BITS)]
    for k in range(shape.kv_heads):
        at = (layer * ring.keys.shape[1] + stream) * shape.kv_heads + k
        q_at = scratch.q.ctypes.data + 2 * width * (shape.heads * r + k * group)
        for first, end in runs:
            if first < end:
                keys_at = ring.keys.ctypes.data + 2 * slots * width * at
                _score(q_at, keys_at, group, width, scratch.scores, first, end)
        for g in range(group):
            gain, high = weights.gain[block, k * group + g], -np.inf
            for c in range(slots):
                scratch.weights[g, c] = 0
            for first, end in runs:
                if first < end:
                    for c in range(first, end):
                        scratch.scores[g, c] = scratch.scores[g, c] * score_unit * gain
                    high = max(high, _highest(scratch.scores, g, first, end))
            total = np.int64(0)
            for first, end in runs:
                total += _soften(scratch.scores, scratch.weights, g, high, first, end)
            scratch.totals[g] = np.float64(total)
            for e in range(scratch.sums.shape[1]):
                scratch.sums[g, e] = 0.0
        values_at = ring.values.ctypes.data + 2 * slots * scratch.sums.shape[1] * at
        # neighbors are multiplied together, so two runs could share a pair: then all slots, most of which are seen
        first, end = (begin // 2 * 2, after) if begin < after else (0, slots)
        _average(scratch.weights, values_at, group, scratch.sums, first, end)
        for g in range(group):
            first = (k * group + g) * width
            for e in range(width):
                scratch.y[r, first + e] = scratch.sums[g, e] * unit / scratch.totals[g]
            if exclusive:
                _exclude(scratch.y, r, first, scratch.v[r, k], unit)
