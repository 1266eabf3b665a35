"""Rotation of a residual stream into the eigenbasis of its embedding, and what stands in its way.

If every tensor that reads the stream is multiplied by an orthogonal Q and every tensor that writes it by Q^T, the
function of the model does not change, because x -> Q^T x commutes with the residual additions and keeps the length
that an RMS norm without gain divides by. In the eigenbasis of E^T E the columns of the embedding E are uncorrelated
and very unequal in size, so column-aware tables code them in about 8 % fewer bytes at the same error.

What stops it: any per-channel vector on the stream. diag(v) commutes with Q only where Q mixes channels of equal v,
so a norm gain must first be folded into the matrices that read it (``fold_gain``), and a learned per-channel
attn_scale, mlp_scale or resid_mix, which acts on the stream itself and has no matrix of its own to fold into, makes an
exact rotation impossible unless it is constant. The depth-recurrent family has all three (and layer norms would add
the mean), so its stream is not rotated; its embedding is served by column tables and integer prediction instead.
Rotating the tied embedding alone is no way out either: undoing Q needs D * D floats in the artifact. The same holds
for heads: value_scales or rotary positions act inside a head, not on the stream, and are no obstacle.

Shapes: V vocabulary, D channels of the stream, M any other width. Source: entropy-coding measurements of this
project; computational invariance as in SliceGPT (arXiv 2401.15024) and QuaRot (arXiv 2404.00456).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from golf.errors import GolfError

__all__ = ["RotationError", "Side", "blocking_scales", "eigenbasis", "fold_gain", "rotate"]

Side = Literal["reads", "writes"]
"""``reads``: the stream is the tensor's last axis (M, D), as in the embedding (V, D) or a query projection.
``writes``: the stream is its first axis (D, M), as in an attention output or MLP down projection."""


class RotationError(GolfError):
    """The model cannot be rotated as asked; the message names the tensor."""


def eigenbasis(embedding: np.ndarray) -> np.ndarray:
    """Orthogonal Q (D, D) float64: eigenvectors of E^T E for ``embedding`` (V, D), largest eigenvalue first.

    Each vector's largest component is positive, so the same embedding gives the same Q. Raises ``RotationError`` for
    NaN or infinity.
    """
    e = np.asarray(embedding, dtype=np.float64)
    if e.ndim != 2 or not np.isfinite(e).all():
        raise RotationError(f"embedding: shape {e.shape}, wanted a finite matrix (V, D)")
    q = np.linalg.eigh(e.T @ e)[1][:, ::-1]
    signs = np.sign(q[np.abs(q).argmax(0), np.arange(q.shape[1])])
    return np.ascontiguousarray(q * signs)


def blocking_scales(scales: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the per-channel vectors on the stream that forbid an exact rotation: all that are not constant.

    ``scales`` maps names to arrays (..., D), e.g. norm gains still unfolded, attn_scale, resid_mix (2, D). An empty
    list means that ``rotate`` is exact.
    """
    return [name for name, v in scales.items() if bool((np.asarray(v) != np.asarray(v)[..., :1]).any())]


def fold_gain(weight: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """``weight`` (M, D) reading norm(x) * ``gain`` (D,) becomes a weight reading norm(x): float32 (M, D).

    Fold into every reader of that norm, then set the gain to ones. Raises ``RotationError`` when the widths differ.
    """
    weight, gain = np.asarray(weight), np.asarray(gain)
    if weight.ndim != 2 or gain.shape != (weight.shape[1],):
        raise RotationError(f"gain: found shape {gain.shape} for a weight {weight.shape}, wanted (M, D) and (D,)")
    return (weight.astype(np.float64) * gain.astype(np.float64)).astype(np.float32)


def rotate(tensors: Mapping[str, np.ndarray], sides: Mapping[str, Side], basis: np.ndarray) -> dict[str, np.ndarray]:
    """Rotate ``tensors`` by ``basis`` Q (D, D): readers W -> W Q, writers W -> Q^T W; float32, computed in float64.

    ``sides`` says which tensors touch the stream and how; the others come back as they are. It must name every reader
    and writer or the model changes. Raises ``RotationError`` for a name that is missing, a shape that does not meet
    Q, or a Q that is not orthogonal.
    """
    q = np.asarray(basis, dtype=np.float64)
    if q.ndim != 2 or q.shape[0] != q.shape[1] or np.abs(q.T @ q - np.eye(len(q))).max() > 1e-8:
        raise RotationError(f"basis: shape {q.shape}, wanted an orthogonal (D, D)")
    out = dict(tensors)
    for name, side in sides.items():
        if name not in tensors:
            raise RotationError(f"{name}: {side} the stream by `sides`, but the model has no such tensor")
        weight = np.asarray(tensors[name], dtype=np.float64)
        if weight.ndim != 2 or weight.shape[1 if side == "reads" else 0] != len(q):
            raise RotationError(f"{name}: found shape {weight.shape}, wanted {len(q)} channels on the side that {side}")
        out[name] = (weight @ q if side == "reads" else q.T @ weight).astype(np.float32)
    return out
