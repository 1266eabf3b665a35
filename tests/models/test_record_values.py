"""The record stack's parts against values worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from golf.base.params import read_params
from golf.models.layers import exclude_own_value, leaky_relu_squared, rope_tables, softcap
from golf.models.record_block import Heads, RecordBlock, SmearGate, lanes_layer, partly_rotated
from golf.models.registry import build_model, config_from_dict
from tiny import record, shaken


def test_rotary_turns_the_first_sixteen_channels() -> None:
    cos, sin = rope_tables(torch.arange(2), 16, 1e4, torch.float64)
    angles = torch.atan2(sin[1], cos[1])
    wanted = torch.tensor([1, 0.316228, 0.1, 0.0316228, 0.01, 0.00316228, 0.001, 0.000316228], dtype=torch.float64)
    torch.testing.assert_close(angles, wanted, rtol=1e-5, atol=0)
    x = torch.zeros(1, 2, 1, 64, dtype=torch.float64)
    x[..., 0], x[..., 40] = 1.0, 7.0
    turned = partly_rotated(x, (cos, sin))[0, 1, 0]
    assert turned[0] == pytest.approx(0.540302, abs=1e-6) and turned[8] == pytest.approx(-0.841471, abs=1e-6)
    assert turned[40] == 7.0 and turned[16:].count_nonzero() == 1


def test_exclusive_attention_softcap_and_activation() -> None:
    y, v = torch.tensor([1.0, 2.0]).view(1, 1, 1, 2), torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    out = exclude_own_value(y, v).flatten()
    torch.testing.assert_close(out, torch.tensor([-0.32, 0.24]))
    assert float(out @ v.flatten()) == pytest.approx(0.0, abs=1e-6)
    assert float(softcap(torch.tensor(30.0), 30.0)) == pytest.approx(22.8478, abs=1e-4)
    for at, value, slope in ((-2.0, 1.0, -1.0), (2.0, 4.0, 4.0)):
        z = torch.tensor(at, requires_grad=True)
        f = leaky_relu_squared(z, 0.5)
        f.backward()
        assert float(f.detach()) == value and z.grad is not None and float(z.grad) == slope


def test_skips_are_mixed_by_their_gates() -> None:
    model: Any = shaken(record(), 50)
    x, skip = torch.full((1, 1, 24), 2.0), torch.full((1, 1, 24), 6.0)
    with torch.no_grad():
        model.get_parameter("skip_scales").fill_(1.0)
        for gate, value in ((0.0, 4.0), (math.log(3.0), 3.0)):
            model.get_parameter("skip_gates").fill_(gate)
            torch.testing.assert_close(model._skipped(x, 0, [skip]), torch.full_like(x, value))
    assert model._skipped(x, -1, [skip]) is x and model._skipped(x, 0, []) is x


def test_layer_scales() -> None:
    model: Any = shaken(record(layers=9, loop=[0, 0], lanes_from=9), 50)
    scales = model.layer_scales
    torch.testing.assert_close(scales[[0, 3, 8]], torch.tensor([1.0, 0.5, 0.333333]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("shares", "lanes"), [([[1.0, 1.0], [1.0, 1.0]], (14.0, 14.0)), ([[1.0, 0.5], [0.0, 2.0]], (12.0, 15.5))]
)
def test_lanes_add_shares_of_attention_and_mlp(
    monkeypatch: pytest.MonkeyPatch, shares: list[list[float]], lanes: tuple[float, float]
) -> None:
    block = RecordBlock(Heads(4, 1, 1, 1.5, 0, False), 8, 0.5, 1e-6)
    monkeypatch.setattr(block.attention, "attended", lambda y, v, gate, scale: torch.ones(1, 1, 4))
    monkeypatch.setattr(block, "scaled_mlp", lambda x, scale: torch.full((1, 1, 4), 2.0))
    ten, none = torch.full((1, 1, 4), 10.0), torch.zeros(1, 1, 1, 4)
    carry = torch.full((2,), 1.1)
    out = lanes_layer(block, ten, ten, none, none, None, torch.ones(()), carry, torch.tensor(shares))
    for lane, value in zip(out, lanes, strict=True):
        torch.testing.assert_close(lane, torch.full_like(lane, value))


def test_smear_gate_adds_half_of_its_scale_and_nothing_at_a_document_start() -> None:
    gate, e = SmearGate(2), torch.randn(1, 3, 4)
    assert torch.equal(gate(e, e, torch.ones(1, 3, dtype=torch.bool)), e)  # the scale starts at 0
    with torch.no_grad():
        gate.scale.fill_(0.5)
    earlier = torch.randn(1, 3, 4)
    out = gate(e, earlier, torch.tensor([[True, False, True]]))
    torch.testing.assert_close(out[:, ::2], (e + 0.25 * earlier)[:, ::2])
    assert torch.equal(out[:, 1], e[:, 1])


def test_an_untrained_model_gives_back_its_normed_embedding(root: Path) -> None:
    torch.manual_seed(0)
    small = {"width": 64, "heads": 2, "kv_heads": 1}
    model = build_model(config_from_dict(read_params(root / "conf/model/record_512.yaml") | small), 8192)
    ids = torch.randint(2, 8192, (1, 65), generator=torch.Generator().manual_seed(0))
    directions = (F.normalize(x, dim=-1) for x in (model.hidden(ids), model.token_embedding[ids]))
    torch.testing.assert_close(*directions, rtol=0, atol=1e-5)
    assert float(model.loss(ids[:, :-1], ids[:, 1:]).detach()) == pytest.approx(math.log(8192), abs=0.02)
