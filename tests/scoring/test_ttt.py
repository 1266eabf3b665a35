"""Test-time training: learns only from what was scored, starts anew where it says, and every knob acts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from golf.base.params import ParamsError, from_dict, to_dict
from golf.scoring.network import SlidingConfig
from golf.scoring.text import ScoringError, ValidationText
from golf.scoring.ttt import LowRank, TttConfig, iterate_ttt, score_ttt
from scores import score_windows
from tiny import recurrent, shaken

VOCAB = 30
CONFIG = TttConfig(
    **{"enabled": True, "window": 32, "stride": 16, "update_windows": 2, "rank": 2, "learning_rate": 0.01},
    **{"group_documents": 0, "precision": "fp32"},
)


def tiny_model() -> torch.nn.Module:
    return shaken(recurrent(width=24, blocks=1, kv_heads=2), VOCAB, seed=1, noise=0.2)


def make_text() -> ValidationText:
    """A few phrases again and again: something that pays to learn."""
    rng = np.random.default_rng(3)
    tokens = rng.integers(2, VOCAB, (3, 5))[rng.integers(3, size=80)].reshape(-1)
    starts = np.array([0, 70, 203, 300])
    tokens[starts] = 1
    return ValidationText(tokens, starts, np.array([100, 200, 300, 50]), VOCAB)


def nats(**changes: Any) -> np.ndarray:
    return score_ttt(tiny_model(), make_text(), dataclasses.replace(CONFIG, **changes)).nats


def test_it_learns_and_leaves_the_model_as_it_was() -> None:
    model, text = tiny_model(), make_text()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = score_windows(model, text, SlidingConfig(window=32, stride=16, batch=2, precision="fp32"))
    learnt = score_ttt(model, text, CONFIG)
    assert learnt.total_nats < 0.95 * plain.total_nats
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    again = score_windows(model, text, SlidingConfig(window=32, stride=16, batch=2, precision="fp32"))
    np.testing.assert_array_equal(again.nats, plain.nats)


def test_without_learning_it_is_the_sliding_score() -> None:
    plain = score_windows(tiny_model(), make_text(), SlidingConfig(window=32, stride=16, batch=2, precision="fp32"))
    np.testing.assert_array_equal(nats(learning_rate=0.0), plain.nats)
    first = 32 + 16  # targets of the first pass, scored before anything was learnt
    np.testing.assert_allclose(nats()[:first], plain.nats[:first], atol=1e-6)
    assert np.abs(nats()[first:] - plain.nats[first:]).max() > 1e-3


def test_a_naive_copy_of_the_weights_gives_the_same_scores() -> None:
    """By hand: W + up @ down written into the matrices, plain Adam on the scored targets of each pass."""
    model, text, config = tiny_model(), make_text(), dataclasses.replace(CONFIG, update_windows=1)
    weights = LowRank(model, config)
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    pairs = [(d.detach().clone().requires_grad_(), u.detach().clone().requires_grad_())
             for d, u in zip(weights.weights[::2], weights.weights[1::2], strict=True)]  # fmt: skip
    adam = torch.optim.Adam([part for pair in pairs for part in pair], lr=config.learning_rate)
    original = [linear.weight.detach().clone() for linear in linears]
    found, scored = [], 0
    for end in [*range(32, text.num_targets, 16), text.num_targets]:
        start = max(scored - 16, 0)
        with torch.no_grad():
            for linear, w, (d, u) in zip(linears, original, pairs, strict=True):
                linear.weight.copy_(w + u @ d)
        ids, truth = text.tokens[start:end], torch.from_numpy(text.tokens[scored + 1 : end + 1])
        hidden = model.hidden(torch.from_numpy(ids[None]))[0, scored - start :]
        loss = torch.nn.functional.cross_entropy(model.logits(hidden), truth, reduction="none")
        found += loss.tolist()
        for linear in linears:
            linear.weight.grad = None
        loss.mean().backward()
        for linear, (d, u) in zip(linears, pairs, strict=True):
            d.grad, u.grad = u.detach().T @ linear.weight.grad, linear.weight.grad @ d.detach().T
        adam.step()
        scored = end
    np.testing.assert_allclose(score_ttt(tiny_model(), text, config).nats, found, atol=2e-4)


@pytest.mark.parametrize(
    "changes",
    [
        *({"window": 48}, {"stride": 8}, {"update_windows": 1}, {"rank": 1}, {"learning_rate": 0.02}),
        *({"group_documents": 1},),
    ],
)
def test_every_knob_moves_the_score(changes: dict[str, Any]) -> None:
    assert not np.array_equal(nats(**changes), nats())


def test_weights_start_anew_behind_a_group_and_the_future_does_not_tell() -> None:
    """A BOS within a pass resets nothing before that pass: it would be a look ahead."""
    model, text = tiny_model(), make_text()
    config = dataclasses.replace(CONFIG, group_documents=1)
    weights = LowRank(model, config)
    fresh, seen = weights.digest(), []
    for pieces in iterate_ttt(model, text, config, weights=weights):
        seen.append((int(pieces[0].targets[0]), weights.digest() == fresh))
    anew = [first for first, is_fresh in seen if is_fresh]
    assert anew == [0, *(min(f for f, _ in seen if f >= start) for start in (70, 203, 300))]
    tokens, starts = text.tokens.copy(), np.array([0, 70, 160, 203, 300])
    tokens[160] = 1  # within the pass of targets 144 to 175
    other = ValidationText(tokens, starts, np.ones(5, dtype=np.int64), VOCAB)
    a, b = score_ttt(model, text, config).nats, score_ttt(model, other, config).nats
    np.testing.assert_array_equal(a[:159], b[:159])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank: found 0 .*, expected int, 1 or more"),
        ({"update_windows": 0}, "update_windows: found 0"),
        ({"learning_rate": -1.0}, "learning_rate: found -1.0 .*, expected float, 0 or more"),
        ({"group_documents": -1}, "group_documents: found -1"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        from_dict(TttConfig, to_dict(CONFIG) | changes)


def test_a_stride_beyond_the_window_is_refused() -> None:
    with pytest.raises(ScoringError, match="stride is 99"):
        nats(stride=99)


def test_a_model_without_matrices_is_named() -> None:
    with pytest.raises(ScoringError, match=r"no nn\.Linear of role attention or mlp"):
        LowRank(torch.nn.Sequential(), CONFIG)
