"""Quantizers of one row, as the definitions read, for the fast ones to be tested against; and the plain trellis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from golf.quantize.gptq import gptq
from golf.quantize.hessian import identity_factor

__all__ = ["naive_gptq_lite_row", "naive_sdclip_row", "plain_trellis"]


def plain_trellis(weights: NDArray[np.float32], steps: NDArray[np.float32]) -> NDArray[np.int16]:
    """Integers (R, C) of the trellis without a Hessian, ``steps`` (R,)."""
    return gptq(weights, identity_factor(weights.shape[1]), row_steps=steps, trellis=True).values


def _half(step: float) -> np.float16:
    half = np.float16(max(step, 1e-12))
    return half if half > 0 else np.float16(2.0**-24)


def naive_gptq_lite_row(
    row: NDArray[np.float32], levels: int, percentiles: Sequence[float]
) -> tuple[list[int], np.float16]:
    """Integers and fp16 step of one row (C,): every percentile tried in turn, the first strictly best kept."""
    best: tuple[float, list[int], np.float16] | None = None
    for p in percentiles:
        clip = np.quantile(np.abs(row), np.float32(p) if p == 1.0 else p)
        step = _half(float(np.float32(clip) / np.float32(levels)))
        values = [max(-levels, min(levels, int(np.rint(w / np.float32(step))))) for w in row]
        error = sum((float(w) - float(np.float32(q) * np.float32(step))) ** 2 for w, q in zip(row, values, strict=True))
        if best is None or error < best[0]:
            best = (error, values, step)
    assert best is not None
    return best[1], best[2]


def naive_sdclip_row(row: NDArray[np.float32], levels: int, clip: float) -> tuple[list[int], np.float16]:
    """Integers and fp16 step of one row (C,) whose spread is neither zero nor vanishing beside its mean."""
    mean = sum(float(w) for w in row) / len(row)
    variance = sum((float(w) - mean) ** 2 for w in row) / len(row)
    step = _half(clip * variance**0.5 / levels)
    return [int(np.rint(w / np.float32(step))) for w in row], step
