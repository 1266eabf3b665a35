"""The arrays that the kernels of the integer-exact network take.

Shapes: R rows, one for each token of each stream of a pass; D width, H query heads, K key/value heads, E head width, V
vocabulary, L layers, N blocks, T value tables, B streams, C slots, W channels that a gate reads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Layers", "Ring", "Scratch", "Shape", "Weights"]


class Shape(NamedTuple):
    """Numbers of the model. ``key_exponent``: a bound of normalized heads, 2^that; ``turned``: channels of a head that
    the rotary embedding turns; ``bos``: before it nothing is seen, -1: never."""

    heads: int
    kv_heads: int
    head_dim: int
    key_exponent: int
    eps: float
    slope: float
    cap: float
    turned: int
    bos: int


class Weights(NamedTuple):
    """Of N blocks: matrices in panels (N, P, I / 2, 16, 2) int16 with the power of two of each output, (N, O);
    vectors float64. ``embedding`` (V, D), normalized unless something joins it: ``smear`` (V,), how much of the
    embedding before, or ``hashes``, rows (., D) that the bigram and the trigram choose; both may be empty. ``tables``
    (T, V, D); the head is (P, D / 2, 16, 2), (V,). ``gate`` (N, H, W) int64 of the heads and its units; W may be 0."""

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
    gate: np.ndarray
    gate_unit: np.ndarray
    smear: np.ndarray
    hashes: np.ndarray


class Layers(NamedTuple):
    """What an effective layer (L,) adds to its input: ``loop`` (L, D), ``mixes`` (L, T, D) of the value tables, and
    ``skip`` (L, D) times what was kept in place ``taken``, to ``stay`` (L, D) times its input; where its output is
    ``kept``. -1: nothing, nowhere. ``scale`` of its norms. ``lanes``: 1 in the first layer with two lanes, 2 in the
    others; ``carry`` (L, 2) of both, ``shares`` (L, 2, 2) of attention and MLP to each."""

    block: np.ndarray
    exclusive: np.ndarray
    loop: np.ndarray
    mixes: np.ndarray
    skip: np.ndarray
    taken: np.ndarray
    kept: np.ndarray
    stay: np.ndarray
    scale: np.ndarray
    lanes: np.ndarray
    carry: np.ndarray
    shares: np.ndarray


class Ring(NamedTuple):
    """Kept keys (L, B, K, C / 16, E / 2, 16, 2) and values (L, B, K, E / 16, C / 2, 16, 2), int16: panels of
    ``golf.textcodec.integer.product``. The key of position p is in slot p modulo C; nothing is ever moved.
    ``first`` (B,): where the text of each stream begins that may be seen; ``last`` (B, 2) tokens of each, -1: none."""

    keys: np.ndarray
    values: np.ndarray
    window: int
    first: np.ndarray
    last: np.ndarray


class Scratch(NamedTuple):
    """Room for one pass of R rows; ``kept`` (places, R, D). ``mixed`` and ``lane`` (R, D): what attention reads and the
    MLP's lane, where there are two; ``first`` (R,): the first position that a token sees; ``gates`` (R, H)."""

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
    mixed: np.ndarray
    lane: np.ndarray
    first: np.ndarray
    gates: np.ndarray
