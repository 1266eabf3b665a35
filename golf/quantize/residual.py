"""Rotation of a whole model's residual stream: which tensors touch it and how, by their names.

Every tensor of a state dict must be known to this table, or the rotation would change the model: a matrix that reads
the stream W -> W Q, one that writes it W -> Q^T W, a learned scale on what one matrix writes is folded into that
matrix, a learned per-channel scale on the stream itself must be constant. The Hessian of a reader's inputs turns with
the stream, H -> Q^T H Q. Source: ``golf.quantize.rotation``.

Shapes: D channels of the stream, M any other width, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golf.quantize.rotation import RotationError, Side, blocking_scales, eigenbasis, rotate

__all__ = ["rotate_residual"]

_SIDES: dict[str, Side] = {
    r"token_embedding": "reads",
    r"value_embeddings\.\d+": "reads",
    r"loop_vectors": "reads",
    r"blocks\.\d+\.attention\.(query|key|value)\.weight": "reads",
    r"blocks\.\d+\.mlp\.input\.weight": "reads",
    r"blocks\.\d+\.(attention|mlp)\.output\.weight": "writes",
}
_FOLDED = {"attention_scale": "attention.output.weight", "mlp_scale": "mlp.output.weight"}
_ON_STREAM = r"(blocks\.\d+\.residual_mix|skip_scales|value_scales|cross_repeat_scales)"
_ELSEWHERE = r"blocks\.\d+\.attention\.query_gain"  # acts inside a head

State = dict[str, NDArray[np.float32]]
Hessians = dict[str, NDArray[np.float32] | None]


def rotate_residual(state: State, hessians: Mapping[str, Any]) -> tuple[State, Hessians]:
    """``state`` and ``hessians`` in the eigenbasis of ``token_embedding`` (V, D): the same function of the tokens.

    Exact but for the rounding of float32. Raises ``RotationError`` naming the tensors that forbid it: a per-channel
    scale on the stream that is not constant, or a tensor whose place on the stream is not known.
    """
    sides = {name: side for name in state for pattern, side in _SIDES.items() if re.fullmatch(pattern, name)}
    folded = _foldable(state)
    scales = [name for name in state if re.fullmatch(_ON_STREAM, name)]
    known = {*sides, *folded, *scales, *(name for name in state if re.fullmatch(_ELSEWHERE, name))}
    unknown = sorted(set(state) - known)
    if unknown or "token_embedding" not in state:
        what = unknown[0] if unknown else "token_embedding"
        raise RotationError(
            f"quantize.rotate: the place of {what} on the residual stream is not known, so this model cannot be "
            "rotated (families transformer and depth_recurrent can); set quantize.rotate: false"
        )
    blocking = blocking_scales({name: state[name] for name in scales if state[name].size})
    if blocking:
        raise RotationError(
            f"quantize.rotate: {', '.join(blocking)} scale{'s' if len(blocking) == 1 else ''} the residual stream by "
            "another factor in every channel, which no rotation commutes with; set quantize.rotate: false "
            "(column steps and column tables take the place of the rotation)"
        )
    whole = dict(state)
    for name, writer in folded.items():
        gain = state[name].astype(np.float64)
        whole[writer] = (state[writer].astype(np.float64) * gain[:, None]).astype(np.float32)
        whole[name] = np.ones_like(state[name])
    basis = eigenbasis(whole["token_embedding"])
    turned: Hessians = dict(hessians)
    for name, side in sides.items():
        hessian = hessians.get(name)
        if side == "reads" and hessian is not None:
            turned[name] = (basis.T @ hessian.astype(np.float64) @ basis).astype(np.float32)
    return rotate(whole, sides, basis), turned


def _foldable(state: State) -> dict[str, str]:
    """Scale (D,) on what a matrix writes to the stream, and that matrix (D, M)."""
    found = {}
    for name in state:
        prefix, _, last = name.rpartition(".")
        writer = f"{prefix}.{_FOLDED.get(last, '')}"
        if re.fullmatch(r"blocks\.\d+", prefix) and writer in state:
            found[name] = writer
    return found
