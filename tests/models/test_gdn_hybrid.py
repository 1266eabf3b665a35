"""GDN-Hybrid as a whole: ledgers, the naive forward pass, causality, streaming at any length, roles, every key."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from golf.base.params import ParamsError, read_params
from golf.models.base import LanguageModel
from golf.models.registry import build_model, config_from_dict
from golf.training.optimizers import group_ledger

TINY: dict[str, Any] = {
    "family": "gdn_hybrid", "layout": "gdn2_swa_gdn_swa_shared", "kv_share_stride": 2, "width": 24, "delta_heads": 3,
    "delta_key_dim": 8, "delta_value_dim": 6, "delta_chunk": 8, "delta_norm_eps": 1e-5,
    "conv_size": 4, "heads": 4, "kv_heads": 2, "window": 5, "rope_base": 1e4, "qk_gain": 1.5, "mlp_ratio": 2.0,
    "negative_slope": 0.25, "hash_rows": 40, "hash_width": 7, "smear": True, "bos_id": 1, "softcap": 30.0,
    "norm_eps": 1e-6,
}  # fmt: skip
BOS = 1


def _model(changes: dict[str, Any] | None = None, *, vocab: int = 50, noise: float = 0.1) -> LanguageModel:
    """A model whose zero-initialized parts are shaken, so that every path shows."""
    torch.manual_seed(0)
    model = build_model(config_from_dict(TINY | (changes or {})), vocab)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


def _ids(batch: int, tokens: int, vocab: int = 50, seed: int = 1) -> Tensor:
    """Random tokens with a document start in between."""
    ids = torch.randint(2, vocab, (batch, tokens), generator=torch.Generator().manual_seed(seed))
    ids[:, tokens // 3] = BOS
    return ids


def _shipped(root: Path, name: str, vocab: int = 1024, **changes: Any) -> LanguageModel:
    with torch.device("meta"):
        return build_model(config_from_dict(read_params(root / f"conf/model/{name}.yaml") | changes), vocab)


@pytest.mark.parametrize(
    ("changes", "vocab", "count"),
    [
        ({}, 1024, 33_862_953),
        ({"layout": "gdn10"}, 1024, 29_926_689),
        ({"layout": "gdn10", "width": 544, "kv_share_stride": 2}, 1024, 30_010_433),
        ({"layout": "gdn10", "width": 544, "kv_share_stride": 2}, 8192, 33_909_825),
        ({"layout": "gdn10", "width": 544}, 1024, 30_010_433 + 2_805_760),
    ],
)
def test_parameter_counts_match_the_published_ones(root: Path, changes: dict[str, Any], vocab: int, count: int) -> None:
    model = _shipped(root, "gdn_hybrid", vocab, **changes)
    assert model.num_parameters() == count
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == count  # shared weights are stored once


def test_parts_of_the_published_model_have_their_sizes(root: Path) -> None:
    model = _shipped(root, "gdn_hybrid")
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}

    def total(prefix: str) -> int:
        return sum(size for name, size in sizes.items() if name.startswith(prefix))

    assert total("blocks.0.attention.") == 1_325_136
    assert (total("blocks.5.attention."), total("blocks.11.attention.")) == (786_440, 0)
    assert total("hashes.") == 344_064 + 57_344 + 1
    assert total("smear.") == 512
    assert total("blocks.11.") == 1_572_864 + 2_048


def test_small_configuration_has_about_1_8_million_parameters(root: Path) -> None:
    assert 1_600_000 < _shipped(root, "gdn_hybrid_small").num_parameters() < 2_000_000


def test_roles_and_optimizer_groups(root: Path) -> None:
    model = _shipped(root, "gdn_hybrid")
    by_role: dict[str, set[str]] = {}
    for name in model.unique_parameters():
        by_role.setdefault(model.role(name), set()).add(name.split(".", 2)[-1] if "blocks" in name else name)
    assert by_role["embedding"] == {"token_embedding", "hashes.embedding"}
    assert by_role["attention"] == {f"attention.{m}.weight" for m in ("query", "key", "value", "gate", "output")}
    assert by_role["mlp"] == {"mlp.input.weight", "mlp.output.weight", "hashes.projection.weight"}
    assert by_role["control"] == {
        "hashes.scale", "smear.gate", "attention_scale", "mlp_scale", "residual_mix", "attention.query_gain",
        "attention.A_log", "attention.dt_bias", "attention.norm_gain", "attention.decay_weight",
        "attention.write_weight", "attention.query_conv", "attention.key_conv", "attention.value_conv",
    }  # fmt: skip
    ledger = group_ledger(model)
    assert {ledger[n] for n in ledger if n.endswith(("A_log", "dt_bias"))} == {"control"}
    assert len(model.quantizable_names()) == 2 + 1 + 10 * 5 + 4 + 12 * 2
    with pytest.raises(KeyError, match="blocks.11.attention"):
        model.role("blocks.11.attention.query.weight")


def _norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def _naive_embedding(s: dict[str, Tensor], ids: list[int]) -> Tensor:
    rows, raw = 40, []
    for i, x in enumerate(ids):
        one = ids[i - 1] if i >= 1 and x != BOS else None
        two = ids[i - 2] if i >= 2 and one not in (None, BOS) else None
        bigram = rows - 1 if one is None else ((36313 * x) ^ (27191 * one)) % (rows - 1)
        trigram = rows - 1 if two is None else ((36313 * x) ^ (27191 * (one or 0)) ^ (51497 * two)) % (rows - 1)
        hashed = s["hashes.projection.weight"] @ (s["hashes.embedding"][bigram] + s["hashes.embedding"][trigram])
        raw.append(_norm(s["token_embedding"][x] + s["hashes.scale"] * hashed))
    share = torch.sigmoid(s["smear.gate"])
    mixed = [raw[0]] + [
        raw[i] if ids[i] == BOS else (1 - share) * raw[i] + share * raw[i - 1] for i in range(1, len(ids))
    ]
    return torch.stack(mixed)


def _naive_conv(x: Tensor, weight: Tensor) -> Tensor:
    out = [sum(weight[:, j] * x[t - 3 + j] for j in range(4) if t - 3 + j >= 0) for t in range(len(x))]
    return F.silu(torch.stack(out))  # type: ignore[arg-type]


def _naive_gdn(w: dict[str, Tensor], kv: dict[str, Tensor], x: Tensor) -> Tensor:
    tokens = len(x)
    q = _naive_conv(x @ w["query.weight"].T, w["query_conv"]).view(tokens, 3, 8)
    k = _naive_conv(x @ kv["key.weight"].T, kv["key_conv"]).view(tokens, 3, 8)
    v = _naive_conv(x @ kv["value.weight"].T, kv["value_conv"]).view(tokens, 3, 6)
    q, k = (y / (y.square().sum(-1, keepdim=True) + 1e-6).sqrt() for y in (q, k))
    beta = torch.sigmoid(x @ w["write_weight"].T)
    alpha = (-w["A_log"].exp() * F.softplus(x @ w["decay_weight"].T + w["dt_bias"])).exp()
    gate = F.silu(x @ w["gate.weight"].T).view(tokens, 3, 6)
    out = torch.zeros(tokens, 3, 6, dtype=x.dtype)
    for h in range(3):
        state = torch.zeros(8, 6, dtype=x.dtype)
        for t in range(tokens):
            state = alpha[t, h] * state
            state = state + beta[t, h] * torch.outer(k[t, h], v[t, h] - state.T @ k[t, h])
            read = state.T @ q[t, h] / math.sqrt(8)
            out[t, h] = _norm(read, 1e-5) * w["norm_gain"] * gate[t, h]
    return out.reshape(tokens, -1) @ w["output.weight"].T


def _naive_swa(w: dict[str, Tensor], x: Tensor) -> Tensor:
    tokens = len(x)
    q = _norm((x @ w["query.weight"].T).view(tokens, 4, 6))
    k = _norm((x @ w["key.weight"].T).view(tokens, 2, 6))
    v = (x @ w["value.weight"].T).view(tokens, 2, 6)
    angle = torch.arange(tokens)[:, None, None] * 1e4 ** (-torch.arange(3, dtype=torch.float64) / 3)

    def turn(z: Tensor) -> Tensor:
        a, b = z[..., :3], z[..., 3:]
        return torch.cat((a * angle.cos() + b * angle.sin(), -a * angle.sin() + b * angle.cos()), -1)

    q, k = turn(q) * w["query_gain"][:, None], turn(k)
    out = torch.zeros(tokens, 4, 6, dtype=x.dtype)
    for t in range(tokens):
        near = slice(max(0, t - 4), t + 1)
        for h in range(4):
            out[t, h] = (k[near, h // 2] @ q[t, h] / math.sqrt(6)).softmax(0) @ v[near, h // 2]
    return out.reshape(tokens, -1) @ w["output.weight"].T


def test_forward_equals_a_naive_loop() -> None:
    model, ids = _model().double(), _ids(1, 19)
    s = model.state_dict()

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): x for name, x in s.items() if name.startswith(prefix)}

    x0 = x = _naive_embedding(s, ids[0].tolist())
    for index, source in enumerate([0, 0, 2, 3, 2]):
        b = part(f"blocks.{index}.")
        x = b["residual_mix"][0] * x + b["residual_mix"][1] * x0
        own, shared = part(f"blocks.{index}.attention."), part(f"blocks.{source}.attention.")
        mixed = _naive_swa(shared, _norm(x)) if source == 2 else _naive_gdn(own, shared, _norm(x))
        x = x + b["attention_scale"] * mixed
        x = x + b["mlp_scale"] * (
            F.leaky_relu(_norm(x) @ b["mlp.input.weight"].T, 0.25) ** 2 @ b["mlp.output.weight"].T
        )
    torch.testing.assert_close(model.hidden(ids)[0], _norm(x), rtol=1e-9, atol=1e-10)


def test_no_position_sees_a_later_token() -> None:
    model, ids = _model(), _ids(1, 30)
    other = ids.clone()
    other[0, 20:] = (other[0, 20:] + 7) % 50
    before, after = model.hidden(ids), model.hidden(other)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20], after[:, 20])


def test_a_document_embeds_the_same_wherever_it_stands() -> None:
    model: Any = _model()
    document, before = _ids(1, 12), _ids(1, 9, seed=5)
    document[0, 0] = BOS
    alone, after = model._embed(document, None), model._embed(torch.cat((before, document), 1), None)
    assert torch.equal(after[:, 9:], alone)
    leaky: Any = _model({"bos_id": -1})
    assert not torch.equal(leaky._embed(torch.cat((before, document), 1), None)[:, 9:], leaky._embed(document, None))


@pytest.mark.parametrize("cuts", [[1] * 40, [40], [3, 1, 36], [8] * 5])
def test_streaming_equals_one_pass_at_any_length_however_the_text_is_cut(cuts: list[int]) -> None:
    model, ids = _model(), _ids(2, 40)  # eight times the attention window
    state = model.new_state(2, 40, chunk=7)
    assert state.window == 5
    size = state.num_bytes()
    streamed = torch.cat([model.step(piece, state) for piece in ids.split(cuts, dim=1)], dim=1)
    torch.testing.assert_close(streamed, model.hidden(ids), rtol=1e-3, atol=1e-4)
    assert int(state.position) == 40 and state.num_bytes() == size


def test_a_narrower_streaming_window_is_respected() -> None:
    narrow, ids = _model({"window": 3}), _ids(1, 30)
    model = _model()
    torch.testing.assert_close(model.step(ids, model.new_state(1, 3)), narrow.hidden(ids), rtol=1e-3, atol=1e-4)


def test_reset_streams_forget_while_others_go_on() -> None:
    model, ids = _model(), _ids(2, 30)
    state, untouched = model.new_state(2, 16), model.new_state(2, 16)
    model.step(ids[:, :11], state)
    model.step(ids[:, :11], untouched)
    state.reset(torch.tensor([True, False]))
    out, plain = model.step(ids[:, 11:], state), model.step(ids[:, 11:], untouched)
    torch.testing.assert_close(out[:1], model.hidden(ids[:1, 11:]), rtol=1e-3, atol=1e-4)
    assert torch.equal(out[1], plain[1]) and not torch.allclose(out[0], plain[0])


def test_pure_gdn_streams_and_wrong_sizes_are_named() -> None:
    model, ids = _model({"layout": "gdn3", "hash_rows": 0, "smear": False}), _ids(2, 30)
    torch.testing.assert_close(model.step(ids, model.new_state(2, 4, chunk=7)), model.hidden(ids), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="streaming window: found 0, expected 1 or more"):
        model.new_state(1, 0)


def test_low_precision_stays_close_and_streams() -> None:
    model, ids = _model(), _ids(2, 30)
    exact = float(model.loss(ids, ids.roll(1)).detach())
    with torch.autocast("cpu", torch.bfloat16):
        assert model.hidden(ids).dtype == torch.bfloat16
        assert float(model.loss(ids, ids.roll(1)).detach()) == pytest.approx(exact, abs=0.05)
        state = model.new_state(2, 30, chunk=7)
        torch.testing.assert_close(model.step(ids, state), model.hidden(ids), rtol=0.1, atol=0.1)
        assert state.delta[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layout", "gdn2_swa_gdn_swa"), ("kv_share_stride", 0), ("width", 32), ("delta_heads", 2), ("delta_key_dim", 4),
        ("delta_value_dim", 4), ("delta_norm_eps", 0.5), ("conv_size", 2),
        ("heads", 2), ("kv_heads", 1), ("window", 4), ("rope_base", 10.0), ("qk_gain", 3.0), ("mlp_ratio", 1.0),
        ("negative_slope", 0.0), ("hash_rows", 0), ("hash_rows", 39), ("hash_width", 5), ("smear", False),
        ("bos_id", 7), ("softcap", 1.0), ("norm_eps", 0.5),
    ],
)  # fmt: skip
def test_every_model_key_changes_the_loss(key: str, value: object) -> None:
    ids = _ids(2, 20)
    losses = [float(_model(change).loss(ids, ids.roll(1)).detach()) for change in ({}, {key: value})]
    assert losses[0] != losses[1]
    assert set(TINY) == set(config_from_dict(TINY).__dataclass_fields__)


def test_delta_chunk_changes_nothing_but_rounding() -> None:
    ids = _ids(2, 20)
    losses = [_model({"delta_chunk": chunk}).double().loss(ids, ids.roll(1)).detach() for chunk in (1, 8, 64)]
    torch.testing.assert_close(losses[1:], [losses[0]] * 2, rtol=1e-6, atol=0)  # the head sums in float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "gdn5_mamba"}, "layout: found .mamba."),
        ({"hash_rows": 1}, "hash_rows: found 1, expected 0"),
        ({"hash_width": 0}, "hash_width: found 0"),
        ({"bos_id": -2}, "bos_id: found -2"),
        ({"window": 0}, "window: found 0 .*, expected int, 1 or more"),
        ({"heads": 7}, "heads: found 7, expected a divisor of width 24"),
        ({"mlp_ratio": 0.001}, "mlp_ratio"),
        ({"qk_gain": 1e300}, "qk_gain: found 1e\\+300"),
        ({"delta_head": 3}, "unknown key `delta_head`"),
    ],
)
def test_wrong_configurations_name_the_key(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        config_from_dict(TINY | changes)


def test_compiled_layers_give_the_same_gradients_from_few_graphs() -> None:
    torch.compiler.reset()
    counts: list[int] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        counts.append(1)
        return graph.forward

    ids, results = _ids(2, 20), []
    changes = {"layout": "gdn4_swa_gdn4_swa_shared", "kv_share_stride": 0}
    for compiled in (False, True):
        model = _model(changes)
        if compiled:
            model.compile_layers(backend=backend)
        loss = model.loss(ids, ids.roll(1))
        loss.backward()
        results.append((loss.detach(), [parameter.grad for parameter in model.parameters()]))
    torch.testing.assert_close(results[1], results[0])
    assert len(counts) <= 5  # two halves of gdn, swa own and borrowed, the head: whatever the number of layers


def test_the_whole_loss_compiles_to_one_graph() -> None:
    torch.compiler.reset()
    model, ids = _model({"layout": "gdn_swa"}), _ids(2, 20)
    compiled = torch.compile(model.loss, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(ids, ids.roll(1)), model.loss(ids, ids.roll(1)))
