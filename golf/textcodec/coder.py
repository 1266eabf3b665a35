"""One step of all streams, compiled: from rows of logits to coded or decoded tokens.

For each stream in order: document bias, mixture, integer frequencies, range coder; then bias and mixture learn the
token. So stream 5 at step 9 already knows the tokens of streams 0 to 4. The bias is that of ``golf.mixture.bias``,
learned after every token (the batch scorer waits for a chunk because a neural pass has many rows; here there is one row
at a time). All of it is elementwise IEEE arithmetic with fixed polynomials for exp and log (``golf.base.exact``) and
sums in a stated order: the same bits on any machine and build.

Shapes: S streams, V vocabulary, N tokens of a block.
"""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

import numpy as np

from golf.base import exact
from golf.base.exact import exp, log
from golf.base.jit import kernel, part, step
from golf.base.params import to_dict
from golf.mixture import backoff, cascade, document, expert, gate, mixture, tree
from golf.mixture.config import MixtureConfig
from golf.mixture.mixture import learn, look
from golf.textcodec import range_coder
from golf.textcodec.range_coder import SUM_TOLERANCE, decode_symbol, encode_symbol, quantize

__all__ = ["BROKEN", "DAMAGED", "MANY_BYTES", "Bias", "Block", "code_step", "mixture_hash", "new_bias"]

BROKEN, DAMAGED, MANY_BYTES = 1, 2, 3  # what ends a step: a row that is no distribution; the code; the text's bytes
_PARTS = (exact, range_coder, backoff, cascade, document, expert, gate, mixture, tree)


class Bias(NamedTuple):
    """``shared`` (V,) of all text, ``document`` (S, V) of each stream's document, and the ``rates`` (2,) of both."""

    shared: np.ndarray
    document: np.ndarray
    rates: np.ndarray


class Block(NamedTuple):
    """A block in the making: ``tokens`` (N,), known or to be; where each stream begins, ``starts`` (S,); the ``last``
    token of each. ``words`` of the range code, its ``interval`` (2,), ``place`` (1,) in words; ``sizes`` (V,) bytes of
    tokens and ``left`` (1,), what the text may still have; ``counts`` (V,) room for frequencies; ``nats`` (1,)."""

    tokens: np.ndarray
    starts: np.ndarray
    last: np.ndarray
    words: np.ndarray
    interval: np.ndarray
    place: np.ndarray
    sizes: np.ndarray
    left: np.ndarray
    counts: np.ndarray
    nats: np.ndarray


def new_bias(config: MixtureConfig | None, streams: int, vocab_size: int) -> Bias:
    """A bias before the first token; without a mixture, or one without a bias, it never learns."""
    record = config.record if config is not None and config.record.bias else None
    rates = np.zeros(2) if record is None else np.array([record.bias_global_rate, record.bias_document_rate])
    return Bias(np.zeros(vocab_size), np.zeros((streams, vocab_size)), rates)


def mixture_hash(config: MixtureConfig | None) -> str:
    """16 hex digits that name the mixture's configuration; zeros for none."""
    if config is None:
        return "0" * 16
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:16]


@part(_nrt=False)
def _soften(bias, stream, logits, row):  # type: ignore[no-untyped-def]
    """The network's distribution under the bias into ``row`` (V,); entropy in nats, most likely token."""
    size, whole = len(row), len(row) // 8 * 8
    for v in range(size):
        row[v] = logits[stream, v] + (bias.shared[v] + bias.document[stream, v])
    best = 0
    for v in range(size):
        if row[v] > row[best]:
            best = v
    top = row[best]
    mean = 0.0
    for v in range(size):
        row[v] = row[v] - top
    a0, a1, a2, a3, b0, b1, b2, b3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for v in range(0, whole, 4):
        z0, z1, z2, z3 = row[v], row[v + 1], row[v + 2], row[v + 3]
        e0, e1, e2, e3 = exp(z0), exp(z1), exp(z2), exp(z3)
        a0, a1, a2, a3 = a0 + e0, a1 + e1, a2 + e2, a3 + e3
        b0, b1, b2, b3 = b0 + e0 * z0, b1 + e1 * z1, b2 + e2 * z2, b3 + e3 * z3
        row[v], row[v + 1], row[v + 2], row[v + 3] = e0, e1, e2, e3
    total, mean = (a0 + a1) + (a2 + a3), (b0 + b1) + (b2 + b3)
    for v in range(whole, size):
        z = row[v]
        row[v] = exp(z)
        total += row[v]
        mean += row[v] * z
    part = 1.0 / total if total >= 1.0 else np.nan  # the likeliest alone adds 1, unless logits are no numbers
    for v in range(size):
        row[v] = row[v] * part
    return log(total) - mean * part, best


@step
def _learn_bias(bias, stream, row, token, starts_document):  # type: ignore[no-untyped-def]
    for v in range(len(row)):
        bias.shared[v] = bias.shared[v] - bias.rates[0] * row[v]
    bias.shared[token] += bias.rates[0]
    if starts_document:
        for v in range(len(row)):
            bias.document[stream, v] = 0.0
    else:
        for v in range(len(row)):
            bias.document[stream, v] = bias.document[stream, v] - bias.rates[1] * row[v]
        bias.document[stream, token] += bias.rates[1]


@kernel(parts=_PARTS, _nrt=False)
def code_step(online, mixes, bias, block, logits, at, decoding):  # type: ignore[no-untyped-def]
    """Code or decode one token of each of the first streams. ``logits`` (S, V) float64, ``at``: the step, how many
    streams have one, bits of frequencies, BOS. 0, or what has ended it."""
    step, active, bits, bos = at
    for stream in range(active):
        row = online.rows[0]
        entropy, best = _soften(bias, stream, logits, row)
        coded = row
        if mixes:
            look(online, stream, entropy, best)
            coded = online.rows[len(online.rows) - 1]
        if not abs(quantize(coded, bits, block.counts) - 1.0) <= SUM_TOLERANCE:
            return BROKEN
        position = block.starts[stream] + step
        if decoding:
            token = decode_symbol(block.interval, block.words, block.place, block.counts, bits)
            if token < 0:
                return DAMAGED
            block.left[0] -= block.sizes[token]
            if block.left[0] < 0:
                return MANY_BYTES
            block.tokens[position] = token
        else:
            token = block.tokens[position]
            encode_symbol(block.interval, block.words, block.place, block.counts, token, bits)
        block.nats[0] -= log(max(coded[token], 1e-300))
        if mixes:
            _learn_bias(bias, stream, row, token, token == bos)
            learn(online, stream, token, token == bos)
        block.last[stream] = token
    return 0
