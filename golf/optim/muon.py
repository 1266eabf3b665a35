"""Muon: momentum, orthogonalised per matrix, with decoupled weight decay; batched over matrices and spread over ranks.

For each matrix: ``m <- mu m + g``; ``u = g + mu m`` (Nesterov); ``u`` orthogonalised by Newton-Schulz; then
``p <- (1 - lr * decay) p - lr * sqrt(max(1, rows / cols)) * u``. Matrices of the same shape, or of transposed shapes,
share one batched iteration. Sources: openai/parameter-golf PR #895 (rule and factor), PR #1553 (row normalisation,
"MuonEq-R"). Shapes: ``n`` matrices of ``r`` rows and ``c`` columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from golf.optim.newton_schulz import Coefficients, coefficient_schedule, orthogonalise

__all__ = ["Muon", "normalise_rows", "shape_factor"]


def shape_factor(rows: int, cols: int) -> float:
    """Update size of a matrix relative to a square one: ``sqrt(max(1, rows / cols))``."""
    return float(max(1.0, rows / cols) ** 0.5)


def normalise_rows(matrix: Tensor) -> Tensor:
    """Each row of ``matrix`` (r, c) divided by its own L2 norm, which is taken as 1e-7 at least."""
    return matrix / torch.linalg.vector_norm(matrix, dim=1, keepdim=True).clamp_min(1e-7)


class Muon(torch.optim.Optimizer):
    """Muon over 2-D float32 parameters.

    ``lr`` and ``momentum`` may be changed between steps through ``param_groups``. ``precision`` is the dtype of the
    Newton-Schulz products; by default bfloat16 on CUDA and float32 elsewhere. With ``world`` > 1 every rank must hold
    the same averaged gradients; rank ``rank`` orthogonalises its share of each batch and the results are gathered
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
                    raise ValueError(f"Muon: found a parameter of shape {tuple(parameter.shape)}, wanted a matrix")

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
            directions = [normalise_rows(direction) for direction in directions]
        return [d.mT if d.size(0) > d.size(1) else d for d in directions]

    def _share(self, directions: list[Tensor], like: Tensor) -> tuple[Tensor, Any]:
        """Orthogonalise this rank's part of ``directions`` and start gathering all parts; (stack, handle or None)."""
        precision = self.precision or (torch.bfloat16 if like.is_cuda else torch.float32)
        part = -(-len(directions) // self.world)
        own = [direction.to(precision) for direction in directions[self.rank * part : (self.rank + 1) * part]]
        own += [torch.zeros_like(directions[0], dtype=precision)] * (part - len(own))
        result = orthogonalise(torch.stack(own), kind=self.coefficients, steps=self.steps)
        if self.world == 1:
            return result, None
        gathered = torch.empty((part * self.world, *result.shape[1:]), dtype=precision, device=result.device)
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # renamed in torch 2.13
        # bytes, because gloo and NCCL do not agree on the 16-bit types they can move
        work = gather(gathered.view(torch.uint8), result.contiguous().view(torch.uint8), async_op=True)
        return gathered, work
