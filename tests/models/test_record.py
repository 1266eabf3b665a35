"""The record stack: sizes, the naive forward pass, documents, streaming, depth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from golf.base.params import ParamsError, read_params
from golf.models.record import Record
from golf.models.registry import build_model, config_from_dict
from golf.training.optimizers import OptimizerConfig, Optimizers
from tiny import record, shaken

VOCAB = 50


def _model(**changes: Any) -> Record:
    model = shaken(record(**changes), VOCAB)
    assert isinstance(model, Record)
    return model


def _ids(rows: int = 2, tokens: int = 24, *, starts: tuple[int, ...] = (9, 10, 17)) -> Tensor:
    """Random tokens with documents that begin at ``starts`` in the first row and in the middle of the second."""
    ids = torch.randint(2, VOCAB, (rows, tokens), generator=torch.Generator().manual_seed(1))
    ids[0, [start for start in starts if start < tokens]] = 1
    if rows > 1:
        ids[1, tokens // 2] = 1
    return ids


def _published(root: Path, **changes: Any) -> Record:
    with torch.device("meta"):
        values = read_params(root / "conf/model/record_512.yaml") | changes
        model = build_model(config_from_dict(values), 8192)
    assert isinstance(model, Record)
    return model


@pytest.mark.parametrize(
    ("changes", "count"), [({}, 35_945_671), ({"layers": 12}, 38_832_437), ({"untied": True}, 53_260_087)]
)
def test_parameter_counts_match_the_published_ones(root: Path, changes: dict[str, Any], count: int) -> None:
    assert _published(root, **changes).num_parameters() == count


def test_parts_of_the_published_model_have_their_sizes(root: Path) -> None:
    model = _published(root)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}

    def total(*ends: str) -> int:
        return sum(size for name, size in sizes.items() if name.endswith(ends))

    assert sizes["token_embedding"] == 4_194_304
    assert total("query.weight", "attention.output.weight") == 5_767_168
    assert total("key.weight", "value.weight") == 2_883_584
    assert total("mlp.input.weight") == total("mlp.output.weight") == 11_534_336
    assert total("attention_scale", "mlp_scale", "residual_mix", "query_gain", "attention.gate") == 23_672
    assert sizes["skip_scales"] == sizes["skip_gates"] == 8 * 512
    assert total("lane_shares", "lane_carry", "smear.gate", "smear.scale") == 44 + 22 + 12 + 1
    roles = {name: model.role(name) for name in sizes}
    assert {roles[name] for name in sizes if name.endswith((".gate", "scales", "lane_carry"))} == {"control"}
    assert model.config.applied_weights(3) == 17 * 2_883_584


def test_order_of_applications(root: Path) -> None:
    config = _published(root).config
    assert [layer for layer, _ in config.applications(1)] == list(range(11))
    assert [layer for layer, _ in config.applications(3)] == [0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 6, 7, 8, 9, 10]
    assert all(layer == block for layer, block in config.applications(3))
    untied = [block for _, block in _published(root, untied=True).config.applications(3)]
    assert untied == [0, 1, 2, 3, 4, 5, 11, 12, 13, 14, 15, 16, 6, 7, 8, 9, 10]
    twelve = _published(root, layers=12)
    assert twelve.config.attention_layers(3) == 18 and twelve.get_parameter("skip_scales").size(0) == 9


def test_skip_rows_in_use_are_five_before_the_loop_and_eight_after(root: Path) -> None:
    torch.manual_seed(0)
    small = {"width": 16, "heads": 2, "kv_heads": 1, "rope_dims": 4, "mlp_ratio": 1.0}
    model = build_model(config_from_dict(read_params(root / "conf/model/record_512.yaml") | small), VOCAB)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ids = _ids()
    for depth, rows in ((1, range(5)), (3, range(8))):
        model.set_depth(depth)
        model.zero_grad()
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        for name in ("skip_scales", "skip_gates"):
            grad = model.get_parameter(name).grad
            assert grad is not None and grad.abs().amax(1).nonzero()[:, 0].tolist() == list(rows)


# the naive forward pass


def _norm(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def _naive_attention(w: dict[str, Tensor], n: Tensor, ids: Tensor) -> Tensor:
    tokens, width = n.size(0), 12
    q = _norm((n @ w["attention.query.weight"].T).view(tokens, 2, width))
    k = _norm((n @ w["attention.key.weight"].T).view(tokens, 1, width))
    v = (n @ w["attention.value.weight"].T).view(tokens, 1, width)
    angle = torch.arange(tokens)[:, None, None] * 1e4 ** (-torch.arange(2) / 2)

    def turn(z: Tensor) -> Tensor:
        a, b = z[..., :2], z[..., 2:4]
        first, second = a * angle.cos() + b * angle.sin(), b * angle.cos() - a * angle.sin()
        return torch.cat((first, second, z[..., 4:]), -1)

    q, k = turn(q) * w["attention.query_gain"][:, None], turn(k)
    gate = torch.sigmoid(0.5 * n[:, :4] @ w["attention.gate"].T)
    out, begin = torch.zeros(tokens, 2, width), 0
    for t in range(tokens):
        begin = t if ids[t] == 1 else begin
        for h in range(2):
            y = (k[begin : t + 1, 0] @ q[t, h] / math.sqrt(width)).softmax(0) @ v[begin : t + 1, 0]
            unit = v[t, 0] / v[t, 0].norm()
            out[t, h] = (y - (y @ unit) * unit) * gate[t, h]
    return w["attention_scale"] * (out.view(tokens, -1) @ w["attention.output.weight"].T)


def _naive_mlp(w: dict[str, Tensor], x: Tensor, scale: float) -> Tensor:
    hidden = F.leaky_relu(_norm(x) * scale @ w["mlp.input.weight"].T, 0.5) ** 2
    return w["mlp_scale"] * (hidden @ w["mlp.output.weight"].T)


def _naive_embedding(s: dict[str, Tensor], ids: Tensor) -> Tensor:
    e = s["token_embedding"][ids]
    smeared = e.clone()
    for t in range(len(ids)):
        if t and ids[t] != 1:
            smeared[t] += s["smear.scale"] * torch.sigmoid(s["smear.gate"][0] @ e[t, :4]) * e[t - 1]
        known = 0 if t == 0 or ids[t] == 1 else 1 if t == 1 or ids[t - 1] == 1 else 2  # tokens before, of the document
        pair, triple = ((36313 * int(ids[t])) ^ (27191 * int(ids[t - 1])), 51497 * int(ids[t - 2])) if known else (0, 0)
        rows = (pair % 10 if known else 10, (pair ^ triple) % 10 if known > 1 else 10)  # of 11, the last for none
        smeared[t] += s["hashes.scale"] * (s["hashes.projection.weight"] @ s["hashes.embedding"][list(rows)].sum(0))
    return _norm(smeared)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("untied", [False, True])
def test_forward_equals_a_naive_loop(depth: int, untied: bool) -> None:
    model, ids = _model(untied=untied), _ids(1, 14)[0]  # layers 0 1 2 3, loop 1 to 2, lanes from 3
    model.set_depth(depth)
    s = model.state_dict()
    order = [0, 1, 2, 1, 2, 3] if depth == 2 else [0, 1, 2, 3]
    blocks = [0, 1, 2, 4, 5, 3] if depth == 2 and untied else order
    x0 = x = _naive_embedding(s, ids)
    half, kept, lane = len(order) // 2, [], None
    for index, (layer, block) in enumerate(zip(order, blocks, strict=True)):
        w = {n.removeprefix(f"blocks.{block}."): v for n, v in s.items() if n.startswith(f"blocks.{block}.")}
        scale = (layer + 1) ** -0.5
        lane = x if index >= half and layer == 3 else lane
        if index >= half and kept:
            g = torch.sigmoid(s["skip_gates"][index - half])
            x = g * x + (1 - g) * s["skip_scales"][index - half] * kept.pop()
        u = w["residual_mix"][0] * x + w["residual_mix"][1] * x0
        attended = _naive_attention(w, _norm(u) * scale, ids)
        if lane is None:
            x = u + attended
            x = x + _naive_mlp(w, x, scale)
        else:
            thought, carry, shares = _naive_mlp(w, lane, scale), s["lane_carry"][layer], s["lane_shares"][layer]
            x, lane = (
                c * old + shares[0, i] * attended + shares[1, i] * thought
                for i, (c, old) in enumerate(zip(carry, (x, lane), strict=True))
            )
        if index < half:
            kept.append(x)
    assert lane is not None
    torch.testing.assert_close(model.hidden(ids[None])[0], _norm((x + lane) / 2), rtol=1e-3, atol=1e-4)


# documents


@pytest.mark.parametrize("context", [None, 4])
def test_a_document_does_not_know_what_stood_before_it(context: int | None) -> None:
    model, ids = _model(), _ids(1, 20, starts=(8,))
    model.set_context(context)
    other = ids.clone()
    other[0, :8] = (ids[0, :8] + 7) % (VOCAB - 2) + 2
    with torch.no_grad():
        before, after = model.hidden(ids), model.hidden(other)
        assert torch.equal(before[:, 8:], after[:, 8:]) and not torch.equal(before[:, :8], after[:, :8])
        streams = [model.step(x, model.new_state(1, 20, chunk=6)) for x in (ids, other)]
    assert torch.equal(streams[0][:, 8:], streams[1][:, 8:])


def test_no_position_sees_a_later_token_and_a_context_cuts_attention() -> None:
    model, ids = _model(layers=1, loop=[0, 0], repeats=1, lanes_from=1), _ids(1, 12, starts=())
    other = ids.clone()
    other[0, 5] = (other[0, 5] + 1) % (VOCAB - 2) + 2
    with torch.no_grad():
        for context, reach in ((None, 12), (4, 8)):
            model.set_context(context)
            change = (model.hidden(ids) - model.hidden(other)).abs().amax(-1)[0]
            assert change[:5].max() == 0 and change[reach:].sum() == 0 and (change[5:reach] > 0).all()


# streaming, depth, learning


@pytest.mark.parametrize("cuts", [[1] * 24, [24], [5, 1, 18]])
@pytest.mark.parametrize("depth", [1, 2])
def test_streaming_equals_one_pass_however_the_text_is_cut(cuts: list[int], depth: int) -> None:
    model, ids = _model(), _ids()
    model.set_depth(depth)
    state = model.new_state(2, 24, chunk=7)
    streamed = torch.cat([model.step(piece, state) for piece in ids.split(cuts, dim=1)], dim=1)
    torch.testing.assert_close(streamed, model.hidden(ids), rtol=1e-3, atol=1e-4)
    assert (state.position, state.window, state.chunk) == (24, 24, 7) and state.num_bytes() > 0


def test_streaming_beyond_the_window_is_the_same_for_every_cut_and_chunk() -> None:
    model, ids = _model(), _ids(1, 60, starts=(20, 41))
    results = []
    for chunk, cut in ((1, 1), (4, 60), (16, 9), (64, 60)):
        state = model.new_state(1, 10, chunk=chunk)
        results.append(torch.cat([model.step(piece, state) for piece in ids.split(cut, dim=1)], dim=1))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-3, atol=1e-4)


def test_reset_streams_forget_while_others_go_on() -> None:
    model, ids = _model(), _ids(starts=())
    state = model.new_state(2, 24)
    whole = model.step(ids, state)
    again = model.new_state(2, 24)
    first = model.step(ids[:, :10], again)
    again.reset(torch.tensor([True, False]))
    rest = model.step(ids[:, 10:], again)
    torch.testing.assert_close(torch.cat((first, rest), 1)[1], whole[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(rest[0], model.hidden(ids[:, 10:])[0], rtol=1e-3, atol=1e-4)


def test_every_tensor_learns_and_the_loop_is_switched_by_the_depth() -> None:
    torch.manual_seed(0)
    model = build_model(config_from_dict(record(untied=True)), VOCAB)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizers = Optimizers(model, OptimizerConfig())
    for _ in range(4):
        ids = _ids(2, 33)
        optimizers.zero_grad()
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        optimizers.step()
    still = [name for name, parameter in model.named_parameters() if torch.equal(parameter, start[name])]
    assert not still
    ids = _ids()
    losses = []
    for depth in (1, 2):
        model.set_depth(depth)
        losses.append(float(model.loss(ids[:, :-1], ids[:, 1:]).detach()))
    assert losses[0] != losses[1]


def test_matrices_that_read_start_orthogonal_and_those_that_write_at_zero() -> None:
    torch.manual_seed(0)
    model = build_model(config_from_dict(record()), VOCAB)
    for name, parameter in model.named_parameters():
        if name.startswith("blocks.") and model.role(name) in ("attention", "mlp"):
            if name.endswith("output.weight"):
                assert not parameter.any()
            else:
                small = parameter @ parameter.T if parameter.size(0) <= parameter.size(1) else parameter.T @ parameter
                torch.testing.assert_close(small, torch.eye(len(small)), rtol=0, atol=1e-5)


def test_compiled_layers_give_the_same_gradients() -> None:
    ids, gradients = _ids(2, 25), []
    for compiled in (False, True):
        model = _model()
        if compiled:
            model.compile_layers(backend="eager")
        for depth in (1, 2):
            model.set_depth(depth)
            model.loss(ids[:, :-1], ids[:, 1:]).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loop": [2, 1]}, r"loop: found \[2, 1\], expected first <= last < layers \(4\)"),
        ({"loop": [1, 4]}, r"loop: found \[1, 4\]"),
        ({"repeats": 1, "untied": True}, "untied: found true with repeats 1"),
        ({"rope_dims": 14}, "rope_dims: found 14, expected an even one up to the head width 12"),
        ({"rope_dims": 3}, "rope_dims: found 3"),
        ({"gate_width": 25}, r"gate_width: found 25, expected 0 to width \(24\)"),
        ({"heads": 5}, "heads: found 5, expected a divisor of width 24"),
        ({"hash_rows": 1}, "hash_rows: found 1, expected 0"),
        ({"hash_width": 0}, "hash_width: found 0, expected at least 1"),
    ],
)
def test_wrong_configurations_name_the_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        config_from_dict(record(**changes))
