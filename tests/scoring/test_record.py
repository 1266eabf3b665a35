"""The record of a streaming pass: against whole rows computed by hand, causal, and whole after a trip to disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from golf.base.files import load_numpy, save_numpy
from golf.base.params import ParamsError, from_dict, to_dict
from golf.mixture.bias import chunk_bounds
from golf.mixture.counts import candidates, count_contexts
from golf.mixture.record import NeuralRecord, StreamRecord
from golf.scoring.record_stream import StreamingConfig, record_stream
from golf.scoring.streaming import streaming_nats
from golf.scoring.text import ScoringError, ValidationText
from reference_bias import ReferenceBias
from reference_mixture import record_from_log_probs
from tiny import recurrent, shaken

VOCAB = 30
CONFIG = StreamingConfig(
    **{"window": 32, "chunk": 16, "segment": 90, "warmup": 62, "streams": 3, "precision": "fp32"},
    **{"temperatures": (0.5, 2.0), "bias": True, "bias_chunk_tokens": 8, "bias_global_rate": 0.01},
    **{"bias_document_rate": 0.2, "candidates": 3, "candidate_orders": (1, 2, 4), "sampled_rows": 20},
)


def tiny_model() -> torch.nn.Module:
    return shaken(recurrent(width=24, blocks=1, kv_heads=2), VOCAB, seed=1, noise=0.3)


def make_text(num_tokens: int = 400) -> ValidationText:
    """Repeated phrases in documents of odd lengths, one of them empty."""
    rng = np.random.default_rng(3)
    phrases = rng.integers(2, VOCAB, (6, 5))
    tokens = phrases[rng.integers(6, size=num_tokens)].reshape(-1)[:num_tokens]
    starts = np.array([0, 70, 71, 203])
    tokens[starts] = 1
    return ValidationText(tokens, starts, np.array([100, 0, 200, 300]), VOCAB)


def by_hand(model: torch.nn.Module, text: ValidationText) -> tuple[NeuralRecord, NeuralRecord]:
    """Whole rows of one unbroken pass, the bias chunk by chunk in numpy, and the records of both."""
    with torch.no_grad():
        state = model.new_state(1, CONFIG.window, 16)
        logits = model.logits(model.step(torch.from_numpy(text.tokens[None, :-1]), state))[0].double()
    plain = np.concatenate([np.full((1, VOCAB), -np.log(VOCAB)), torch.log_softmax(logits, -1).numpy()])
    biased, bias = plain.copy(), ReferenceBias(VOCAB, CONFIG)
    for begin, end, starts in chunk_bounds(text.doc_starts, len(text.tokens), CONFIG.bias_chunk_tokens):
        if starts:
            bias.start_document()
        biased[begin:end] = bias.apply(plain[begin:end])
        bias.update(biased[begin:end], text.tokens[begin:end])
    table = count_contexts(text.tokens, text.doc_starts, orders=CONFIG.candidate_orders, vocab_size=VOCAB)
    ids = candidates(table, count=3, orders=CONFIG.candidate_orders)
    plain_record, biased_record = (
        record_from_log_probs(text.tokens, rows, ids, samples=CONFIG.sampled_rows) for rows in (plain, biased)
    )
    return plain_record, biased_record


def test_record_is_that_of_whole_rows_in_reading_order() -> None:
    model, text = tiny_model(), make_text()
    record = record_stream(model, text, CONFIG)
    plain = record_stream(model, text, dataclasses.replace(CONFIG, bias=False))
    for found, wanted in zip((plain.base, record.base), by_hand(model, text), strict=True):
        for field in ("nll", "entropy", "argmax_log_prob", "candidate_log_prob"):
            np.testing.assert_allclose(getattr(found, field)[1:], getattr(wanted, field)[1:], atol=2e-5, err_msg=field)
        np.testing.assert_array_equal(found.argmax[1:], wanted.argmax[1:])
        np.testing.assert_array_equal(found.scored, wanted.scored)
        np.testing.assert_array_equal(found.sample_positions, wanted.sample_positions)
        np.testing.assert_allclose(found.sample_log_probs, wanted.sample_log_probs, atol=2e-5)
        np.testing.assert_allclose(np.exp(found.sample_log_probs).sum(axis=1), 1.0, atol=1e-12)
    assert np.abs(plain.base.nll - record.base.nll).max() > 0.1
    np.testing.assert_array_equal(record.nats, plain.base.nll[1:])
    np.testing.assert_array_equal(record.sample_log_probs, plain.base.sample_log_probs)


def test_plain_score_is_the_streaming_score() -> None:
    model, text = tiny_model(), make_text()
    record = record_stream(model, text, CONFIG)
    np.testing.assert_allclose(record.nats, streaming_nats(model, text, CONFIG), rtol=0, atol=1e-12)
    without = record_stream(model, text, dataclasses.replace(CONFIG, bias=False))
    np.testing.assert_array_equal(without.nats, record.nats)


def test_tempered_scores_are_of_the_same_rows() -> None:
    model, text = tiny_model(), make_text()
    record = record_stream(model, text, CONFIG)
    for row, position in zip(record.sample_log_probs, record.base.sample_positions, strict=True):
        for nats, t in zip(record.tempered[:, position - 1], CONFIG.temperatures, strict=True):
            expected = np.logaddexp.reduce(row / t) - row[text.tokens[position]] / t
            assert nats == pytest.approx(expected, abs=1e-12)


def test_later_tokens_change_no_earlier_entry() -> None:
    model, text, cut = tiny_model(), make_text(), 230
    tokens = text.tokens.copy()
    tokens[cut:] = (tokens[cut:] + 5) % VOCAB
    other = ValidationText(tokens, text.doc_starts, text.doc_bytes, VOCAB)
    one, two = record_stream(model, text, CONFIG), record_stream(model, other, CONFIG)
    a, b = one.base, two.base
    np.testing.assert_allclose(one.nats[: cut - 1], two.nats[: cut - 1], atol=1e-9)
    np.testing.assert_allclose(a.nll[:cut], b.nll[:cut], atol=1e-9)
    np.testing.assert_allclose(a.entropy[: cut + 1], b.entropy[: cut + 1], atol=1e-9)
    np.testing.assert_array_equal(a.argmax[1 : cut + 1], b.argmax[1 : cut + 1])


@pytest.mark.parametrize("streams", [1, 2, 50])
def test_record_is_the_same_to_the_last_digit_for_every_number_of_streams(streams: int) -> None:
    model, text = tiny_model(), make_text()
    one = record_stream(model, text, CONFIG)
    two = record_stream(model, text, dataclasses.replace(CONFIG, streams=streams))
    for name, array in one.tensors().items():
        np.testing.assert_array_equal(array, two.tensors()[name], err_msg=name)


def test_record_survives_the_disk(tmp_path: Path) -> None:
    record = record_stream(tiny_model(), make_text(), CONFIG)
    save_numpy(tmp_path / "r.safetensors", record.tensors(), {"config": {}})
    tensors, _ = load_numpy(tmp_path / "r.safetensors", made_by="a test")
    back = StreamRecord.from_tensors(tensors).tensors()
    assert set(back) == set(record.tensors())
    for name, array in record.tensors().items():
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperatures": (1.0, -2.0)}, r"temperatures\[1\]: found -2.0"),
        ({"sampled_rows": 0}, "sampled_rows: found 0"),
        ({"candidates": 9}, "candidates: found 9"),
        ({"bias_chunk_tokens": 0}, "bias_chunk_tokens: found 0"),
        ({"streams": 0}, "streams: found 0"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        from_dict(StreamingConfig, to_dict(CONFIG) | changes)


def test_broken_weights_are_named() -> None:
    model, text = tiny_model(), make_text()
    with torch.no_grad():
        model.token_embedding[int(text.tokens[5])] = float("nan")
    with pytest.raises(ScoringError, match=r"score of target \d+ is not finite"):
        record_stream(model, text, CONFIG)
