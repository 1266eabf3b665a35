"""Streaming pass: equal to the whole-prefix model inside the first window, close to sliding on a trained model."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golf.base.params import ParamsError, from_dict, to_dict
from golf.models.registry import build_model, config_from_dict
from golf.scoring.network import RoundtripConfig, SlidingConfig, window_nats
from golf.scoring.streaming import PassConfig, plan_streams, streaming_nats
from golf.scoring.text import ScoringError, ValidationText
from scores import score_streaming, score_windows
from tiny import recurrent

VOCAB = 16


def make_text(num_tokens: int, seed: int) -> ValidationText:
    """Words of a small random lexicon: something a tiny model can learn."""
    lexicon = [np.random.default_rng(9 + i).integers(2, VOCAB, 3 + i % 4) for i in range(12)]
    rng = np.random.default_rng(seed)
    words = [np.append(lexicon[rng.integers(12)], 1) for _ in range(num_tokens)]
    return ValidationText(np.concatenate(words)[:num_tokens], np.array([0]), np.array([num_tokens]), VOCAB)


@functools.cache
def trained_model(repeats: int = 2) -> torch.nn.Module:
    torch.manual_seed(2)
    model = build_model(config_from_dict(recurrent(width=32, blocks=1, repeats=repeats)), VOCAB)
    tokens = torch.from_numpy(make_text(100 * 1024 + 1, seed=0).tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(100):
        first = 1024 * step
        loss = model.loss(tokens[first : first + 1024].view(16, 64), tokens[first + 1 : first + 1025].view(16, 64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1.9, "the tiny model learned something (log 16 = 2.77)"
    return model


def config(window: int = 64, chunk: int = 32, segment: int = 10**6, warmup: int = 0, streams: int = 4) -> PassConfig:
    return PassConfig(window=window, chunk=chunk, segment=segment, warmup=warmup, streams=streams, precision="fp32")


@given(st.integers(1, 300), st.integers(1, 400), st.integers(0, 50))
def test_segments_hold_every_target_once(num_targets: int, segment: int, warmup: int) -> None:
    plan = plan_streams(num_targets, segment=segment, warmup=warmup)
    spans = [np.arange(a, b) for a, b in zip(plan.first, plan.last, strict=True)]
    np.testing.assert_array_equal(np.concatenate(spans), np.arange(num_targets))
    assert (plan.begin == np.maximum(plan.first - warmup, 0)).all()
    assert (plan.last > plan.first).all()
    assert (plan.last - plan.first).max() <= segment


def test_first_window_equals_the_model_on_the_whole_prefix() -> None:
    model, text = trained_model(), make_text(65, seed=1)
    streamed = streaming_nats(model, text, config(window=64, chunk=7))
    with torch.no_grad():
        logits = model.logits(model.hidden(torch.from_numpy(text.tokens[None, :-1])))[0].double()
    log_probs = torch.log_softmax(logits, dim=-1).numpy()
    np.testing.assert_allclose(streamed, -log_probs[np.arange(64), text.tokens[1:]], atol=5e-6)


def test_chunk_does_not_change_the_score() -> None:
    model, text = trained_model(), make_text(300, seed=1)
    reference = streaming_nats(model, text, config(chunk=1))
    for chunk in (5, 64, 1000):
        np.testing.assert_allclose(streaming_nats(model, text, config(chunk=chunk)), reference, atol=1e-5)


def test_window_bounds_what_one_attention_layer_sees() -> None:
    """Two layers reach back 2 (window - 1) tokens; a token further back changes nothing, a nearer one does."""
    model, text = trained_model(), make_text(60, seed=1)
    reference = streaming_nats(model, text, config(window=8))
    tokens = text.tokens.copy()
    tokens[20] = (tokens[20] + 3) % VOCAB
    other = streaming_nats(model, ValidationText(tokens, text.doc_starts, text.doc_bytes, VOCAB), config(window=8))
    np.testing.assert_array_equal(other[:19], reference[:19])
    assert (np.abs(other[20:27] - reference[20:27]) > 1e-7).any()
    np.testing.assert_allclose(other[20 + 15 :], reference[20 + 15 :], atol=1e-6)


def test_one_attention_layer_makes_streaming_the_sliding_pass_of_stride_1() -> None:
    """Keys of one layer do not depend on context, so here the two functions are the same."""
    model, text = trained_model(repeats=1), make_text(300, seed=5)
    sliding, _ = window_nats(model, text, SlidingConfig(window=32, stride=1, batch=64, precision="fp32"))
    streamed = streaming_nats(model, text, config(window=32, chunk=9))
    np.testing.assert_allclose(streamed, sliding, atol=1e-5)


def test_close_to_sliding_and_better_than_round_trip_on_a_trained_model() -> None:
    model, text = trained_model(), make_text(3000, seed=5)
    sliding = score_windows(model, text, SlidingConfig(window=48, stride=8, batch=16, precision="fp32"))
    roundtrip = score_windows(model, text, RoundtripConfig(window=48, batch=16, precision="fp32"))
    streaming = score_streaming(model, text, config(window=48))
    assert streaming.bits_per_byte == pytest.approx(sliding.bits_per_byte, rel=0.005)
    assert streaming.bits_per_byte < 0.95 * roundtrip.bits_per_byte


def test_cuts_do_not_show_behind_a_warmup_of_the_reach_of_all_layers() -> None:
    """Two layers of 63 earlier keys each: 126 tokens of warm-up give the score of one unbroken pass."""
    model, text = trained_model(), make_text(2000, seed=6)
    one = streaming_nats(model, text, config())
    for segment in (700, 190, 64):
        cut = streaming_nats(model, text, config(segment=segment, warmup=126))
        np.testing.assert_allclose(cut, one, atol=5e-5)  # float32 rounding; a cut that shows moves targets by 1e-3
    assert np.abs(streaming_nats(model, text, config(segment=190, warmup=60)) - one).max() > 1e-4


def test_cold_segments_cost_more() -> None:
    model, text = trained_model(), make_text(2000, seed=6)
    one = score_streaming(model, text, config()).total_nats
    warm = score_streaming(model, text, config(segment=125, warmup=64)).total_nats
    cold = score_streaming(model, text, config(segment=125, warmup=0)).total_nats
    assert warm == pytest.approx(one, rel=1e-3)
    assert cold > warm


@pytest.mark.parametrize("chunk", [5, 32, 128, 1000])
def test_score_is_the_same_to_the_last_digit_for_every_number_of_streams(chunk: int) -> None:
    model, text = trained_model(), make_text(700, seed=8)
    reference = streaming_nats(model, text, config(chunk=chunk, segment=100, warmup=70, streams=1000))
    for streams in (1, 3, 16):
        nats = streaming_nats(model, text, config(chunk=chunk, segment=100, warmup=70, streams=streams))
        np.testing.assert_array_equal(nats, reference)


def test_one_long_segment_fills_the_pass_of_absent_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a pass are chunk x streams, whatever the cuts; and the bits are those of narrow passes."""
    monkeypatch.setattr("golf.models.stream.BLOCK", 64)
    model, text = trained_model(), make_text(1200, seed=8)
    rows: list[int] = []
    step: Any = model.step

    def counted(ids: torch.Tensor, state: Any) -> Any:
        rows.append(ids.numel())
        return step(ids, state)

    monkeypatch.setattr(model, "step", counted)
    narrow = streaming_nats(model, text, config(chunk=64, streams=1))
    assert set(rows) == {64}
    rows.clear()
    np.testing.assert_array_equal(streaming_nats(model, text, config(chunk=64, streams=8)), narrow)
    assert rows[:-1] == [512, 512] and rows[-1] == 192  # 1,199 targets: the last pass has no more blocks than it needs


def test_cold_segments_are_independent_texts() -> None:
    model, text = trained_model(), make_text(201, seed=7)
    together = streaming_nats(model, text, config(segment=50))
    for first in range(0, 200, 50):
        part = ValidationText(text.tokens[first : first + 51], np.array([0]), np.array([1]), VOCAB)
        alone = streaming_nats(model, part, config(window=50))
        np.testing.assert_allclose(together[first : first + 50], alone, atol=1e-5)


@pytest.mark.parametrize("change", [{"streams": 0}, {"segment": 0}, {"warmup": -1}, {"chunk": 0}])
def test_impossible_settings_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ParamsError, match=rf"{next(iter(change))}: found {next(iter(change.values()))} .*expected int"):
        from_dict(PassConfig, to_dict(config()) | change)


def test_a_window_longer_than_the_text_is_refused() -> None:
    with pytest.raises(ScoringError, match="window is 100 tokens, the validation stream has 99 targets"):
        score_streaming(trained_model(), make_text(100, seed=1), config(window=100))


def band(**changes: Any) -> PassConfig:
    return dataclasses.replace(config(**changes), attention="band")


@pytest.mark.parametrize("window", [1, 8, 64, 300])
def test_band_over_whole_segments_is_the_ring(window: int) -> None:
    """Windows shorter and longer than the text, segments that are no multiple of them, cold and warm."""
    model, text = trained_model(), make_text(333, seed=4)
    for segment, warmup in ((10**6, 0), (100, 45)):
        plan: dict[str, int] = {"window": window, "segment": segment, "warmup": warmup, "streams": 3}
        ring = streaming_nats(model, text, config(**plan))
        np.testing.assert_allclose(streaming_nats(model, text, band(**plan)), ring, atol=2e-5)


def test_bug_d1_a_band_pass_holds_a_bounded_number_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 streams of 77,824 tokens in one pass were 8 GB for each of twelve layers."""
    from golf.scoring import streaming

    text, model = make_text(401, seed=5), trained_model()
    seen, original = list[int](), model._run
    monkeypatch.setattr(model, "_run", lambda ids, *rest: (seen.append(ids.numel()), original(ids, *rest))[1])
    plan = {"window": 8, "segment": 30, "warmup": 10, "streams": 8}
    whole = streaming_nats(model, text, band(**plan))
    assert max(seen) == 8 * 39
    seen.clear()
    monkeypatch.setattr(streaming, "BAND_TOKENS", 100)
    np.testing.assert_allclose(streaming_nats(model, text, band(**plan)), whole, atol=2e-5)
    assert max(seen) == 2 * 39
    with pytest.raises(ScoringError, match=r"segment . warmup: found 400 tokens in one pass, expected at most 100"):
        streaming_nats(model, text, band(window=8, segment=400))


def test_band_attention_is_that_of_a_band_mask() -> None:
    from golf.models.block import band_attention

    torch.manual_seed(0)
    for tokens, window, block in ((1, 1, 0), (5, 7, 0), (20, 7, 0), (21, 7, 7), (9, 1, 0), (40, 8, 3), (9, 2, 50)):
        q, k, v = torch.randn(2, 4, tokens, 8), torch.randn(2, 2, tokens, 8), torch.randn(2, 2, tokens, 8)
        at = torch.arange(tokens)
        mask = (at <= at[:, None]) & (at > at[:, None] - window)
        wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        torch.testing.assert_close(band_attention(q, k, v, window, block=block), wanted)


def test_compile_takes_the_band_pass_and_refuses_the_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled.append(options) or function)
    model, text = trained_model(), make_text(150, seed=4)
    monkeypatch.setattr(model, "step", None)  # the ring's; band does without
    streaming_nats(model, text, dataclasses.replace(band(), compile=True))
    assert compiled == [{"dynamic": False}]
    with pytest.raises(ScoringError, match="compile: found true with attention: ring, expected attention: band"):
        dataclasses.replace(config(), compile=True)


def test_a_family_that_remembers_more_than_keys_has_no_band_pass() -> None:
    with pytest.raises(ScoringError, match="attention is band, which Linear has no pass for"):
        streaming_nats(torch.nn.Linear(1, 1), make_text(150, seed=4), band())
