"""Test-time training: documents learn apart and only from what was scored, whatever their order and their company."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from golf.base.params import ParamsError, from_dict, to_dict
from golf.models.base import LanguageModel
from golf.scoring.text import ScoringError, ValidationText
from golf.scoring.ttt import BETA2, EPS, DocumentWeights, TttConfig, iterate_ttt, score_ttt
from tiny import flat, hybrid, record, recurrent, shaken

VOCAB = 30
STARTS = (0, 70, 75, 203, 300)
CONFIG = TttConfig(
    **{"enabled": True, "window": 48, "update_tokens": 16, "rank": 2, "learning_rate": 0.01, "batch": 3},
    **{"precision": "fp32"},
)
FAMILIES = {"recurrent": recurrent(blocks=1), "flat": flat(), "record": record(), "hybrid": hybrid()}


def tiny_model(family: str = "recurrent") -> LanguageModel:
    return shaken(FAMILIES[family], VOCAB, seed=1, noise=0.2)


def make_text(order: tuple[int, ...] = (0, 1, 2, 3, 4)) -> ValidationText:
    """A few phrases again and again, something that pays to learn, with the documents in this ``order``."""
    rng = np.random.default_rng(3)
    tokens = rng.integers(2, VOCAB, (3, 5))[rng.integers(3, size=70)].reshape(-1)
    tokens[list(STARTS)] = 1
    documents = np.split(tokens, STARTS[1:])
    chosen = [documents[k] for k in order]
    starts = np.cumsum([0, *map(len, chosen[:-1])])
    return ValidationText(np.concatenate(chosen), starts, np.ones(5, dtype=np.int64), VOCAB)


@functools.cache
def nats(family: str = "recurrent", **changes: Any) -> np.ndarray:
    return score_ttt(tiny_model(family), make_text(), dataclasses.replace(CONFIG, **changes)).nats


def test_it_learns_and_leaves_the_model_as_it_was() -> None:
    model, text = tiny_model(), make_text()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learnt = score_ttt(model, text, CONFIG)
    assert learnt.total_nats < 0.98 * score_ttt(model, text, dataclasses.replace(CONFIG, learning_rate=0.0)).total_nats
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_before_it_learns_a_document_has_the_score_of_the_model_alone(family: str) -> None:
    model, text = tiny_model(family), make_text()
    plain, learnt = nats(family, window=128, learning_rate=0.0), nats(family, window=128)
    ends = (*STARTS[1:], len(text.tokens) - 1)
    for start, end in zip(STARTS, ends, strict=True):
        with torch.no_grad():
            logits = model.logits(model.hidden(torch.from_numpy(text.tokens[None, start:end])))[0]
            wanted = F.cross_entropy(logits, torch.from_numpy(text.tokens[start + 1 : end + 1]), reduction="none")
        if family != "hybrid":  # whose attention has a window of its own
            np.testing.assert_allclose(plain[start:end], wanted.numpy(), atol=1e-4)
        first, later = slice(start, min(start + 16, end)), slice(start + 16, end)
        np.testing.assert_allclose(learnt[first], plain[first], atol=1e-6)
        assert end - start <= 16 or np.abs(learnt[later] - plain[later]).max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_neither_order_nor_company_of_documents_is_in_the_score(family: str) -> None:
    """Bit for bit, with documents that end within a batch and attention that has forgotten their beginning."""
    inside = np.concatenate([np.arange(a, b - 1) for a, b in zip(STARTS, (*STARTS[1:], 350), strict=True)])
    wanted, order = nats(family), (3, 1, 4, 0, 2)
    for batch in (1, 5):
        np.testing.assert_array_equal(nats(family, batch=batch), wanted)
    found = score_ttt(tiny_model(family), make_text(order), CONFIG).nats
    back = np.concatenate([np.arange(a, b) for a, b in (np.array([*STARTS, 350])[[k, k + 1]] for k in order)])
    restored = np.empty(350)
    restored[back] = np.append(found, np.nan)
    np.testing.assert_array_equal(restored[inside], wanted[inside])


class _List:
    """Stands where a ``StreamStep`` does: keys of earlier pieces in a list, as they were, without gradients."""

    def __init__(self, kept: dict[int, list[tuple[Tensor, Tensor]]]) -> None:
        self.kept, self.layer = kept, 0

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        earlier = self.kept.setdefault(self.layer, [])
        self.layer += 1
        keys, values = (torch.cat(parts, 2) for parts in zip(*earlier, (k, v), strict=True))
        earlier.append((k.detach(), v.detach()))
        mask = torch.ones(q.size(2), keys.size(2), dtype=torch.bool).tril(keys.size(2) - q.size(2))
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=True)


def test_a_naive_copy_of_the_weights_gives_the_same_scores() -> None:
    """By hand, for a model without loops: W + up @ down written into the matrices, one document, Adam spelled out."""
    model, text = tiny_model("flat"), make_text()
    first = DocumentWeights(model, CONFIG).weights
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    original = [linear.weight.detach().clone() for linear in linears]
    table = model.token_embedding.detach().clone()
    found: list[float] = []
    for start, end in zip(STARTS, (*STARTS[1:], 349), strict=True):
        pairs = [(d[0].detach().clone(), u[0].detach().clone()) for d, u in zip(first[::2], first[1::2], strict=True)]
        squares = [(torch.zeros_like(d), torch.zeros_like(u)) for d, u in pairs]
        kept: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for step, begin in enumerate(range(start, end, 16), 1):
            stop = min(begin + 16, end)
            for linear, w, (d, u) in zip(linears, original, pairs, strict=False):
                linear.weight.data.copy_(w + u @ d)
            head = (table + pairs[-1][1] @ pairs[-1][0]).requires_grad_()
            matrices = [*(linear.weight for linear in linears), head]
            rope: Any = model._rope(torch.arange(begin - start, stop - start))  # type: ignore[operator]
            hidden = model._run(torch.from_numpy(text.tokens[None, begin:stop]), rope, _List(kept))  # type: ignore[operator]
            logits = 30.0 * torch.tanh(F.linear(hidden[0], head) / 30.0)
            loss = F.cross_entropy(logits, torch.from_numpy(text.tokens[begin + 1 : stop + 1]), reduction="none")
            found += loss.tolist()
            gradients = torch.autograd.grad(loss.mean(), matrices)
            for (d, u), (d2, u2), g in zip(pairs, squares, gradients, strict=True):
                for weight, square, gradient in ((d, d2, u.T @ g), (u, u2, g @ d.T)):
                    square.mul_(BETA2).add_(gradient**2, alpha=1 - BETA2)
                    change = gradient / ((square / (1 - BETA2**step)).sqrt() + EPS)
                    weight.sub_(CONFIG.learning_rate * change)
    np.testing.assert_allclose(nats("flat", window=128), found, atol=5e-4)


def test_every_pass_of_a_loop_has_weights_of_its_own_and_all_of_them_learn() -> None:
    model, text = tiny_model(), make_text()
    weights = DocumentWeights(model, CONFIG)
    assert len(weights.weights) == 2 * (2 * 6 + 1)  # one block of six matrices, applied twice, and the head
    for _ in zip(range(4), iterate_ttt(model, text, CONFIG, weights=weights), strict=False):
        pass
    fresh = DocumentWeights(model, CONFIG).weights
    assert all((found[0] != begun[0]).any() for found, begun in zip(weights.weights, fresh, strict=True))
    assert not torch.equal(weights.weights[1], weights.weights[13])


@pytest.mark.parametrize(
    "changes", [{"window": 24}, {"update_tokens": 8}, {"rank": 1}, {"learning_rate": 0.02}, {"precision": "bf16"}]
)
def test_every_knob_moves_the_score(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("golf.scoring.network._has_bf16", lambda device: True)
    assert not np.array_equal(nats(**changes), nats())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank: found 0 .*, expected int, 1 or more"),
        ({"update_tokens": 0}, "update_tokens: found 0"),
        ({"learning_rate": -1.0}, "learning_rate: found -1.0 .*, expected float, 0 or more"),
        ({"batch": 0}, "batch: found 0"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        from_dict(TttConfig, to_dict(CONFIG) | changes)


def test_a_model_without_matrices_is_named() -> None:
    with pytest.raises(ScoringError, match=r"no nn\.Linear of role attention or mlp"):
        DocumentWeights(torch.nn.Sequential(), CONFIG)
