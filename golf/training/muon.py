"""Muon: momentum, orthogonalized per matrix, with decoupled weight decay; batched over matrices and spread over ranks.

For each matrix: ``m <- mu m + g``; ``u = g + mu m`` (Nesterov); ``u`` orthogonalized by Newton-Schulz; then
``p <- (1 - lr * decay) p - lr * sqrt(max(1, rows / cols)) * u``. Matrices of the same shape, or of transposed shapes,
share one batched iteration, each step of which maps a singular value s to a s + b s^3 + c s^5. Sources:
openai/parameter-golf PR #895 (rule and factor), PR #1553 (row normalization, "MuonEq-R"); quintic coefficients Jordan
2024; Polar Express arXiv 2505.16932 (degree 5, lower bound 1e-3, cushion 0.024, safety factor 1.01 on all polynomials
but the last); ``polar_express_5``: the five polynomials of parameter-golf PR #1855, their safety factor included.
Shapes: ``n`` matrices of ``r`` rows and ``c`` columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Coefficients", "Muon", "coefficient_schedule", "normalize_rows", "orthogonalize", "shape_factor"]

Coefficients = Literal["quintic", "polar_express", "polar_express_5"]

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
_POLAR_EXPRESS_5 = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def coefficient_schedule(kind: Coefficients, steps: int) -> list[tuple[float, float, float]]:
    """The (a, b, c) of each of ``steps`` iterations. Raises ``ValueError`` for an unknown kind or no steps."""
    if steps < 1:
        raise ValueError(f"Newton-Schulz steps: found {steps}, expected 1 or more")
    if kind == "quintic":
        return [_QUINTIC] * steps
    if kind == "polar_express":
        safe = [(a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _POLAR_EXPRESS[:-1]]
        return (safe + [_POLAR_EXPRESS[-1]] * steps)[:steps]
    if kind == "polar_express_5":
        return [*_POLAR_EXPRESS_5, *[_POLAR_EXPRESS_5[-1]] * steps][:steps]
    known = "quintic, polar_express, polar_express_5"
    raise ValueError(f"Muon coefficients: found {kind!r}, expected one of {known}")


def orthogonalize(matrices: Tensor, *, kind: Coefficients = "quintic", steps: int = 5) -> Tensor:
    """Semi-orthogonal approximations of ``matrices`` (n, r, c), in their dtype; a zero matrix stays zero.

    Each matrix is divided by its Frobenius norm first, so its scale does not matter. Tall matrices are iterated
    transposed, which makes the Gram matrix the smaller one. All steps are batched matrix products.
    """
    if matrices.size(-2) > matrices.size(-1):
        return orthogonalize(matrices.mT, kind=kind, steps=steps).mT
    wide = torch.promote_types(matrices.dtype, torch.float32)
    norm = torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True, dtype=wide)
    x = (matrices / ((_SAFETY if kind == "polar_express" else 1.0) * norm + 1e-7)).to(matrices.dtype)
    for a, b, c in coefficient_schedule(kind, steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def shape_factor(rows: int, cols: int) -> float:
    """Update size of a matrix relative to a square one: ``sqrt(max(1, rows / cols))``."""
    return float(max(1.0, rows / cols) ** 0.5)


def normalize_rows(matrix: Tensor) -> Tensor:
    """Each row of ``matrix`` (r, c) divided by its own L2 norm, which is taken as 1e-7 at least."""
    return matrix / torch.linalg.vector_norm(matrix, dim=1, keepdim=True).clamp_min(1e-7)


class Muon(torch.optim.Optimizer):
    """Muon over 2-D float32 parameters.

    ``lr`` and ``momentum`` may be changed between steps through ``param_groups``. ``precision`` is the dtype of the
    Newton-Schulz products; by default bfloat16 on CUDA and float32 elsewhere. With ``world`` > 1 every rank must hold
    the same averaged gradients; rank ``rank`` orthogonalizes its share of each batch and the results are gathered
    while the next batch is computed. Momentum is kept whole on every rank, so a state loads at any world size.
    Raises ``ValueError`` for parameters that are no matrices and for an unknown ``coefficients``.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        coefficients: Coefficients = "quintic",
        steps: int = 5,
        row_norm: bool = False,
        precision: torch.dtype | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        coefficient_schedule(coefficients, steps)
        self.coefficients, self.steps, self.row_norm, self.precision = coefficients, steps, row_norm, precision
        self.rank, self.world = rank, world
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(f"Muon: found a parameter of shape {tuple(parameter.shape)}, expected a matrix")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. ``closure`` is not supported."""
        assert closure is None
        for group in self.param_groups:
            self._step_group(group)

    def _step_group(self, group: dict[str, Any]) -> None:
        batches: dict[tuple[int, int], list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                rows, cols = parameter.shape
                batches.setdefault((min(rows, cols), max(rows, cols)), []).append(parameter)
        pending = []
        for parameters in batches.values():
            directions = self._directions(parameters, group["momentum"])
            pending.append((parameters, *self._share(directions, parameters[0])))
        lr, decay = group["lr"], group["weight_decay"]
        for parameters, updates, work in pending:
            if work is not None:
                work.wait()
            torch._foreach_mul_(parameters, 1.0 - lr * decay)
            for parameter, update in zip(parameters, updates, strict=False):  # padding of the last rank is left over
                rows, cols = parameter.shape
                wide = update.mT if rows > cols else update
                parameter.add_(wide.to(parameter.dtype), alpha=-lr * shape_factor(rows, cols))

    def _directions(self, parameters: list[Tensor], momentum: float) -> list[Tensor]:
        """Update the momentum buffers; the Nesterov directions, turned so that rows <= cols."""
        buffers = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffers.append(state["momentum_buffer"])
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        directions = list(torch._foreach_mul(buffers, momentum))
        torch._foreach_add_(directions, gradients)
        if self.row_norm:
            directions = [normalize_rows(direction) for direction in directions]
        return [d.mT if d.size(0) > d.size(1) else d for d in directions]

    def _share(self, directions: list[Tensor], like: Tensor) -> tuple[Tensor, Any]:
        """Orthogonalize this rank's part of ``directions`` and start gathering all parts; (stack, handle or None)."""
        precision = self.precision or (torch.bfloat16 if like.is_cuda else torch.float32)
        part = -(-len(directions) // self.world)
        own = [direction.to(precision) for direction in directions[self.rank * part : (self.rank + 1) * part]]
        own += [torch.zeros_like(directions[0], dtype=precision)] * (part - len(own))
        result = orthogonalize(torch.stack(own), kind=self.coefficients, steps=self.steps)
        if self.world == 1:
            return result, None
        gathered = torch.empty((part * self.world, *result.shape[1:]), dtype=precision, device=result.device)
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # renamed in torch 2.13
        # bytes, because gloo and NCCL do not agree on the 16-bit types they can move
        work = gather(gathered.view(torch.uint8), result.contiguous().view(torch.uint8), async_op=True)
        return gathered, work
