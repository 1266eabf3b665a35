"""Round-trip pass: against a loop over targets, and the same bits for every batch size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from golf.scoring import network
from golf.scoring.network import RoundtripConfig, iterate_rows, plan_roundtrip, score_rows
from golf.scoring.text import ScoringError, ValidationText
from scores import score_windows
from tiny import recurrent, shaken

VOCAB = 48


def tiny_model(seed: int = 0) -> torch.nn.Module:
    return shaken(recurrent(width=32), VOCAB, seed=seed, noise=0.3)


def random_text(num_tokens: int, seed: int = 0) -> ValidationText:
    rng = np.random.default_rng(seed)
    starts = np.unique(np.append(rng.integers(0, num_tokens, 7), 0))
    tokens = rng.integers(2, VOCAB, num_tokens)
    tokens[starts] = 1
    return ValidationText(tokens, starts, rng.integers(1, 9, len(starts)), VOCAB)


def config(window: int, batch: int) -> RoundtripConfig:
    return RoundtripConfig(window=window, batch=batch, precision="fp32")


def test_scores_equal_one_window_at_a_time() -> None:
    model, text, window = tiny_model(), random_text(333), 32
    plan = plan_roundtrip(text.num_targets, window)
    nats = score_rows(iterate_rows(model, text, plan, batch=3), text)
    naive = []
    with torch.no_grad():
        for start in range(0, text.num_targets, window):
            end = min(start + window, text.num_targets)
            hidden = model.hidden(torch.from_numpy(text.tokens[None, start:end]))
            log_probs = torch.log_softmax(model.logits(hidden)[0].double(), dim=-1)
            targets = torch.from_numpy(text.tokens[start + 1 : end + 1])
            naive.append(-log_probs.gather(1, targets[:, None])[:, 0])
    np.testing.assert_allclose(nats, torch.cat(naive).numpy(), atol=2e-6)
    score = score_windows(model, text, config(window, 3))
    assert score.total_nats == pytest.approx(float(torch.cat(naive).sum()), abs=1e-4)
    assert score.windows == 11
    assert int(score.doc_tokens.sum()) == 332


@pytest.mark.parametrize("window", [64, 48, 7])
def test_score_is_the_same_to_the_last_digit_for_every_batch_size(window: int) -> None:
    model, text = tiny_model(), random_text(2000)
    reference = score_windows(model, text, config(window, 32)).doc_nats
    for batch in (1, 2, 5, 1000):
        np.testing.assert_array_equal(score_windows(model, text, config(window, batch)).doc_nats, reference)


def test_only_scored_rows_pass_through_the_head() -> None:
    model, text, rows = tiny_model(), random_text(1000), []
    logits = model.logits
    model.logits = lambda hidden: rows.append(len(hidden)) or logits(hidden)
    score_windows(model, text, config(100, 4))
    assert sum(rows) == 400 + 400 + 199


def test_scoring_leaves_the_model_as_it_was() -> None:
    model, text = tiny_model(), random_text(200)
    model.train()
    score_windows(model, text, config(64, 4))
    assert model.training
    assert torch.is_grad_enabled()


def test_bf16_is_close_and_not_the_same_where_the_machine_computes_in_it() -> None:
    model, text = tiny_model(), random_text(500)
    full = score_windows(model, text, config(64, 4)).total_nats
    half = score_windows(model, text, RoundtripConfig(window=64, batch=4, precision="bf16")).total_nats
    assert (half != full) == network._has_bf16(torch.device("cpu"))
    assert half == pytest.approx(full, rel=0.02)


def test_broken_weights_are_named_not_averaged() -> None:
    model, text = tiny_model(), random_text(200)
    with torch.no_grad():
        model.token_embedding[int(text.tokens[5])] = float("nan")
    with pytest.raises(ScoringError, match=r"score of target \d+ is not finite"):
        score_windows(model, text, config(64, 4))


def test_batch_of_no_window_is_refused() -> None:
    with pytest.raises(ScoringError, match="batch is 0 windows"):
        score_windows(tiny_model(), random_text(200), config(64, 0))
