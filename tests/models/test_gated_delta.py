"""The chunkwise delta rule against the token loop, its limits, its numerics, and the check of foreign kernels."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gated_delta_naive import naive_delta_rule
from golf.models import gated_delta
from golf.models.gated_delta import chunked_delta_rule, delta_rule, disagreement, fla_delta_rule

NAMES = ("output", "state", "dq", "dk", "dv", "dg", "dbeta", "dstate")


def _inputs(
    tokens: int, *, dtype: torch.dtype = torch.float64, beta_max: float = 1.0, decay: float = 0.1, seed: int = 0
) -> list[Tensor]:
    """q, k (2,3,T,16), v (2,3,T,12), g, beta (2,3,T), state (2,3,16,12); ``decay`` is the mean of -g in nats."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(2, 3, *shape, generator=generator, dtype=torch.float64)

    q, k = (F.normalize(random(tokens, 16), dim=-1) for _ in range(2))
    g = -2 * decay * torch.rand(2, 3, tokens, generator=generator, dtype=torch.float64)
    beta = beta_max * random(tokens).sigmoid()
    return [x.to(dtype) for x in (q, k, random(tokens, 12), g, beta, random(16, 12))]


def _results(function: Any, inputs: list[Tensor], **options: Any) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    out, state = function(*leaves, **options)
    generator = torch.Generator().manual_seed(9)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in (out, state)]
    gradients = torch.autograd.grad((out * weights[0]).sum() + (state * weights[1]).sum(), leaves)
    return [out.detach(), state.detach(), *gradients]


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 3.6e-15), (torch.float32, 3.6e-6)], ids=["fp64", "fp32"])
@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 200])
def test_chunks_equal_the_token_loop_in_outputs_state_and_gradients(
    tokens: int, dtype: torch.dtype, limit: float
) -> None:
    for beta_max in (1.0, 2.0):
        for decay in (0.02, 10.0):  # strong: a factor of e^-640 over a chunk of 64
            inputs = _inputs(tokens, dtype=dtype, beta_max=beta_max, decay=decay)
            wanted = _results(naive_delta_rule, inputs)
            for chunk in (16, 32, 64):
                found = _results(chunked_delta_rule, inputs, chunk=chunk)
                for name, ours, naive in zip(NAMES, found, wanted, strict=True):
                    assert ours.isfinite().all(), (name, beta_max, decay, chunk)
                    scale = limit * (8 if dtype == torch.float32 and beta_max == 2.0 else 1)
                    assert _error(ours, naive) < scale, (name, beta_max, decay, chunk, _error(ours, naive))


def test_state_carried_over_a_split_equals_one_pass() -> None:
    inputs = _inputs(128)
    whole, end = chunked_delta_rule(*inputs)
    first, middle = chunked_delta_rule(*(x[:, :, :50] for x in inputs[:5]), inputs[5])
    second, last = chunked_delta_rule(*(x[:, :, 50:] for x in inputs[:5]), middle)
    assert _error(torch.cat((first, second), 2), whole) < 1e-14
    assert _error(last, end) < 1e-14


def test_later_tokens_leave_earlier_outputs_bit_identical() -> None:
    inputs = _inputs(128, dtype=torch.float32)
    other = _inputs(128, dtype=torch.float32, seed=1)
    mixed = [torch.cat((a[:, :, :60], b[:, :, 60:]), 2) for a, b in zip(inputs[:5], other[:5], strict=True)]
    before, after = chunked_delta_rule(*inputs)[0], chunked_delta_rule(*mixed, inputs[5])[0]
    assert torch.equal(before[:, :, :60], after[:, :, :60])
    assert not torch.equal(before[:, :, 60], after[:, :, 60])


def test_without_decay_it_is_the_delta_rule() -> None:
    q, k, v, g, beta, _ = _inputs(40)
    out, _ = chunked_delta_rule(q, k, v, torch.zeros_like(g), beta, chunk=16)
    state = torch.zeros(2, 3, 16, 12, dtype=torch.float64)
    eye = torch.eye(16, dtype=torch.float64)
    for t in range(40):
        kk = k[:, :, t, :, None] * k[:, :, t, None, :]
        strength = beta[:, :, t, None, None]
        state = (eye - strength * kk) @ state + strength * k[:, :, t, :, None] * v[:, :, t, None, :]
        torch.testing.assert_close(out[:, :, t], (q[:, :, t, None, :] @ state).squeeze(-2) / 4.0)


def test_full_strength_stores_a_value_exactly_and_overwrites_it() -> None:
    k = F.normalize(torch.randn(1, 1, 1, 16, dtype=torch.float64), dim=-1).expand(1, 1, 3, 16)
    v = torch.randn(1, 1, 3, 12, dtype=torch.float64)
    out, _ = chunked_delta_rule(k, k, v, torch.zeros(1, 1, 3, dtype=torch.float64), torch.ones(1, 1, 3).double())
    torch.testing.assert_close(out * 4.0, v)


def test_without_writing_the_state_only_decays() -> None:
    q, k, v, g, beta, state = _inputs(70)
    out, end = chunked_delta_rule(q, k, v, g, torch.zeros_like(beta), state, chunk=16)
    left = g.cumsum(-1).exp()
    torch.testing.assert_close(end, left[..., -1, None, None] * state)
    torch.testing.assert_close(out, left[..., None] * (q @ state) / 4.0)


def test_texts_and_heads_do_not_mix() -> None:
    inputs = _inputs(70)
    out, end = chunked_delta_rule(*inputs)
    turned = chunked_delta_rule(*(x.flip(0)[:, [2, 0, 1]] for x in inputs))
    torch.testing.assert_close(turned[0], out.flip(0)[:, [2, 0, 1]])
    torch.testing.assert_close(turned[1], end.flip(0)[:, [2, 0, 1]])


def test_autocast_does_not_reach_inside() -> None:
    inputs = _inputs(100, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out, end = chunked_delta_rule(*inputs)
    wanted, state = chunked_delta_rule(*inputs)
    assert torch.equal(out, wanted) and torch.equal(end, state) and out.dtype == torch.float32
    low = chunked_delta_rule(*(x.bfloat16() for x in inputs[:3]), *inputs[3:])[0]
    assert low.dtype == torch.float32 and _error(low, wanted) < 2e-2


def _as_fla(rule: Any, *, transposed_state: bool = False, swapped: bool = False) -> Any:
    """Our rule dressed as fla's kernel, if expected with one of the changes that its versions made."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, *, g: Tensor, beta: Tensor, scale: float, **options: Any) -> Any:
        assert scale == q.size(-1) ** -0.5 and options["output_final_state"]
        heads_first = [x.transpose(1, 2) for x in (q, k, v, *((beta, g) if swapped else (g, beta)))]
        state = options["initial_state"]
        state = state.transpose(-1, -2) if transposed_state and state is not None else state
        out, end = rule(*heads_first, state)
        return out.transpose(1, 2).to(v.dtype), end.transpose(-1, -2) if transposed_state else end

    return kernel


def test_a_kernel_that_agrees_is_accepted_and_one_that_differs_is_named() -> None:
    good = fla_delta_rule(_as_fla(chunked_delta_rule))
    assert disagreement(good, 16, 16, "cpu") is None
    transposed = fla_delta_rule(_as_fla(chunked_delta_rule, transposed_state=True))
    assert "differs by" in str(disagreement(transposed, 16, 16, "cpu"))
    swapped = fla_delta_rule(_as_fla(chunked_delta_rule, swapped=True))
    assert "the output differs by" in str(disagreement(swapped, 16, 16, "cpu"))


def test_without_the_package_one_warning_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fla", None)
    gated_delta.checked_kernel.cache_clear()
    with pytest.warns(UserWarning, match=r"runs slower: fla is not installed \(pip install golf\[gdn\]\)"):
        rule, told = gated_delta.checked_kernel(0, 16, 16)
    assert rule is None and "fla is not installed" in told
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gated_delta.checked_kernel(0, 16, 16)[0] is None
    gated_delta.checked_kernel.cache_clear()


def test_on_cpu_our_own_form_runs() -> None:
    inputs = _inputs(30, dtype=torch.float32)
    assert torch.equal(delta_rule(*inputs, chunk=16)[0], chunked_delta_rule(*inputs, chunk=16)[0])
