"""Each building block against a naive reference written from its formula."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from golf.models.layers import (
    MLP,
    Attention,
    Matrix,
    activation_dtype,
    apply_rope,
    causal_attention,
    exclude_own_value,
    leaky_relu_squared,
    rms_norm,
    rope_tables,
    softcap,
    softcapped_cross_entropy,
    softcapped_logits,
)


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_rms_norm_uses_the_given_eps_in_its_own_dtype() -> None:
    x = _random(3, 8)
    for eps in (1e-6, 0.5):
        torch.testing.assert_close(rms_norm(x, eps), x / (x.square().mean(-1, keepdim=True) + eps).sqrt())
    low = torch.full((1, 64), 1e-3, dtype=torch.bfloat16)  # 2^-7, the old bfloat16 default eps, would give 0.011
    assert rms_norm(low, 1e-6).dtype == torch.bfloat16
    assert float(rms_norm(low, 1e-6)[0, 0]) == pytest.approx(1e-3 / math.sqrt(2e-6), rel=0.01)


def test_rope_rotates_half_split_pairs() -> None:
    x, base = _random(2, 5, 8), 100.0
    out = apply_rope(x, rope_tables(torch.arange(5), 8, base, torch.float64))
    for t in range(5):
        for i in range(4):
            angle = t * base ** (-2 * i / 8)
            a, b = x[:, t, i], x[:, t, i + 4]
            torch.testing.assert_close(out[:, t, i], a * math.cos(angle) + b * math.sin(angle))
            torch.testing.assert_close(out[:, t, i + 4], -a * math.sin(angle) + b * math.cos(angle))


def test_a_compiler_finds_the_rotary_tables_in_one_operator() -> None:
    """As plain operations each kernel that reads the tables takes their float64 sines again: 40 % of an H100's step."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    def rotated(x: Tensor) -> Tensor:
        return apply_rope(x, rope_tables(torch.arange(5), 8, 100.0, x.dtype))

    x = _random(2, 5, 8)
    torch.testing.assert_close(torch.compile(rotated, backend=keep, fullgraph=True)(x), rotated(x), rtol=0, atol=0)
    called = [str(node.target) for graph in graphs for node in graph.graph.nodes]
    assert sum("rope_tables" in name for name in called) == 1 and not {"sin", "cos"} & set(called), called


def test_rope_depends_on_position_and_products_only_on_distance() -> None:
    q, k = _random(1, 1, 16, seed=1), _random(1, 1, 16, seed=2)

    def product(i: int, j: int) -> Tensor:
        rotated = [apply_rope(x, rope_tables(torch.tensor([p]), 16, 1e4, torch.float64)) for x, p in ((q, i), (k, j))]
        return (rotated[0] * rotated[1]).sum()

    assert not torch.allclose(product(3, 1), product(4, 1))
    torch.testing.assert_close(product(3, 1), product(50_000_003, 50_000_001), rtol=0, atol=1e-6)


def _naive_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = torch.zeros_like(q)
    group = q.size(1) // k.size(1)
    for h in range(q.size(1)):
        for t in range(q.size(2)):
            scores = (k[:, h // group, : t + 1] @ q[:, h, t, :, None]).squeeze(-1) / math.sqrt(q.size(-1))
            out[:, h, t] = (scores.softmax(-1)[..., None] * v[:, h // group, : t + 1]).sum(1)
    return out


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_causal_grouped_attention(kv_heads: int) -> None:
    q, k, v = _random(2, 4, 6, 8), _random(2, kv_heads, 6, 8, seed=1), _random(2, kv_heads, 6, 8, seed=2)
    torch.testing.assert_close(causal_attention(q, k, v), _naive_attention(q, k, v))


def test_exclusive_attention_removes_the_projection_on_the_own_value() -> None:
    y, v = _random(2, 4, 3, 8), _random(2, 2, 3, 8, seed=1)
    v[0, 0, 1] = 0.0
    out = exclude_own_value(y, v)
    for h in range(4):
        for t in range(3):
            for b in range(2):
                unit = v[b, h // 2, t] / max(float(v[b, h // 2, t].norm()), 1e-12)
                expected = y[b, h, t] - (y[b, h, t] @ unit) * unit
                torch.testing.assert_close(out[b, h, t], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(out[0, :2, 1], y[0, :2, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exclusive_attention_for_a_compiler_is_the_same(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    y, v = _random(2, 4, 3, 8).to(dtype), _random(2, 2, 3, 8, seed=1).to(dtype)
    v[0, 0, 1] = 0.0
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 0.03}[dtype]
    found = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        inputs = y.clone().requires_grad_(), v.clone().requires_grad_()
        out = exclude_own_value(*inputs)
        assert out.dtype == dtype
        found.append((out, *torch.autograd.grad((out * _random(*out.shape, seed=2)).sum(), inputs)))
    seen = found[1][2].clone()
    seen[0, 0, 1] = found[0][2][0, 0, 1]  # of a value of zeros: the slope at the floor under its length is made up
    torch.testing.assert_close((*found[1][:2], seen), found[0], rtol=tolerance, atol=tolerance)


def test_scaled_product_for_a_compiler_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, x, scale = Matrix(8, 6, "mlp").double(), _random(2, 3, 8).double(), _random(6, seed=1).double()
    found = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        inputs = x.clone().requires_grad_(), scale.clone().requires_grad_(), matrix.weight
        out = matrix.scaled(inputs[0], inputs[1])
        gradients = torch.autograd.grad((out * _random(2, 3, 6, seed=2).double()).sum(), inputs)
        found.append((out, *gradients))
        torch.testing.assert_close(out, scale * (x @ matrix.weight.T))
    torch.testing.assert_close(found[1], found[0])


def test_leaky_relu_squared_is_positive_on_both_sides() -> None:
    x = torch.tensor([-2.0, 0.0, 3.0])
    assert torch.equal(leaky_relu_squared(x, 0.5), torch.tensor([1.0, 0.0, 9.0]))
    assert torch.equal(leaky_relu_squared(x, 0.0), torch.tensor([0.0, 0.0, 9.0]))


def test_softcap_is_odd_bounded_and_the_identity_near_zero() -> None:
    z = torch.tensor([-1e4, 0.0, 0.01, 1e4])
    torch.testing.assert_close(softcap(z, 30.0), torch.tensor([-30.0, 0.0, 0.01, 30.0]))


def test_new_attention_and_mlp_give_zero_and_the_gain_matters() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 4, 2, qk_gain=1.5, norm_eps=1e-6)
    mlp = MLP(16, 32, negative_slope=0.5)
    x = _random(1, 5, 16, dtype=torch.float32)
    rope = rope_tables(torch.arange(5), 4, 1e4, torch.float32)
    assert not attention(x, rope).any() and not mlp(x, torch.ones(16)).any()
    assert attention.query_gain.tolist() == [1.5] * 4
    assert float(attention.key.weight.detach().abs().max()) <= 0.25  # 1 / sqrt(16)
    torch.nn.init.eye_(attention.output.weight)
    before = attention(x, rope)
    torch.nn.init.zeros_(attention.query_gain)
    assert not torch.allclose(before, attention(x, rope))
    assert not torch.allclose(attention(x, rope), attention(x, rope, exclusive=True))


def test_residual_stream_follows_autocast() -> None:
    weight = torch.zeros(1)
    assert activation_dtype(weight) == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert activation_dtype(weight) == torch.bfloat16


def _naive_loss(hidden: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
    return F.cross_entropy(cap * torch.tanh(hidden @ weight.T / cap), targets)


@pytest.mark.parametrize("rows", [1, 4, 7, 100])
def test_chunked_loss_and_its_gradients_equal_the_full_logits_reference(rows: int) -> None:
    hidden, weight = _random(11, 6, dtype=torch.float32), _random(9, 6, seed=1, dtype=torch.float32)
    targets = torch.randint(0, 9, (11,), generator=torch.Generator().manual_seed(0))
    results = []
    for function in (_naive_loss, lambda h, w, y, c: softcapped_cross_entropy(h, w, y, c, rows)):
        h, w = hidden.clone().requires_grad_(), (5 * weight).requires_grad_()
        loss = function(h, w, targets, 3.0)
        (0.25 * loss).backward()
        results.append((loss.detach(), h.grad, w.grad))
    for naive, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, naive, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(softcapped_cross_entropy(hidden, 5 * weight, targets, 3.0, rows), results[0][0])


def test_logits_are_float32_even_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = softcapped_logits(_random(3, 8).bfloat16(), _random(5, 8, dtype=torch.float32), 30.0)
    assert logits.dtype == torch.float32 and logits.shape == (3, 5)
