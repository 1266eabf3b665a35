"""The gated delta rule through flash-linear-attention's Triton kernel, if that is here and agrees with ours.

The package is optional (`pip install golf[gdn]`) and its conventions have changed between versions (layout of the
state, who applies the gates), so its kernel is compared with ``chunked_delta_rule`` at first use on each device and
shape, outputs, final state and gradients; on any disagreement ours runs and a warning says why.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from golf.models.gated_delta import DEFAULT_CHUNK, chunked_delta_rule

__all__ = ["delta_rule", "disagreement", "fla_delta_rule"]

DeltaRule = Callable[..., tuple[Tensor, Tensor]]
TOLERANCE = 2e-2  # relative to the largest value: the kernel multiplies in bf16 or TF32


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None, *, chunk: int = DEFAULT_CHUNK
) -> tuple[Tensor, Tensor]:
    """``chunked_delta_rule``, by the checked Triton kernel on CUDA outside of compiled graphs.

    The kernel takes bf16 only, so it runs where the values already are (``v`` under autocast), and a model scored in
    float32 is scored in float32.
    """
    low = v.dtype in (torch.bfloat16, torch.float16)
    if q.is_cuda and low and not torch.compiler.is_compiling():
        kernel = _checked_kernel(q.device.index or 0, q.size(-1), v.size(-1))
        if kernel is not None:
            return kernel(q, k, v, g, beta, state)
    return chunked_delta_rule(q, k, v, g, beta, state, chunk=chunk)


def fla_delta_rule(kernel: Callable[..., Any]) -> DeltaRule:
    """``kernel`` (fla's ``chunk_gated_delta_rule``, layout (B,T,H,...)) behind the signature of ours."""

    def call(
        q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        low = torch.bfloat16
        q, k, v = (x.transpose(1, 2).to(low).contiguous() for x in (q, k, v))
        g, beta = (x.transpose(1, 2).float().contiguous() for x in (g, beta))
        start = None if state is None else state.float()
        out, end = kernel(
            q, k, v, g=g, beta=beta, scale=q.size(-1) ** -0.5, initial_state=start, output_final_state=True
        )
        return out.transpose(1, 2).float(), end

    return call


def disagreement(rule: DeltaRule, key_dim: int, value_dim: int, device: torch.device | str) -> str | None:
    """What of ``rule`` differs from ``chunked_delta_rule`` on a random input with a carried state; None if nothing."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(1, 2, *shape, generator=generator).to(device)

    unit = torch.nn.functional.normalize
    inputs: list[Tensor] = [
        unit(random(100, key_dim), dim=-1),
        unit(random(100, key_dim), dim=-1),
        random(100, value_dim),
    ]
    inputs += [-torch.rand(1, 2, 100, generator=generator).to(device), random(100).sigmoid()]
    state, weight = random(key_dim, value_dim), random(100, value_dim)
    results = []
    for function in (chunked_delta_rule, rule):
        leaves = [x.clone().requires_grad_() for x in inputs]
        q, k, v, g, beta = leaves
        with torch.enable_grad():
            out, end = function(q, k, v, g, beta, state)
            gradients = torch.autograd.grad((out * weight).sum() + end.sum(), leaves)
        results.append((out.detach(), end.detach(), *gradients))
    names = ("the output", "the final state", *(f"the gradient of {name}" for name in ("q", "k", "v", "g", "beta")))
    for name, ours, theirs in zip(names, *results, strict=True):
        error = float((ours - theirs).abs().max() / ours.abs().max())
        if not error <= TOLERANCE:  # NaN too
            return f"{name} differs by {error:.1e} of its largest value, wanted {TOLERANCE} at most"
    return None


@functools.lru_cache(maxsize=8)
def _checked_kernel(device: int, key_dim: int, value_dim: int) -> DeltaRule | None:
    try:
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule

        rule = fla_delta_rule(chunk_gated_delta_rule)
        problem = disagreement(rule, key_dim, value_dim, f"cuda:{device}")
    except ModuleNotFoundError:
        problem = "not installed (pip install golf[gdn])"
    except Exception as error:  # third-party just-in-time compilation fails in many ways; ours is always right
        problem = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    if problem is None:
        return rule
    warnings.warn(f"flash-linear-attention is not used, plain PyTorch runs slower: {problem}", stacklevel=3)
    return None
