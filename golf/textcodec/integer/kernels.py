"""The integer-exact network, compiled: a pass of some streams over all layers in one call.

Every row that enters a sum is snapped first: integers of a stated number of bits times a power of two, the row's own
or one for all rows. The sums are those of ``golf.textcodec.integer.product``; what lies between is elementwise IEEE
arithmetic, each operation for itself. No multiplication is fused with an addition and nothing is reordered.

Shapes: R rows, one for each token of each stream of a pass; D width, H query heads, K key/value heads, G = H / K, E
head width, M MLP width, V vocabulary, L layers, N blocks, T value tables, B streams, t tokens, C slots.
"""

from __future__ import annotations

import math

import numpy as np

from golf.base import exact as polynomials
from golf.base.exact import MAGIC
from golf.base.jit import kernel, part, step
from golf.textcodec.integer import attention, exact, product
from golf.textcodec.integer.arrays import Scratch
from golf.textcodec.integer.exact import (
    ATTENTION_BITS,
    LOGIT_STEPS,
    POWERS,
    ZERO,
    exp_nonpositive,
    grid,
    sigmoid,
    snap_row,
)
from golf.textcodec.integer.product import PANEL, multiply

__all__ = ["run_pass"]


@step
def _inverse(left, r, size, unit, eps):  # type: ignore[no-untyped-def]
    """1 over the root mean square of a snapped row."""
    total = np.int64(0)
    for c in range(size):
        value = np.int32(left[r, c])
        total += np.int64(value * value)
    return 1.0 / math.sqrt(np.float64(total) * (unit * unit) / size + eps)


@part(_nrt=False)
def _enter(weights, layers, scratch, layer, tokens, mixed):  # type: ignore[no-untyped-def]
    """What the layer adds in front of its block, and the block's mix with the embedding, into ``mixed``."""
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
                x[r, c] = layers.stay[layer, c] * x[r, c] + layers.skip[layer, c] * scratch.kept[taken, r, c]
        for c in range(size):
            mixed[r, c] = mix[0, c] * x[r, c] + mix[1, c] * x0[r, c]


@part(_nrt=False)
def _norm_rows(scratch, x, eps, scale):  # type: ignore[no-untyped-def]
    """Snap the rows of ``x``, to be divided by their root mean squares and multiplied by ``scale``; whether all had a
    size."""
    size, fine = x.shape[1], True
    for r in range(x.shape[0]):
        scratch.unit[r] = snap_row(x, r, size, scratch.left)
        fine = fine and scratch.unit[r] > 0.0
        scratch.inverse[r] = _inverse(scratch.left, r, size, scratch.unit[r], eps) * scale
    return fine


@step
def _open_gates(weights, block, scratch, r):  # type: ignore[no-untyped-def]
    """How much of each head's output goes on, from the row of ``left`` that the heads read."""
    for h in range(weights.gate.shape[1]):
        total = np.int64(0)
        for c in range(weights.gate.shape[2]):
            total += np.int64(scratch.left[r, c]) * weights.gate[block, h, c]
        reads = np.float64(total) * weights.gate_unit[block, h] * (scratch.unit[r] * scratch.inverse[r])
        scratch.gates[r, h] = sigmoid(0.5 * reads)


@part(_nrt=False)
def _heads(shape, weights, block, scratch, ring, layer, place):  # type: ignore[no-untyped-def]
    """Queries, keys and values of the pass from the rows of ``z``: normalized, rotated, snapped, kept. ``place``: first
    stream, tokens of each, position of the first, cosine, sine (t, E / 2)."""
    stream, tokens, position, cos, sin = place
    heads, width, half = shape.heads, shape.head_dim, shape.turned // 2
    z, x, left, slots = scratch.z, scratch.y, scratch.left, 16 * ring.keys.shape[3]
    key_scale = POWERS[ZERO + ATTENTION_BITS - shape.key_exponent]
    value_scale = POWERS[ZERO + ATTENTION_BITS - weights.value_exponent[block]]
    for r in range(z.shape[0]):
        t, b = r % tokens, stream + r // tokens
        slot, scale = (position + t) % slots, scratch.unit[r] * scratch.inverse[r]
        if weights.gate.shape[2]:
            _open_gates(weights, block, scratch, r)
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
            for e in range(2 * half, width):
                x[r, e] = grid((np.float64(left[r, e]) * unit) * inverse, key_scale)
            if h < heads:
                for e in range(width):
                    scratch.q[r, h, e] = np.int16(np.int32(x[r, e]))
            else:
                k = h - heads
                for e in range(width):
                    ring.keys[layer, b, k, slot // PANEL, e // 2, slot % PANEL, e % 2] = np.int16(np.int32(x[r, e]))


@part(_nrt=False)
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


@part(_nrt=False)
def _add(scratch, units, scales):  # type: ignore[no-untyped-def]
    """The rows of ``z`` times their ``units`` (D,) and ``scales`` (D,) join the residual stream."""
    for r in range(scratch.z.shape[0]):
        for c in range(scratch.x.shape[1]):
            scratch.x[r, c] = scratch.x[r, c] + scales[c] * (scratch.z[r, c] * units[c] * scratch.unit[r])


@part(_nrt=False)
def _attend_rows(shape, weights, block, scratch, ring, place):  # type: ignore[no-untyped-def]
    """Attention of all rows, gated and snapped; whether all had a size. ``place``: layer, first stream, tokens of each,
    position of the first, exclusive."""
    layer, stream, tokens, position, exclusive = place
    fine = True
    for r in range(scratch.z.shape[0]):
        at = (layer, r, stream + r // tokens, position + r % tokens, scratch.first[r], exclusive)
        attention.attend(shape, weights, block, scratch, ring, at)
        if weights.gate.shape[2]:
            for c in range(scratch.y.shape[1]):
                scratch.y[r, c] = scratch.y[r, c] * scratch.gates[r, c // shape.head_dim]
        scratch.unit[r] = snap_row(scratch.y, r, shape.heads * shape.head_dim, scratch.left)
        fine = fine and scratch.unit[r] > 0.0
    return fine


@part(_nrt=False)
def _hold(scratch, units, scales):  # type: ignore[no-untyped-def]
    """As ``_add``, but into ``mixed`` alone."""
    for r in range(scratch.z.shape[0]):
        for c in range(scratch.x.shape[1]):
            scratch.mixed[r, c] = scales[c] * (scratch.z[r, c] * units[c] * scratch.unit[r])


@part(_nrt=False)
def _cross(layers, layer, scratch, units, scales):  # type: ignore[no-untyped-def]
    """Both lanes, from both old ones, what attention gave (in ``mixed``) and the rows of ``z``."""
    carry, shares = layers.carry[layer], layers.shares[layer]
    for r in range(scratch.z.shape[0]):
        for c in range(scratch.x.shape[1]):
            attended, thought = scratch.mixed[r, c], scales[c] * (scratch.z[r, c] * units[c] * scratch.unit[r])
            scratch.x[r, c] = carry[0] * scratch.x[r, c] + shares[0, 0] * attended + shares[1, 0] * thought
            scratch.lane[r, c] = carry[1] * scratch.lane[r, c] + shares[0, 1] * attended + shares[1, 1] * thought


@part(_nrt=False)
def _finish(shape, weights, scratch, logits, first):  # type: ignore[no-untyped-def]
    """Softcapped logits in whole steps from the rows of ``z``, into ``logits`` (., V) from row ``first`` on."""
    steps, z = shape.cap * LOGIT_STEPS, scratch.z
    for r in range(z.shape[0]):
        for v in range(logits.shape[1]):
            value = z[r, v] * weights.head_unit[v] * scratch.unit[r]
            decay = exp_nonpositive(-2.0 * (abs(value) / shape.cap))
            n = (((1.0 - decay) / (1.0 + decay)) * steps + MAGIC) - MAGIC
            logits[first + r, v] = np.int32(n if value >= 0.0 else -n)


@part(_nrt=False)
def _normed_hidden(shape, scratch):  # type: ignore[no-untyped-def]
    """The final norm of ``x``, snapped for the head; also that of smeared embeddings."""
    size, fine = scratch.x.shape[1], _norm_rows(scratch, scratch.x, shape.eps, 1.0)
    for r in range(scratch.x.shape[0]):
        for c in range(size):
            scratch.x[r, c] = np.float64(scratch.left[r, c]) * scratch.unit[r] * scratch.inverse[r]
        scratch.unit[r] = snap_row(scratch.x, r, size, scratch.left)
        fine = fine and scratch.unit[r] > 0.0
    return fine


@part(_nrt=False)
def _copy(x, to):  # type: ignore[no-untyped-def]
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            to[r, c] = x[r, c]


@step
def _add_hashes(hashes, token, one, two, x, r):  # type: ignore[no-untyped-def]
    """The rows of the bigram and the trigram that end with ``token`` join row ``r``; ``one``, ``two``: the tokens
    before it, -1: none."""
    last = len(hashes) - 1  # of what has no token before it
    mixed = (36313 * token) ^ (27191 * one)
    bigram = last if one < 0 else mixed % last
    trigram = last if two < 0 else (mixed ^ (51497 * two)) % last
    for c in range(x.shape[1]):
        x[r, c] = x[r, c] + (hashes[bigram, c] + hashes[trigram, c])


@part(_nrt=False)
def _embed(shape, weights, scratch, ring, ids, place):  # type: ignore[no-untyped-def]
    """Embeddings of ``ids`` into ``x`` and ``x0``, smeared, hashed and normed where the model does that, and the first
    position that each token sees; whether all had a size. ``place``: first stream, tokens of each, first position."""
    x, size, fine = scratch.x, scratch.x.shape[1], True
    for r in range(len(ids)):
        t, b = r % place[1], place[0] + r // place[1]
        one, two = (-1, -1) if ids[r] == shape.bos else (ring.last[b, 0], ring.last[b, 1])
        for c in range(size):
            x[r, c] = weights.embedding[ids[r], c]
        if len(weights.smear) and one >= 0:
            for c in range(size):
                x[r, c] = x[r, c] + weights.smear[ids[r]] * weights.embedding[one, c]
        if len(weights.hashes):
            _add_hashes(weights.hashes, ids[r], one, -1 if one == shape.bos else two, x, r)
        ring.first[b] = place[2] + t if ids[r] == shape.bos else ring.first[b]
        ring.last[b, 1], ring.last[b, 0], scratch.first[r] = ring.last[b, 0], ids[r], ring.first[b]
    if len(weights.smear) or len(weights.hashes):
        fine = _normed_hidden(shape, scratch)
    for r in range(len(ids)):
        for c in range(size):
            scratch.x0[r, c] = x[r, c]
    return fine


@kernel(parts=(polynomials, exact, product, attention), _nrt=False)
def run_pass(shape, weights, layers, ring, scratch, ids, place, logits):  # type: ignore[no-untyped-def]
    """Feed ``ids`` (B' t,) to the streams from ``place[0]`` on; their logits into ``logits`` (B' t, V) int32, in whole
    steps. ``place``: first stream, position of the first token, cosine and sine (t, turned / 2) of all, and t. False
    when numbers grew beyond what this arithmetic has."""
    rows, tokens = len(ids), place[4]
    work = Scratch(
        scratch.x[:rows], scratch.x0[:rows], scratch.kept[:, :rows], scratch.z[:rows], scratch.left[:rows],
        scratch.unit, scratch.inverse, scratch.q, scratch.v, scratch.y[:rows], scratch.scores, scratch.weights,
        scratch.sums, scratch.totals, scratch.mixed[:rows], scratch.lane[:rows], scratch.first, scratch.gates,
    )  # fmt: skip
    fine = _embed(shape, weights, work, ring, ids, (place[0], tokens, place[1]))
    lanes = False
    for layer in range(len(layers.block)):
        block, scale, lanes = layers.block[layer], layers.scale[layer], layers.lanes[layer] > 0
        if layers.lanes[layer] == 1:
            _copy(work.x, work.lane)
        mixed, thinks = (work.mixed, work.lane) if lanes else (work.x, work.x)
        _enter(weights, layers, work, layer, ids, mixed)
        fine = _norm_rows(work, mixed, shape.eps, scale) and fine
        multiply(work.left, weights.qkv[block], work.z)
        _heads(shape, weights, block, work, ring, layer, (place[0], tokens, place[1], place[2], place[3]))
        at = (layer, place[0], tokens, place[1], layers.exclusive[layer])
        fine = _attend_rows(shape, weights, block, work, ring, at) and fine
        multiply(work.left, weights.output[block], work.z)
        if lanes:
            _hold(work, weights.output_unit[block], weights.attention_scale[block])
        else:
            _add(work, weights.output_unit[block], weights.attention_scale[block])
        fine = _norm_rows(work, thinks, shape.eps, scale) and fine
        multiply(work.left, weights.mlp_input[block], work.z)
        fine = _squares(shape, weights, block, work) and fine
        multiply(work.left, weights.mlp_output[block], work.z)
        if lanes:
            _cross(layers, layer, work, weights.mlp_output_unit[block], weights.mlp_scale[block])
        else:
            _add(work, weights.mlp_output_unit[block], weights.mlp_scale[block])
        if layers.kept[layer] >= 0:
            _copy(work.x, work.kept[layers.kept[layer]])
    if lanes:
        for r in range(rows):
            for c in range(work.x.shape[1]):
                work.x[r, c] = (work.x[r, c] + work.lane[r, c]) * 0.5
    fine = _normed_hidden(shape, work) and fine
    multiply(work.left, weights.head, work.z)
    _finish(shape, weights, work, logits, 0)
    return fine
