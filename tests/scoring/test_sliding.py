"""Sliding pass: against one forward pass per target, exactly once, and independent of the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from golf.scoring.network import RoundtripConfig, SlidingConfig, score_rows, window_nats
from golf.scoring.text import ScoringError, ValidationText
from scores import score_windows
from tiny import recurrent, shaken

VOCAB = 40


def tiny_model() -> torch.nn.Module:
    return shaken(recurrent(width=24, blocks=1, kv_heads=2), VOCAB, seed=1, noise=0.3)


def random_text(num_tokens: int) -> ValidationText:
    rng = np.random.default_rng(3)
    return ValidationText(rng.integers(0, VOCAB, num_tokens), np.array([0, 30]), np.array([90, 200]), VOCAB)


def config(window: int, stride: int, batch: int) -> SlidingConfig:
    return SlidingConfig(window=window, stride=stride, batch=batch, precision="fp32")


def test_every_target_has_the_context_the_definition_gives_it() -> None:
    """Naive: for each target find its window by hand, run the model on the tokens before it alone, read one row."""
    model, text, window, stride = tiny_model(), random_text(150), 32, 12
    nats, windows = window_nats(model, text, config(window, stride, 4))
    with torch.no_grad():
        for target in range(text.num_targets):
            start = 0 if target < window else stride * -(-(target + 1 - window) // stride)
            logits = model.logits(model.hidden(torch.from_numpy(text.tokens[None, start : target + 1])))[0, -1]
            expected = -torch.log_softmax(logits.double(), dim=0)[text.tokens[target + 1]]
            assert nats[target] == pytest.approx(float(expected), abs=2e-6)
            assert target < window or target + 1 - start > window - stride
    assert windows == 1 + 10  # 149 - 32 = 117 targets behind the first window


def test_score_is_the_same_to_the_last_digit_for_every_batch_size() -> None:
    model, text = tiny_model(), random_text(3000)
    reference = score_windows(model, text, config(48, 16, 32)).doc_nats
    for batch in (1, 3, 500):
        np.testing.assert_array_equal(score_windows(model, text, config(48, 16, batch)).doc_nats, reference)


def test_stride_of_the_window_is_the_round_trip() -> None:
    model, text = tiny_model(), random_text(300)
    roundtrip = score_windows(model, text, RoundtripConfig(window=32, batch=4, precision="fp32"))
    np.testing.assert_array_equal(score_windows(model, text, config(32, 32, 4)).doc_nats, roundtrip.doc_nats)


def test_head_sees_each_target_once() -> None:
    model, text, rows = tiny_model(), random_text(2000), []
    logits = model.logits
    model.logits = lambda hidden: rows.append(len(hidden)) or logits(hidden)
    score_windows(model, text, config(64, 16, 8))
    assert text.num_targets <= sum(rows) <= text.num_targets + 64, "the scored rows, the last piece padded to 64"


def test_a_target_scored_twice_stops_the_run() -> None:
    from golf.scoring.network import WindowPlan, iterate_rows

    model, text = tiny_model(), random_text(40)
    twice = WindowPlan(np.array([0, 8]), np.array([32, 31]), np.array([0, 23]), window=32)
    with pytest.raises(RuntimeError, match="exactly once, 1 of 39 were not"):
        score_rows(iterate_rows(model, text, twice, batch=2), text)


def test_window_longer_than_the_text_is_refused() -> None:
    with pytest.raises(ScoringError, match="window is 64 tokens, the validation stream has 59 targets"):
        score_windows(tiny_model(), random_text(60), config(64, 8, 1))
