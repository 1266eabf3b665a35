"""Batched Newton-Schulz iteration: every matrix of a stack towards its nearest semi-orthogonal matrix.

Shapes: ``n`` matrices of ``r`` rows and ``c`` columns. Each step maps a singular value s to a s + b s^3 + c s^5.
Sources: quintic coefficients of Muon (Jordan 2024, openai/parameter-golf PR #895); Polar Express arXiv 2505.16932
(degree 5, lower bound 1e-3, cushion 0.024, safety factor 1.01 on all polynomials but the last).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Coefficients", "coefficient_schedule", "orthogonalise"]

Coefficients = Literal["quintic", "polar_express"]

_QUINTIC = (3.4445, -4.7750, 2.0315)
_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
_SAFETY = 1.01


def coefficient_schedule(kind: Coefficients, steps: int) -> list[tuple[float, float, float]]:
    """The (a, b, c) of each of ``steps`` iterations. Raises ``ValueError`` for an unknown kind or no steps."""
    if steps < 1:
        raise ValueError(f"Newton-Schulz steps: found {steps}, wanted 1 or more")
    if kind == "quintic":
        return [_QUINTIC] * steps
    if kind == "polar_express":
        safe = [(a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _POLAR_EXPRESS[:-1]]
        return (safe + [_POLAR_EXPRESS[-1]] * steps)[:steps]
    raise ValueError(f"Muon coefficients: found {kind!r}, wanted one of quintic, polar_express")


def orthogonalise(matrices: Tensor, *, kind: Coefficients = "quintic", steps: int = 5) -> Tensor:
    """Semi-orthogonal approximations of ``matrices`` (n, r, c), in their dtype; a zero matrix stays zero.

    Each matrix is divided by its Frobenius norm first, so its scale does not matter. Tall matrices are iterated
    transposed, which makes the Gram matrix the smaller one. All steps are batched matrix products.
    """
    if matrices.size(-2) > matrices.size(-1):
        return orthogonalise(matrices.mT, kind=kind, steps=steps).mT
    wide = torch.promote_types(matrices.dtype, torch.float32)
    norm = torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True, dtype=wide)
    x = (matrices / ((_SAFETY if kind == "polar_express" else 1.0) * norm + 1e-7)).to(matrices.dtype)
    for a, b, c in coefficient_schedule(kind, steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
