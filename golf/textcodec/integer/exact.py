"""Arithmetic in float64 whose results have no rounding that depends on order, shape, threads or instruction set.

Two kinds of operation are allowed. (1) Sums of products of *snapped* numbers: integers of at most ``BITS`` bits times a
power of two that all terms of one sum share. While ``terms * 2^left * 2^right < 2^53`` every partial sum is exact, so
any order, any blocking, fused multiply-add or not, gives the same bits. (2) Elementwise add, subtract, multiply,
divide, square root and rounding, which IEEE 754 defines to the last bit, each as an operation of its own. Library
functions (exp, tanh, sin, pow) are neither: their last bit differs between the body and the tail of a vector loop, and
torch's sqrt on a CPU is one of them.
The exponential is therefore a fixed polynomial of such operations.

On a CPU the loops of ``golf.textcodec.integer.kernels`` do it; elsewhere, and as their reference in the tests, the
``plain`` functions of torch operations, with the same bits.

Shapes: (...) any, C columns, B streams, K key/value heads, G queries of each, t tokens.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from golf.base.errors import GolfError
from golf.textcodec.integer import kernels
from golf.textcodec.integer.kernels import LN2_HIGH, LN2_LOW, LOG2E, LOWEST, TAYLOR

__all__ = [
    "BITS", "LOGIT_STEPS", "IntegerError", "capped_logits", "check_exact", "exp_nonpositive", "exponent_above",
    "normed", "plain_normed", "plain_snap", "plain_squared", "plain_weights", "power_of_two", "snap", "snap_to",
    "softmax_weights", "squared",
]  # fmt: skip

BITS = 20  # of activations, weights, keys, values and softmax weights alike: a sum has room for 8,191 products of two
LOGIT_STEPS = 1024  # logits are integers of 1 / 1024 nat


class IntegerError(GolfError):
    """A model or a size has no exact integer form; the message says which and what to use instead."""


def check_exact(terms: int, left_bits: int, right_bits: int, *, what: str) -> None:
    """Raise ``IntegerError`` unless ``terms`` products of such integers (magnitude up to 2^bits) stay below 2^53."""
    if terms << (left_bits + right_bits) >= 1 << 53:
        raise IntegerError(
            f"{what}: {terms} products of {left_bits}- and {right_bits}-bit integers can pass 2^53, where float64 sums "
            f"begin to round; expected at most {((1 << 53) - 1) >> (left_bits + right_bits)} terms"
        )


def power_of_two(exponent: Tensor) -> Tensor:
    """2^``exponent`` (int64, -1022 to 1023) as float64, built from its bits."""
    return ((exponent + 1023) << 52).view(torch.float64)


def exponent_above(magnitude: Tensor) -> Tensor:
    """The least int64 e with ``magnitude`` < 2^e, for float64 >= 0, held within -200 to 200."""
    return ((magnitude.contiguous().view(torch.int64) >> 52) - 1022).clamp(-200, 200)


def snap(x: Tensor, bits: int = BITS) -> Tensor:
    """``x`` (..., C) float64 rounded to ``bits``-bit integers times a power of two that each row has for itself."""
    if x.device.type != "cpu":
        return plain_snap(x, bits)
    out = torch.empty(x.shape, dtype=x.dtype)
    kernels.snap_rows(_rows(x), bits, _rows(out))
    return out


def plain_snap(x: Tensor, bits: int = BITS) -> Tensor:
    """``snap`` by torch operations."""
    exponent = exponent_above(x.abs().amax(-1, keepdim=True))  # a maximum is exact in any order
    return (x * power_of_two(bits - exponent)).round_().mul_(power_of_two(exponent - bits))


def snap_to(x: Tensor, exponent: int, bits: int = BITS) -> Tensor:
    """``x`` rounded to multiples of 2^(exponent - bits) and held within 2^exponent: one grid for all rows."""
    scale, limit = math.ldexp(1.0, bits - exponent), math.ldexp(1.0, bits)
    return (x * scale).round_().clamp_(-limit, limit).mul_(1.0 / scale)


def normed(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The snapped rows of ``x`` (..., C) and the inverse of their root mean square (..., 1)."""
    if x.device.type != "cpu":
        return plain_normed(x, eps)
    out, inverse = torch.empty(x.shape, dtype=x.dtype), torch.empty((*x.shape[:-1], 1), dtype=x.dtype)
    kernels.norm_rows(_rows(x), BITS, eps, _rows(out), _rows(inverse))
    return out, inverse


def plain_normed(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``normed`` by torch operations."""
    rows = plain_snap(x)
    mean = (rows * rows).sum(-1, keepdim=True) / rows.size(-1)
    return rows, torch.ones_like(mean) / _sqrt(mean + eps)


def squared(z: Tensor, inverse: Tensor, slope: float) -> Tensor:
    """``leaky_relu(z * inverse)^2``, snapped, in place of ``z`` (..., C); ``inverse`` (..., 1)."""
    if z.device.type != "cpu":
        return plain_squared(z, inverse, slope)
    kernels.snap_squares(_rows(z), _rows(inverse), slope, BITS)
    return z


def plain_squared(z: Tensor, inverse: Tensor, slope: float) -> Tensor:
    """``squared`` by torch operations."""
    h = z * inverse
    h = torch.where(h < 0, h * slope, h)
    return plain_snap(h * h)


def softmax_weights(products: Tensor, gain: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Integers ``round(2^20 exp(s - max s))`` of ``s = products * gain`` as float64, and their sums (B,K,G,t,1).

    In place of ``products`` (B,K,G,t,C); ``gain`` (K,G); keys where ``seen`` (B,t,C) is false get 0.
    """
    if products.device.type != "cpu":
        return plain_weights(products, gain, seen)
    total = torch.empty((*products.shape[:-1], 1), dtype=products.dtype)
    kernels.weigh_rows(products.numpy(), gain.numpy(), seen.numpy(), 2.0**BITS, total[..., 0].numpy())
    return products, total


def plain_weights(products: Tensor, gain: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """``softmax_weights`` by torch operations."""
    scores = (products * gain[:, :, None, None]).masked_fill_(~seen[:, None, None], -math.inf)
    weights = (exp_nonpositive(scores - scores.amax(-1, keepdim=True)) * 2.0**BITS).round()
    return weights, weights.sum(-1, keepdim=True)


def capped_logits(z: Tensor, cap: float) -> Tensor:
    """Integers ``round(1024 cap tanh(z / cap))`` as float64, in place of ``z`` (..., C) float64."""
    if z.device.type == "cpu":
        kernels.cap_rows(_rows(z), cap, cap * LOGIT_STEPS)
        return z
    decay = exp_nonpositive(-2.0 * (z.abs() / cap))
    return (((1.0 - decay) / (1.0 + decay)) * (cap * LOGIT_STEPS)).round() * z.sign()


def exp_nonpositive(x: Tensor) -> Tensor:
    """exp of ``x`` <= 0, by torch operations; below -64 that of -64."""
    x = x.clamp_min(LOWEST)
    k = (x * LOG2E).round()
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    p = torch.full_like(r, TAYLOR[0])
    for coefficient in TAYLOR[1:]:
        p = p * r + coefficient  # two kernels: nothing can fuse them
    return p * power_of_two(k.to(torch.int64))


def _sqrt(x: Tensor) -> Tensor:
    """The correctly rounded root: torch's own on a CPU (MKL's) is off by one in the last bit at times."""
    return torch.from_numpy(np.sqrt(x.numpy())) if x.device.type == "cpu" else x.sqrt()


def _rows(x: Tensor) -> np.ndarray:
    """``x`` (..., C) as (R, C): its own memory when it is contiguous, as all are that are written, else a copy."""
    return np.asarray(x.detach().reshape(-1, x.size(-1)).contiguous().numpy())
