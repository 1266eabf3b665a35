"""The parts of GDN-Hybrid, each against its definition: convolution, window, hash, smear gate, layout string."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from golf.models.configs.gdn_hybrid import LayerPlan, parse_layout
from golf.models.delta_layer import GatedDeltaNet, SmearGate, causal_conv
from golf.models.ngrams import HashEmbedding, hash_buckets, previous_tokens
from golf.models.sliding_attention import window_attention


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_convolution_is_causal_depthwise_and_carries_its_history() -> None:
    x, weight = _random(2, 11, 6), _random(6, 4, seed=1)
    out, history = causal_conv(x, weight, None)
    expected = F.silu(F.conv1d(F.pad(x.transpose(1, 2), (3, 0)), weight[:, None], groups=6)).transpose(1, 2)
    torch.testing.assert_close(out, expected)
    assert torch.equal(history, x[:, -3:])
    pieces, before = [], torch.zeros(2, 3, 6, dtype=torch.float64)
    for piece in x.split([1, 2, 7, 1], dim=1):
        y, before = causal_conv(piece, weight, before)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), expected)
    assert torch.equal(before, history)


def test_one_tap_needs_no_history() -> None:
    out, history = causal_conv(_random(1, 3, 2), _random(2, 1, seed=1), None)
    assert out.shape == (1, 3, 2) and history.shape == (1, 0, 2)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(("tokens", "window"), [(1, 3), (3, 3), (4, 3), (6, 3), (11, 3), (5, 1), (9, 8), (7, 100)])
def test_window_attention_reads_the_last_window_keys(tokens: int, window: int, kv_heads: int) -> None:
    q, k, v = _random(2, 4, tokens, 8), _random(2, kv_heads, tokens, 8, seed=1), _random(2, kv_heads, tokens, 8, seed=2)
    expected = torch.zeros_like(q)
    for h in range(4):
        group = h // (4 // kv_heads)
        for t in range(tokens):
            near = slice(max(0, t - window + 1), t + 1)
            scores = (k[:, group, near] @ q[:, h, t, :, None]).squeeze(-1) / math.sqrt(8)
            expected[:, h, t] = (scores.softmax(-1)[..., None] * v[:, group, near]).sum(1)
    torch.testing.assert_close(window_attention(q, k, v, window), expected)


BOS = 1


def test_hash_rows_follow_the_published_formula_and_stop_at_document_starts() -> None:
    ids, rows = torch.tensor([[7, 9, BOS, 5, 1023, 8]]), 3072
    one, two = previous_tokens(ids, torch.tensor([[-1, -1]]), BOS)
    bigram, trigram = hash_buckets(ids, one, two, rows)
    m = rows - 1

    def b(x: int, y: int) -> int:
        return ((36313 * x) ^ (27191 * y)) % m

    def t(x: int, y: int, z: int) -> int:
        return ((36313 * x) ^ (27191 * y) ^ (51497 * z)) % m

    assert bigram[0].tolist() == [m, b(9, 7), m, b(5, BOS), b(1023, 5), b(8, 1023)]
    assert trigram[0].tolist() == [m, m, m, m, t(1023, 5, BOS), t(8, 1023, 5)]


def test_tokens_before_a_pass_are_those_of_the_pass_before() -> None:
    ids = torch.randint(0, 5, (2, 20), generator=torch.Generator().manual_seed(0))
    whole = previous_tokens(ids, torch.full((2, 2), -1), BOS)
    first = previous_tokens(ids[:, :8], torch.full((2, 2), -1), BOS)
    second = previous_tokens(ids[:, 8:], ids[:, 6:8], BOS)
    for a, b, c in zip(whole, first, second, strict=True):
        assert torch.equal(a, torch.cat((b, c), 1))


def test_hash_embedding_sums_projects_and_scales_and_every_part_has_a_gradient_at_once() -> None:
    torch.manual_seed(0)
    hashes = HashEmbedding(100, 6, 10)
    ids = torch.tensor([[4, 2, 3]])
    one, two = previous_tokens(ids, torch.full((1, 2), -1), BOS)
    out = hashes(ids, one, two, torch.float32)
    bigram, trigram = hash_buckets(ids, one, two, 100)
    rows = hashes.embedding[bigram] + hashes.embedding[trigram]
    torch.testing.assert_close(out, 0.05 * rows @ hashes.projection.weight.T)
    out.square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in hashes.parameters())


def test_smear_gate_mixes_in_the_vector_before_except_where_there_is_none() -> None:
    gate = SmearGate(4).double()
    with torch.no_grad():
        gate.gate.copy_(torch.tensor([0.0, 1.0, -1.0, 9.0]))
    x, before = _random(1, 3, 4), _random(1, 1, 4, seed=1)
    out = gate(x, before, torch.tensor([[True, False, True]]))
    share = torch.sigmoid(gate.gate)
    torch.testing.assert_close(out[:, 0], (1 - share) * x[:, 0] + share * before[:, 0])
    assert torch.equal(out[:, 1], x[:, 1])
    torch.testing.assert_close(out[:, 2], (1 - share) * x[:, 2] + share * x[:, 1])


def test_gates_start_in_their_published_ranges() -> None:
    torch.manual_seed(0)
    layer = GatedDeltaNet(64, 200, 4, 4, conv_size=4, norm_eps=1e-5, chunk=64, output_scale=0.5)
    rate, step = layer.A_log.detach().exp(), F.softplus(layer.dt_bias.detach())
    assert 1 <= rate.min() < 2 and 15 < rate.max() <= 16
    assert 0.001 <= step.min() < 0.0015 and 0.07 < step.max() <= 0.1
    x = torch.randn(1, 5, 64)
    given, _ = layer.inputs(x, layer, None)
    assert (given.g < 0).all() and ((given.beta > 0) & (given.beta < 1)).all()
    lengths = given.k.norm(dim=-1)  # of vectors not near zero
    assert lengths.max() < 1 + 1e-6 and lengths.median() > 1 - 1e-3
    assert layer(x).shape == (1, 5, 64)


def test_layout_strings() -> None:
    plans = parse_layout("gdn2_swa_gdn_swa_shared")
    assert [(plan.kind, plan.source) for plan in plans] == [("gdn", 0), ("gdn", 1), ("swa", 2), ("gdn", 3), ("swa", 2)]
    assert [plan.source for plan in parse_layout("swa2_gdn5", 2)] == [0, 1, 2, 2, 4, 4, 6]
    assert [plan.source for plan in parse_layout("gdn3_swa_gdn2", 2)] == [0, 0, 2, 3, 4, 4]
    assert [plan.source for plan in parse_layout("gdn7", 3)] == [0, 0, 0, 3, 3, 3, 6]
    assert parse_layout("swa_swa2_shared") == (LayerPlan("swa", 0),) * 3


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("", "found '' in ''"),
        ("gdn0", "found 'gdn0'"),
        ("gdn5-swa", "found 'gdn5-swa'"),
        ("mamba3", "found 'mamba3' in 'mamba3', expected gdnN, swaN or shared"),
        ("shared", "found `shared` in 'shared' at part 0, expected a second swa first"),
        ("swa_shared", "at part 1, expected a second swa first"),
        ("swa_gdn_shared", "at part 2"),
        ("swa_swa_shared_shared", "at part 3"),
    ],
)
def test_wrong_layout_strings_name_the_part(layout: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_layout(layout)
    with pytest.raises(ValueError, match="kv_share_stride: found -1"):
        parse_layout("gdn", -1)
