"""Behavior of whole models: the naive forward pass, step-0 loss, causality, depth, streaming, compilation, knobs."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from golf.models.base import LanguageModel
from golf.models.depth_recurrent import DepthRecurrent
from golf.models.registry import build_model, config_from_dict

COMMON = {
    "heads": 4, "kv_heads": 2, "mlp_ratio": 2.0, "softcap": 30.0, "rope_base": 1e4, "qk_gain": 1.5, "norm_eps": 1e-6,
}  # fmt: skip
RECURRENT = COMMON | {
    "family": "depth_recurrent", "width": 32, "blocks": 3, "repeats": 3, "value_tables": 2,
    "cross_repeat_skip": True, "xsa_last": 4, "negative_slope": 0.5,
}  # fmt: skip
FLAT = COMMON | {"family": "transformer", "width": 32, "layers": 5, "unet_skips": True, "negative_slope": 0.0}
FAMILIES = pytest.mark.parametrize("data", [RECURRENT, FLAT], ids=lambda d: d["family"])


def _model(data: dict[str, Any], *, vocab: int = 50, noise: float = 0.1) -> LanguageModel:
    """A model whose zero-initialized parts are shaken, so that every path shows."""
    torch.manual_seed(0)
    model = build_model(config_from_dict(data), vocab)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


def _ids(batch: int, tokens: int, vocab: int = 50) -> Tensor:
    return torch.randint(0, vocab, (batch, tokens), generator=torch.Generator().manual_seed(1))


def _norm(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def _naive_block(w: dict[str, Tensor], x: Tensor, x0: Tensor, *, xsa: bool, slope: float) -> Tensor:
    x = w["residual_mix"][0] * x + w["residual_mix"][1] * x0
    n = _norm(x)
    tokens, heads, group, width = x.size(0), 4, 2, 8
    q = _norm((n @ w["attention.query.weight"].T).view(tokens, heads, width))
    k = _norm((n @ w["attention.key.weight"].T).view(tokens, 2, width))
    v = (n @ w["attention.value.weight"].T).view(tokens, 2, width)
    angle = torch.arange(tokens)[:, None, None] * 1e4 ** (-torch.arange(4) / 4)

    def turn(z: Tensor) -> Tensor:
        a, b = z[..., :4], z[..., 4:]
        return torch.cat((a * angle.cos() + b * angle.sin(), -a * angle.sin() + b * angle.cos()), -1)

    q, k = turn(q) * w["attention.query_gain"][:, None], turn(k)
    y = torch.zeros(tokens, heads, width)
    for t in range(tokens):
        for h in range(heads):
            p = (k[: t + 1, h // group] @ q[t, h] / math.sqrt(width)).softmax(0)
            y[t, h] = p @ v[: t + 1, h // group]
            if xsa:
                unit = v[t, h // group] / v[t, h // group].norm()
                y[t, h] -= (y[t, h] @ unit) * unit
    x = x + w["attention_scale"] * (y.reshape(tokens, -1) @ w["attention.output.weight"].T)
    m = F.leaky_relu(_norm(x) @ w["mlp.input.weight"].T, slope) ** 2
    return x + w["mlp_scale"] * (m @ w["mlp.output.weight"].T)


def _weights(model: LanguageModel, block: int) -> dict[str, Tensor]:
    prefix = f"blocks.{block}."
    return {k.removeprefix(prefix): v for k, v in model.state_dict().items() if k.startswith(prefix)}


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_recurrent_forward_equals_a_naive_loop(depth: int) -> None:
    model, ids = _model(RECURRENT), _ids(1, 7)
    model.set_depth(depth)
    s = model.state_dict()
    x0 = x = _norm(s["token_embedding"][ids[0]])
    previous: list[Tensor] = []
    for r in range(depth):
        outputs = []
        for b in range(3):
            layer = 3 * r + b
            x = x + s["loop_vectors"][layer]
            for i in range(2):
                x = x + s["value_scales"][layer, i] * s[f"value_embeddings.{i}"][ids[0]]
            if r > 0:
                x = x + s["cross_repeat_scales"][b, r - 1] * previous[b]
            x = _naive_block(_weights(model, b), x, x0, xsa=layer >= 3 * depth - 4, slope=0.5)
            outputs.append(x)
        previous = outputs
    torch.testing.assert_close(model.hidden(ids)[0], _norm(x), rtol=1e-3, atol=1e-4)


def test_flat_forward_equals_a_naive_loop_with_skips_last_first() -> None:
    model, ids = _model(FLAT), _ids(1, 7)
    s = model.state_dict()
    x0 = x = _norm(s["token_embedding"][ids[0]])
    kept = []
    for layer in range(5):
        if layer in (2, 3):
            x = x + s["skip_scales"][layer - 2] * kept[3 - layer]
        x = _naive_block(_weights(model, layer), x, x0, xsa=False, slope=0.0)
        kept.append(x)
    torch.testing.assert_close(model.hidden(ids)[0], _norm(x), rtol=1e-3, atol=1e-4)


def test_exclusive_layers_move_with_the_depth() -> None:
    model = build_model(config_from_dict(RECURRENT | {"repeats": 5}), 50)
    assert isinstance(model, DepthRecurrent)
    published = {2: [2, 3, 4, 5], 3: [5, 6, 7, 8], 4: [8, 9, 10, 11], 5: [11, 12, 13, 14]}
    for depth, layers in published.items():
        assert list(model.exclusive_layers(depth)) == layers
    assert list(model.exclusive_layers(1)) == [0, 1, 2]


@FAMILIES
def test_initial_loss_is_that_of_the_closed_form(data: dict[str, Any]) -> None:
    # blocks start as the identity, so z_v = e_x.e_v / rms(e_x): the seen token scores 0.005 * width, the rest noise
    torch.manual_seed(0)
    model = build_model(config_from_dict(data | {"width": 832, "heads": 8}), 1024)
    ids = _ids(2, 129, 1024)
    loss = float(model.loss(ids[:, :-1], ids[:, 1:]).detach())
    variance = 0.005**2 * 832
    assert loss == pytest.approx(math.log(1023 * math.exp(variance / 2) + math.exp(0.005 * 832)), abs=0.03)


@FAMILIES
def test_no_position_sees_a_later_token(data: dict[str, Any]) -> None:
    model, ids = _model(data), _ids(1, 12)
    other = ids.clone()
    other[0, 8] = (other[0, 8] + 1) % 50
    before, after = model.hidden(ids), model.hidden(other)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8], after[:, 8])


@FAMILIES
def test_loss_is_the_mean_of_the_scored_logits(data: dict[str, Any]) -> None:
    model, ids = _model(data), _ids(3, 9)
    model.loss_rows = 5
    logits = model.logits(model.hidden(ids[:, :-1]))
    assert logits.dtype == torch.float32
    expected = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(model.loss(ids[:, :-1], ids[:, 1:]), expected)
    torch.testing.assert_close(model(ids[:, :-1], ids[:, 1:]), expected)


@pytest.mark.parametrize(("vocabulary", "rows"), [(1024, 65_536), (8192, 8192), (131_072, 2048)])
def test_a_gpu_turns_268_mb_of_logits_at_a_time_and_never_fewer_rows_than_a_cpu(vocabulary: int, rows: int) -> None:
    model = mock.Mock(vocab_size=vocabulary, loss_rows=2048)
    head = model.layer_function.return_value
    for on_gpu, expected in ((True, rows), (False, 2048)):
        LanguageModel.loss(model, mock.Mock(is_cuda=on_gpu), mock.Mock())
        assert head.call_args.args[-1] == expected


def test_wrong_depth_is_refused() -> None:
    model = _model(RECURRENT)
    for depth in (0, 4):
        with pytest.raises(ValueError, match=f"depth: found {depth}, expected 1 to 3"):
            model.set_depth(depth)
    assert _model(FLAT).max_depth == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cross_repeat_skip", False), ("value_tables", 0), ("xsa_last", 0), ("negative_slope", 0.1), ("qk_gain", 3.0),
        ("rope_base", 100.0), ("norm_eps", 0.5), ("softcap", 1.0), ("mlp_ratio", 1.0), ("blocks", 2), ("heads", 2),
    ],
)  # fmt: skip
def test_every_model_key_changes_the_loss(key: str, value: object) -> None:
    ids = _ids(2, 20)
    losses = [float(_model(RECURRENT | change).loss(ids, ids.roll(1)).detach()) for change in ({}, {key: value})]
    assert losses[0] != losses[1]


@FAMILIES
@pytest.mark.parametrize("cuts", [[1] * 24, [24], [5, 1, 18], [8, 8, 8]])
def test_streaming_equals_one_window_however_the_text_is_cut(data: dict[str, Any], cuts: list[int]) -> None:
    model, ids = _model(data), _ids(2, 24)
    state = model.new_state(2, 24, chunk=7)
    streamed = torch.cat([model.step(piece, state) for piece in ids.split(cuts, dim=1)], dim=1)
    torch.testing.assert_close(streamed, model.hidden(ids), rtol=1e-3, atol=1e-4)


@FAMILIES
def test_streaming_beyond_the_window_is_the_same_for_every_cut_and_chunk(data: dict[str, Any]) -> None:
    model, ids = _model(data), _ids(1, 60)
    results = []
    for chunk, cut in ((1, 1), (4, 60), (16, 9), (64, 60)):
        state = model.new_state(1, 10, chunk=chunk)
        results.append(torch.cat([model.step(piece, state) for piece in ids.split(cut, dim=1)], dim=1))
        assert int(state.position) == 60
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("chunk", "window"), [(40, 10), (7, 10), (4, 1), (40, 3)])
def test_queries_stream_in_blocks_that_read_only_keys_they_may_see(
    monkeypatch: pytest.MonkeyPatch, chunk: int, window: int
) -> None:
    """Work grows with window + block, whatever the chunk; the result is that of one mask over all keys."""
    monkeypatch.setattr("golf.models.stream.BLOCK", 4)
    model, ids = _model(FLAT | {"layers": 1, "unet_skips": False}), _ids(2, 60)
    read: list[tuple[int, int]] = []
    attend = F.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        read.append((q.size(2), k.size(2)))
        return attend(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    streamed = model.step(ids, model.new_state(2, window, chunk))
    assert sum(queries for queries, _ in read) == 60
    assert all(queries <= 4 and keys <= window + queries for queries, keys in read)
    alone = [model.hidden(ids[:, max(0, t + 1 - window) : t + 1])[:, -1] for t in range(60)]  # one layer: no more reach
    torch.testing.assert_close(streamed, torch.stack(alone, dim=1), rtol=1e-3, atol=1e-4)


def test_streamed_tokens_reach_back_a_window_per_layer_and_no_further() -> None:
    model = _model(FLAT | {"layers": 1, "unet_skips": False})
    ids = _ids(1, 20)
    other = ids.clone()
    other[0, 9] = (other[0, 9] + 1) % 50
    first, second = (model.step(x, model.new_state(1, 6)) for x in (ids, other))
    changed = [(first[0, t] - second[0, t]).abs().max() > 1e-6 for t in range(20)]
    assert [t for t in range(20) if changed[t]] == [9, 10, 11, 12, 13, 14]


def test_reset_streams_forget_while_others_go_on() -> None:
    model, ids = _model(RECURRENT), _ids(2, 20)
    state, untouched = model.new_state(2, 16), model.new_state(2, 16)
    model.step(ids[:, :8], state)
    model.step(ids[:, :8], untouched)
    state.reset(torch.tensor([True, False]))
    out, plain = model.step(ids[:, 8:], state), model.step(ids[:, 8:], untouched)
    fresh = model.hidden(ids[:1, 8:])
    torch.testing.assert_close(out[:1], fresh, rtol=1e-3, atol=1e-4)
    assert torch.equal(out[1], plain[1]) and not torch.allclose(out[0], plain[0])


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_reset_streams_stay_apart_when_kept_keys_move(cut: int) -> None:
    model, ids = _model(FLAT), _ids(2, 50)
    state = model.new_state(2, 16, chunk=8)
    model.step(ids[:, :13], state)
    state.reset(torch.tensor([True, False]))
    out = torch.cat([model.step(piece, state) for piece in ids[:, 13:].split(cut, dim=1)], dim=1)
    torch.testing.assert_close(out[:1], model.step(ids[:1, 13:], model.new_state(1, 16)), rtol=1e-3, atol=1e-4)


def test_wrong_stream_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="streaming window: found 0, expected 1 or more"):
        _model(FLAT).new_state(1, 0)


@FAMILIES
def test_same_seed_gives_the_same_weights_and_losses(data: dict[str, Any]) -> None:
    ids = _ids(2, 16)
    with torch.autocast("cpu", torch.bfloat16):
        losses = [float(_model(data).loss(ids, ids.roll(1)).detach()) for _ in range(2)]
    assert losses[0] == losses[1]


@FAMILIES
def test_low_precision_stays_close_to_float32(data: dict[str, Any]) -> None:
    model, ids = _model(data), _ids(2, 16)
    exact = float(model.loss(ids, ids.roll(1)).detach())
    with torch.autocast("cpu", torch.bfloat16):
        assert model.hidden(ids).dtype == torch.bfloat16
        assert float(model.loss(ids, ids.roll(1)).detach()) == pytest.approx(exact, abs=0.05)


def _counted(counts: list[int]) -> Any:
    def backend(graph: Any, _inputs: Any) -> Any:
        counts.append(1)
        return graph.forward

    return backend


def test_loss_compiles_whole_once_per_depth_and_never_again() -> None:
    torch.compiler.reset()
    model, ids, counts = _model(RECURRENT | {"blocks": 1, "xsa_last": 1, "repeats": 2}), _ids(2, 16), list[int]()
    compiled = torch.compile(model.loss, backend=_counted(counts), fullgraph=True, dynamic=False)
    for _ in range(2):
        for depth in (1, 2):
            model.set_depth(depth)
            for _ in range(2):
                torch.testing.assert_close(compiled(ids, ids.roll(1)), model.loss(ids, ids.roll(1)))
    assert len(counts) == 2


@FAMILIES
def test_compiled_layers_give_the_same_gradients_and_are_shared_by_all_depths(data: dict[str, Any]) -> None:
    torch.compiler.reset()
    ids, counts = _ids(2, 16), list[int]()
    plain, compiled = _model(data), _model(data)
    compiled.compile_layers(backend=_counted(counts))
    for depth in (*range(1, plain.max_depth + 1), plain.max_depth):
        results = []
        for model in (plain, compiled):
            model.set_depth(depth)
            model.zero_grad()
            loss = model.loss(ids, ids.roll(1))
            loss.backward()
            results.append((loss.detach(), [p.grad for p in model.parameters()]))
        torch.testing.assert_close(results[1], results[0])
    assert len(counts) <= 7  # first layer or not, skip or not, XSA or not, and the head: whatever the depth
