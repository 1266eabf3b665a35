"""From integer logits to probabilities, exact up to one division: the same float64 on any machine.

Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from golf.textcodec.integer.exact import LOGIT_STEPS, exp_nonpositive

__all__ = ["probabilities"]


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Probabilities (R, V) float64 of integer ``logits`` (R, V), in steps of 1 / 1024 nat.

    Weights are integers whose sum stays below 2^53, none 0; their quotients with the sum add up to 1 within 1e-12.
    """
    table = _weights(logits.shape[1])
    below = (logits.max(axis=1, keepdims=True) - logits).astype(np.int64)
    weights = table[np.minimum(below, len(table) - 1)]
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@lru_cache(maxsize=4)
def _weights(vocab_size: int) -> np.ndarray:
    """``round(2^bits exp(-d / 1024))``, at least 1, for d = 0, 1, ... until it is 1."""
    bits = 52 - (vocab_size - 1).bit_length()
    steps = torch.arange(bits * LOGIT_STEPS, dtype=torch.float64)  # exp(-bits) < 2^-bits
    weights = (exp_nonpositive(-steps / LOGIT_STEPS) * 2.0**bits).round().clamp_min(1.0)
    return np.asarray(weights.numpy())
