"""The likeliest tokens of network and mixture are those of the distributions that are scored."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golf.base.errors import GolfError
from golf.mixture.config import MixtureConfig
from golf.mixture.stream import MixtureState
from golf.scoring import likeliest
from golf.scoring.likeliest import LikeliestRows, passages
from golf.scoring.mixture_score import HedgeConfig, score_mixture
from golf.scoring.record_stream import StreamingConfig, record_stream
from golf.scoring.text import ValidationText
from tiny import flat, shaken

VOCAB = 40
STREAMING = StreamingConfig(window=32, chunk=16, segment=500, warmup=64, streams=2, sampled_rows=16)


@pytest.fixture(scope="module")
def text() -> ValidationText:
    rng = np.random.default_rng(5)
    phrase = rng.integers(3, VOCAB, 25)
    tokens = np.concatenate([[1], phrase, rng.integers(3, VOCAB, 200), phrase, [1], phrase, rng.integers(3, 9, 150)])
    return ValidationText(tokens.astype(np.int64), np.array([0, 251]), np.array([250, 175]), VOCAB)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return shaken(flat(), VOCAB).eval()


@given(st.integers(1, 10**6), st.integers(2, 1 << 16))
def test_passages_are_targets_and_within_their_bounds(num_targets: int, vocab_size: int) -> None:
    found = passages(num_targets, vocab_size)
    assert found[0] >= 0 and found[-1] < num_targets and (np.diff(found) > 0).all()
    most = min(likeliest.PASSAGE_TARGETS, likeliest.PASSAGE_PROBABILITIES // vocab_size)
    shown = min(num_targets, likeliest.SHOWN_TARGETS)
    assert len(found) <= most and (len(found) == shown or len(found) > most // 2)
    assert found[0] == 0 and (len(found) < likeliest.PASSAGES or found[-1] == shown - 1)


def test_bug_passages_of_a_long_text_lay_behind_what_the_page_shows(text: ValidationText) -> None:
    long = dataclasses.replace(text, tokens=np.tile(text.tokens, 700), doc_starts=np.array([0, 251]))
    rows = LikeliestRows(long)
    assert long.num_targets > 2 * len(rows.network.targets)
    assert rows.passages[-1] == rows.network.targets[-1]


def test_the_networks_tokens_are_the_head_of_its_sorted_rows(text: ValidationText, model: torch.nn.Module) -> None:
    rows = LikeliestRows(text)
    record = record_stream(model, text, dataclasses.replace(STREAMING, sampled_rows=10_000), likeliest=rows)
    whole = record.sample_log_probs  # every target's
    order = np.argsort(-whole, axis=1, kind="stable")[:, : likeliest.TOKENS]
    np.testing.assert_array_equal(rows.network.ids, order)
    np.testing.assert_allclose(rows.network.probs, np.exp(np.take_along_axis(whole, order, axis=1)), rtol=1e-6)
    np.testing.assert_allclose(rows.rows, record.base.sample_log_probs, rtol=1e-6)  # what the mixture mixes over


@pytest.mark.parametrize("limit", [10_000, 64])
def test_the_mixtures_tokens_are_those_of_the_mixture_token_by_token(
    text: ValidationText, model: torch.nn.Module, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likeliest, "PASSAGE_TARGETS", limit)
    streaming, config = dataclasses.replace(STREAMING, sampled_rows=10_000), HedgeConfig()
    rows = LikeliestRows(text)
    record = record_stream(model, text, streaming, likeliest=rows)
    scored = score_mixture(text, record, streaming, config, rows)
    assert scored.likeliest is not None and len(scored.likeliest.targets) == min(limit, text.num_targets)
    state, place = MixtureState(MixtureConfig(streaming, config), vocab_size=VOCAB), 0
    state.update(1, starts_document=True)
    for target, row in enumerate(record.base.sample_log_probs):
        mixed, token = state.distribution(row), int(text.tokens[target + 1])
        if place < len(rows.passages) and rows.passages[place] == target:
            ids, probs = scored.likeliest.ids[place], scored.likeliest.probs[place]
            np.testing.assert_allclose(probs, np.sort(mixed)[::-1][: len(ids)], rtol=1e-5)
            np.testing.assert_allclose(probs, mixed[ids], rtol=1e-5)
            place += 1
        state.update(token, starts_document=target + 1 in text.doc_starts)
    assert place == len(rows.passages)


def test_no_score_changes_by_them(text: ValidationText, model: torch.nn.Module) -> None:
    rows = LikeliestRows(text)
    with_rows, without = (record_stream(model, text, STREAMING, likeliest=each) for each in (rows, None))
    np.testing.assert_array_equal(with_rows.nats, without.nats)
    scores = [score_mixture(text, without, STREAMING, HedgeConfig(), each) for each in (rows, None)]
    np.testing.assert_array_equal(scores[0].score.nats, scores[1].score.nats)
    counted = [{k: v for k, v in s.score.details.items() if not k.endswith("seconds")} for s in scores]
    assert counted[0] == counted[1] and scores[1].likeliest is None


def test_what_is_not_of_the_text_is_refused(text: ValidationText) -> None:
    rows = LikeliestRows(text)
    rows.rows[:] = -np.log(VOCAB)
    sound = rows.tensors()
    assert LikeliestRows.from_tensors(sound, text).tensors().keys() == sound.keys()
    for name, array in sound.items():
        for wrong in (array[:-1], array.astype(np.float64)):
            with pytest.raises(GolfError, match=rf"{name}: found "):
                LikeliestRows.from_tensors(sound | {name: wrong}, text)
    faults = (("network.ids", VOCAB), ("passages.rows", 0.1), ("passages.rows", np.nan), ("passages.targets", 1))
    for name, add in faults:
        with pytest.raises(GolfError, match="an id outside the vocabulary, a row that is no distribution"):
            LikeliestRows.from_tensors(sound | {name: sound[name] + np.array(add, sound[name].dtype)}, text)
