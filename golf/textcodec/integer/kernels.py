"""The integer-exact network, compiled: a pass of some streams over all layers in one call.

Every row that enters a sum is snapped first: integers of a stated number of bits times a power of two, the row's own
or one for all rows. The sums are those of ``golf.textcodec.integer.product``; what lies between is elementwise IEEE
arithmetic, each operation for itself. No multiplication is fused with an addition and nothing is reordered.

Shapes: R rows, one for each token of each stream of a pass; D width, H query heads, K key/value heads, G = H / K, E
head width, M MLP width, V vocabulary, L layers, N blocks, T value tables, B streams, t tokens, C slots.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from golf.base.jit import kernel, step
from golf.textcodec.integer import attention, exact, product
from golf.textcodec.integer.exact import (
    ATTENTION_BITS,
    LOGIT_STEPS,
    MAGIC,
    POWERS,
    ZERO,
    exp_nonpositive,
    grid,
    snap_row,
)
from golf.textcodec.integer.product import PANEL, product_of

__all__ = ["Layers", "Ring", "Scratch", "Shape", "Weights", "run_pass"]


class Shape(NamedTuple):
    """Numbers of the model. ``key_exponent``: a bound of normalized heads, 2^that."""

    heads: int
    kv_heads: int
    head_dim: int
    key_exponent: int
    eps: float
    slope: float
    cap: float


class Weights(NamedTuple):
    """Of N blocks: matrices in panels (N, P, I / 2, 16, 2) int16 with the power of two of each output, (N, O);
    vectors float64. ``embedding`` (V, D) is normalized, ``tables`` (T, V, D); the head is (P, D / 2, 16, 2), (V,)."""

    embedding: np.ndarray
    tables: np.ndarray
    head: np.ndarray
    head_unit: np.ndarray
    qkv: np.ndarray
    qkv_unit: np.ndarray
    output: np.ndarray
    output_unit: np.ndarray
    mlp_input: np.ndarray
    mlp_input_unit: np.ndarray
    mlp_output: np.ndarray
    mlp_output_unit: np.ndarray
    gain: np.ndarray  # (N, H), divided by the root of E
    value_exponent: np.ndarray  # (N,) int64: a bound of values, 2^that
    attention_scale: np.ndarray  # (N, D)
    mlp_scale: np.ndarray  # (N, D)
    mix: np.ndarray  # (N, 2, D)


class Layers(NamedTuple):
    """What an effective layer (L,) adds to its input: ``loop`` (L, D), ``mixes`` (L, T, D) of the value tables, and
    ``skip`` (L, D) times what was kept in place ``taken``; where its output is ``kept``. -1: nothing, nowhere."""

    block: np.ndarray
    exclusive: np.ndarray
    loop: np.ndarray
    mixes: np.ndarray
    skip: np.ndarray
    taken: np.ndarray
    kept: np.ndarray


class Ring(NamedTuple):
    """Kept keys (L, B, K, C / 16, E / 2, 16, 2) and values (L, B, K, E / 16, C / 2, 16, 2), int16: panels of
    ``golf.textcodec.integer.product``. The key of position p is in slot p modulo C; nothing is ever moved."""

    keys: np.ndarray
    values: np.ndarray
    window: int


class Scratch(NamedTuple):
    """Room for one pass of R rows; ``kept`` (places, R, D)."""

    x: np.ndarray
    x0: np.ndarray
    kept: np.ndarray
    z: np.ndarray
    left: np.ndarray
    unit: np.ndarray
    inverse: np.ndarray
    q: np.ndarray
    v: np.ndarray
    y: np.ndarray
    scores: np.ndarray
    weights: np.ndarray
    sums: np.ndarray
    totals: np.ndarray


@step
def _inverse(left, r, size, unit, eps):  # type: ignore[no-untyped-def]
    """1 over the root mean square of a snapped row."""
    total = np.int64(0)
    for c in range(size):
        value = np.int32(left[r, c])
        total += np.int64(value * value)
    return 1.0 / math.sqrt(np.float64(total) * (unit * unit) / size + eps)


@kernel(parts=(exact,), _nrt=False)
def _enter(weights, layers, scratch, layer, tokens):  # type: ignore[no-untyped-def]
    """What the layer adds in front of its block, and the block's mix with the embedding."""
    x, x0, mix = scratch.x, scratch.x0, weights.mix[layers.block[layer]]
    taken, size = layers.taken[layer], scratch.x.shape[1]
    for r in range(len(tokens)):
        for c in range(size):
            x[r, c] = x[r, c] + layers.loop[layer, c]
        for i in range(weights.tables.shape[0]):
            for c in range(size):
                x[r, c] = x[r, c] + layers.mixes[layer, i, c] * weights.tables[i, tokens[r], c]
        if taken >= 0:
            for c in range(size):
                x[r, c] = x[r, c] + layers.skip[layer, c] * scratch.kept[taken, r, c]
        for c in range(size):
            x[r, c] = mix[0, c] * x[r, c] + mix[1, c] * x0[r, c]


@kernel(parts=(exact,), _nrt=False)
def _norm_rows(scratch, rows, eps):  # type: ignore[no-untyped-def]
    """Snap the rows of ``x``; whether all had a size."""
    size, fine = scratch.x.shape[1], True
    for r in range(rows):
        scratch.unit[r] = snap_row(scratch.x, r, size, scratch.left)
        fine = fine and scratch.unit[r] > 0.0
        scratch.inverse[r] = _inverse(scratch.left, r, size, scratch.unit[r], eps)
    return fine


@kernel(parts=(exact,), _nrt=False)
def _heads(shape, weights, block, scratch, ring, layer, place):  # type: ignore[no-untyped-def]
    """Queries, keys and values of the pass from the rows of ``z``: normalized, rotated, snapped, kept. ``place``: first
    stream, tokens of each, position of the first, cosine, sine (t, E / 2)."""
    stream, tokens, position, cos, sin = place
    heads, width, half = shape.heads, shape.head_dim, shape.head_dim // 2
    z, x, left, slots = scratch.z, scratch.y, scratch.left, 16 * ring.keys.shape[3]
    key_scale = POWERS[ZERO + ATTENTION_BITS - shape.key_exponent]
    value_scale = POWERS[ZERO + ATTENTION_BITS - weights.value_exponent[block]]
    for r in range(z.shape[0]):
        t, b = r % tokens, stream + r // tokens
        slot, scale = (position + t) % slots, scratch.unit[r] * scratch.inverse[r]
        for h in range(heads + 2 * shape.kv_heads):
            for e in range(width):
                column = h * width + e
                x[r, e] = z[r, column] * weights.qkv_unit[block, column] * scale
            if h >= heads + shape.kv_heads:
                k = h - heads - shape.kv_heads
                for e in range(width):
                    value = grid(x[r, e], value_scale)
                    scratch.v[r, k, e] = value
                    ring.values[layer, b, k, e // PANEL, slot // 2, e % PANEL, slot % 2] = np.int16(np.int32(value))
                continue
            unit = snap_row(x, r, width, left)
            inverse = _inverse(left, r, width, unit, shape.eps)
            for e in range(half):
                first = (np.float64(left[r, e]) * unit) * inverse
                second = (np.float64(left[r, half + e]) * unit) * inverse
                c, s = cos[t, e], sin[t, e]
                x[r, e] = grid(first * c + second * s, key_scale)
                x[r, half + e] = grid(second * c - first * s, key_scale)
            if h < heads:
                for e in range(width):
                    scratch.q[r, h, e] = np.int16(np.int32(x[r, e]))
            else:
                k = h - heads
                for e in range(width):
                    ring.keys[layer, b, k, slot // PANEL, e // 2, slot % PANEL, e % 2] = np.int16(np.int32(x[r, e]))


@kernel(parts=(exact,), _nrt=False)
def _squares(shape, weights, block, scratch):  # type: ignore[no-untyped-def]
    """The rows of ``z`` after the first matrix of the MLP: leaky ReLU, squared, snapped."""
    z, hidden, fine = scratch.z, weights.mlp_input_unit.shape[1], True
    for r in range(z.shape[0]):
        scale = scratch.unit[r] * scratch.inverse[r]
        for c in range(hidden):
            h = z[r, c] * weights.mlp_input_unit[block, c] * scale
            h = h * shape.slope if h < 0.0 else h
            z[r, c] = h * h
        scratch.unit[r] = snap_row(z, r, hidden, scratch.left)
        fine = fine and scratch.unit[r] > 0.0
        if hidden % 2:
            scratch.left[r, hidden] = 0
    return fine


@kernel(parts=(exact,), _nrt=False)
def _add(scratch, units, scales):  # type: ignore[no-untyped-def]
    """The rows of ``z`` times their ``units`` (D,) and ``scales`` (D,) join the residual stream."""
    for r in range(scratch.z.shape[0]):
        for c in range(scratch.x.shape[1]):
            scratch.x[r, c] = scratch.x[r, c] + scales[c] * (scratch.z[r, c] * units[c] * scratch.unit[r])


@kernel(parts=(exact,), _nrt=False)
def _finish(shape, weights, scratch, logits, first):  # type: ignore[no-untyped-def]
    """Softcapped logits in whole steps from the rows of ``z``, into ``logits`` (., V) from row ``first`` on."""
    steps, z = shape.cap * LOGIT_STEPS, scratch.z
    for r in range(z.shape[0]):
        for v in range(logits.shape[1]):
            value = z[r, v] * weights.head_unit[v] * scratch.unit[r]
            decay = exp_nonpositive(-2.0 * (abs(value) / shape.cap))
            n = (((1.0 - decay) / (1.0 + decay)) * steps + MAGIC) - MAGIC
            logits[first + r, v] = np.int32(n if value >= 0.0 else -n)


@kernel(parts=(exact,), _nrt=False)
def _normed_hidden(shape, scratch):  # type: ignore[no-untyped-def]
    """The final norm of ``x``, snapped for the head."""
    size, fine = scratch.x.shape[1], _norm_rows(scratch, scratch.x.shape[0], shape.eps)
    for r in range(scratch.x.shape[0]):
        for c in range(size):
            scratch.x[r, c] = np.float64(scratch.left[r, c]) * scratch.unit[r] * scratch.inverse[r]
        scratch.unit[r] = snap_row(scratch.x, r, size, scratch.left)
        fine = fine and scratch.unit[r] > 0.0
    return fine


@kernel(parts=(exact,), _nrt=False)
def _keep(kept, place, x):  # type: ignore[no-untyped-def]
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            kept[place, r, c] = x[r, c]


@kernel(parts=(exact, product, attention), _nrt=False)
def run_pass(shape, weights, layers, ring, scratch, ids, place, logits):  # type: ignore[no-untyped-def]
    """Feed ``ids`` (B' t,) to the streams from ``place[0]`` on; their logits into ``logits`` (B' t, V) int32, in whole
    steps. ``place``: first stream, position of the first token, cosine and sine (t, E / 2) of all, and t. False when
    numbers grew beyond what this arithmetic has."""
    rows, tokens = len(ids), place[4]
    work = Scratch(
        scratch.x[:rows], scratch.x0[:rows], scratch.kept[:, :rows], scratch.z[:rows], scratch.left[:rows],
        scratch.unit, scratch.inverse, scratch.q, scratch.v, scratch.y[:rows], scratch.scores, scratch.weights,
        scratch.sums, scratch.totals,
    )  # fmt: skip
    for r in range(rows):
        for c in range(work.x.shape[1]):
            work.x[r, c] = weights.embedding[ids[r], c]
            work.x0[r, c] = work.x[r, c]
    fine = True
    for layer in range(len(layers.block)):
        block = layers.block[layer]
        _enter(weights, layers, work, layer, ids)
        fine = _norm_rows(work, rows, shape.eps) and fine
        product_of(work.left, weights.qkv[block], work.z)
        _heads(shape, weights, block, work, ring, layer, (place[0], tokens, place[1], place[2], place[3]))
        for r in range(rows):
            at = (place[0] + r // tokens, place[1] + r % tokens, layers.exclusive[layer])
            attention.attend(shape, weights, block, work, ring, (layer, r, at[0], at[1], at[2]))
            work.unit[r] = snap_row(work.y, r, shape.heads * shape.head_dim, work.left)
            fine = fine and work.unit[r] > 0.0
        product_of(work.left, weights.output[block], work.z)
        _add(work, weights.output_unit[block], weights.attention_scale[block])
        fine = _norm_rows(work, rows, shape.eps) and fine
        product_of(work.left, weights.mlp_input[block], work.z)
        fine = _squares(shape, weights, block, work) and fine
        product_of(work.left, weights.mlp_output[block], work.z)
        _add(work, weights.mlp_output_unit[block], weights.mlp_scale[block])
        if layers.kept[layer] >= 0:
            _keep(work.kept, layers.kept[layer], work.x)
    fine = _normed_hidden(shape, work) and fine
    product_of(work.left, weights.head, work.z)
    _finish(shape, weights, work, logits, 0)
    return fine
