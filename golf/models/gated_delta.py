"""The gated delta rule in chunkwise (WY) form: a linear-attention memory that decays, is corrected, and is read.

Shapes: ``B`` batch, ``H`` heads, ``T`` tokens, ``K`` key width, ``V`` value width, ``C`` tokens of a chunk, ``N``
chunks. With ``alpha = exp(g)``, the state ``S`` (K,V) of a head follows
``S_t = alpha_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T`` and is read by ``o_t = S_t^T q_t / sqrt(K)``.
Source: arXiv 2412.06464 (the decay mask, not the binary one, belongs into its last formula). Inside a chunk, with
``G`` the running sum of g and ``D_ij = exp(G_i - G_j)`` for j <= i, the corrections of all tokens are one triangular
solve ``(I + strict_lower(diag(beta) K K^T * D)) [U | W] = [beta V | beta e^G K]``; only the N chunks are sequential.
The same function as the token loop in ``tests/support/gated_delta_naive.py``, some hundred times faster with gradients.

On CUDA flash-linear-attention's Triton kernel takes its place, if that is here and agrees with ours. The package is
optional (`pip install golf[gdn]`) and its conventions have changed between versions (layout of the state, who applies
the gates), so its kernel is compared with ``chunked_delta_rule`` at first use on each device and shape, outputs, final
state and gradients; on any disagreement ours runs and a warning says why.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["DEFAULT_CHUNK", "checked_kernel", "chunked_delta_rule", "delta_rule", "disagreement", "fla_delta_rule"]

DEFAULT_CHUNK = 64


def chunked_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None, *, chunk: int = DEFAULT_CHUNK
) -> tuple[Tensor, Tensor]:
    """Outputs (B,H,T,V) and the state (B,H,K,V) after the last token.

    ``q``, ``k`` (B,H,T,K) with k of unit length, ``v`` (B,H,T,V), ``g`` (B,H,T) <= 0 in nats, ``beta`` (B,H,T) in
    (0,1), up to 2 for negative eigenvalues; ``state`` as it was before the first token, None for an empty one. Any T;
    ``chunk`` changes speed and rounding only. Computed and returned in float32 (float64 for float64), whatever autocast
    says: sums of g reach hundreds of nats and the solve needs full precision.
    """
    tokens, size = q.size(2), min(chunk, q.size(2))
    with torch.autocast(q.device.type, enabled=False):
        dtype = torch.promote_types(q.dtype, torch.float32)
        q, k, v, g, beta = (_chunks(x.to(dtype), size) for x in (q * q.size(-1) ** -0.5, k, v, g, beta))
        if state is None:
            state = q.new_zeros(*q.shape[:2], q.size(-1), v.size(-1))
        out, state = _run(q, k, v, g, beta, state.to(dtype))
        return out.flatten(2, 3)[:, :, :tokens], state


def _chunks(x: Tensor, size: int) -> Tensor:
    """(B,H,T,...) -> (B,H,N,C,...); zeros behind the last token leave the state as it is."""
    padding = -x.size(2) % size
    if padding:
        x = F.pad(x, (0, padding) if x.ndim == 3 else (0, 0, 0, padding))
    return x.unflatten(2, (-1, size))


def _run(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """All arguments cut into chunks; ``q`` is scaled."""
    size = q.size(3)
    lower = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()
    # the exponent of D_ij as the sum of g over j < l <= i: differences of running sums of hundreds of nats lose digits
    after = g.unsqueeze(-1).expand(*g.shape, size).masked_fill(~lower.tril(-1), 0.0).cumsum(-2)
    decay = after.masked_fill(~lower, -torch.inf).exp()  # -inf before exp: nothing above the diagonal, no overflow
    total = g.cumsum(-1)
    from_start = total.exp().unsqueeze(-1)
    to_end = decay[..., -1, :].unsqueeze(-1)
    written = beta.unsqueeze(-1) * torch.cat((v, from_start * k), dim=-1)
    overlap = (beta.unsqueeze(-1) * k) @ k.transpose(-1, -2) * decay  # the solve reads below the diagonal only
    solved = torch.linalg.solve_triangular(overlap, written, upper=False, unitriangular=True)
    values, keys = solved.split((v.size(-1), k.size(-1)), dim=-1)
    kept = from_start[..., -1, :].unsqueeze(-1)
    states: list[Tensor] = []
    writes: list[Tensor] = []
    parts = (x.unbind(2) for x in (values, keys, (k * to_end).transpose(-1, -2), kept))
    for value, key, leaving, keep in zip(*parts, strict=True):
        states.append(state)
        writes.append(value - key @ state)
        state = keep * state + leaving @ writes[-1]
    inside = (q @ k.transpose(-1, -2)) * decay
    return (from_start * q) @ torch.stack(states, 2) + inside @ torch.stack(writes, 2), state


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
        kernel, _ = checked_kernel(q.device.index or 0, q.size(-1), v.size(-1))
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

    def rounded(x: Tensor) -> Tensor:  # as the kernel takes them, so that rounding is on both sides
        return x.to(torch.bfloat16).float()

    unit = torch.nn.functional.normalize
    inputs: list[Tensor] = [
        rounded(unit(random(100, key_dim), dim=-1)),
        rounded(unit(random(100, key_dim), dim=-1)),
        rounded(random(100, value_dim)),
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
            return f"{name} differs by {error:.1e} of its largest value, expected {TOLERANCE} at most"
    return None


@functools.lru_cache(maxsize=8)
def checked_kernel(device: int, key_dim: int, value_dim: int) -> tuple[DeltaRule | None, str]:
    """fla's kernel on GPU ``device`` and its name with versions; or None and why it cannot be used there."""
    try:
        import fla
        import triton
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule

        rule = fla_delta_rule(chunk_gated_delta_rule)
        problem = disagreement(rule, key_dim, value_dim, f"cuda:{device}")
    except ModuleNotFoundError as error:
        problem = f"{error.name} is not installed (pip install golf[gdn])"
    except Exception as error:  # third-party just-in-time compilation fails in many ways; ours is always right
        problem = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    if problem is None:
        return rule, f"flash-linear-attention {fla.__version__} with Triton {triton.__version__}"
    warnings.warn(f"flash-linear-attention is not used, plain PyTorch runs slower: {problem}", stacklevel=3)
    return None, f"flash-linear-attention cannot be used ({problem})"
