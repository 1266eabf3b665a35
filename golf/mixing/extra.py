"""Part E (options): experts beyond plain n-grams, each laid over the mixture so far by a learnt gate.

``P_i(v) = g_i c_i(v) / n_i + (1 - g_i) P_{i-1}(v)``, gates ``g = use / (use + skip)`` learnt by online EM as in part B,
so every step is a distribution when the one below is. What an expert has counted comes from
``golf.mixing.extra_counts``: skip contexts (without the last token), counts of the current document alone, and a match
model (the token that followed the latest occurrence of a long context, trusted by the length of the match).

Shapes: X experts, H entropy buckets, V vocabulary. Sources: document cache of Kuhn and De Mori (1990), match model of
lpaq (Mahoney 2007), skip-grams of Guthrie et al. (2006); the EM gates are those of ``golf.mixing.chain``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from golf.jit import step
from golf.mixing.config import MixtureConfig

__all__ = ["NUM_CELLS", "ExtraState", "extra_row", "extra_score", "new_extra"]

NUM_CELLS = 96  # gate buckets of one expert and entropy bucket, see golf.mixing.extra_counts


class ExtraState(NamedTuple):
    """``use`` and ``skip`` (X, H, 96) float64 pseudo-counts; ``responsibility`` (X,) is scratch of a position."""

    use: np.ndarray
    skip: np.ndarray
    responsibility: np.ndarray
    forgetting: float


def new_extra(config: MixtureConfig) -> ExtraState:
    """Gates before any token, at the prior of the chain."""
    num = len(config.extras)
    shape = (num, len(config.entropy_edges_nats) + 1, NUM_CELLS)
    return ExtraState(
        use=np.full(shape, config.chain_prior_use),
        skip=np.full(shape, config.chain_prior_skip),
        responsibility=np.zeros(num),
        forgetting=config.chain_forgetting,
    )


@step
def extra_score(state, h, n, c, cell, value):  # type: ignore[no-untyped-def]
    """Probability of the target over ``value`` (that of the mixture below), then the EM update.

    ``n``, ``c``, ``cell`` (X,): occurrences of each expert's context (0: it is silent), how many were followed by the
    target, and the gate's bucket, which never depends on the target.
    """
    for i in range(len(n)):
        state.responsibility[i] = 0.0
        if n[i] > 0:
            use = state.use[i, h, cell[i]]
            gate = use / (use + state.skip[i, h, cell[i]])
            here = gate * (c[i] / n[i])
            value = here + (1.0 - gate) * value
            state.responsibility[i] = here / value
    rest = 1.0
    for i in range(len(n) - 1, -1, -1):
        if n[i] > 0:
            share = state.responsibility[i]
            use, skip = state.use[i, h, cell[i]], state.skip[i, h, cell[i]]
            state.use[i, h, cell[i]] = use * state.forgetting + rest * share
            state.skip[i, h, cell[i]] = skip * state.forgetting + rest * (1.0 - share)
            rest *= 1.0 - share
    return value


@step
def extra_row(state, h, n, cell, bounds, successor, count, row):  # type: ignore[no-untyped-def]
    """Lay the experts over ``row`` (V,) in place, learning nothing.

    Expert i's successors are ``successor[bounds[i]:bounds[i + 1]]`` with ``count`` occurrences each.
    """
    for i in range(len(n)):
        if n[i] > 0:
            use = state.use[i, h, cell[i]]
            gate = use / (use + state.skip[i, h, cell[i]])
            for v in range(len(row)):
                row[v] = (1.0 - gate) * row[v]
            for j in range(bounds[i], bounds[i + 1]):
                row[successor[j]] = gate * (count[j] / n[i]) + row[successor[j]]
