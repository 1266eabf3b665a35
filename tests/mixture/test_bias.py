"""Document bias against a plain loop, and its order of scoring and learning."""

from __future__ import annotations

import numpy as np
import pytest

from golf.mixture.bias import DocumentBias, chunk_bounds, numpy_ops
from golf.mixture.config import RecordConfig

VOCAB = 12
CONFIG = RecordConfig(bias_chunk_tokens=4)


def make_rows(num: int) -> np.ndarray:
    logits = np.random.default_rng(0).normal(size=(num, VOCAB))
    return np.asarray(logits - np.log(np.exp(logits).sum(1, keepdims=True)))


def run(tokens: np.ndarray, rows: np.ndarray, starts: np.ndarray) -> np.ndarray:
    bias = DocumentBias(np.zeros(VOCAB), numpy_ops(VOCAB), CONFIG)
    out = rows.copy()
    for begin, end, starts_document in chunk_bounds(starts, len(tokens), CONFIG.bias_chunk_tokens):
        if starts_document:
            bias.start_document()
        out[begin:end] = bias.apply(rows[begin:end])
        bias.update(out[begin:end], tokens[begin:end])
    return out


def test_bias_equals_the_formula_token_by_token() -> None:
    tokens = np.random.default_rng(1).integers(0, VOCAB, 40)
    starts, rows = np.array([0, 11, 30]), make_rows(40)
    got = run(tokens, rows, starts)
    g, d, pending, inside = np.zeros(VOCAB), np.zeros(VOCAB), np.zeros(VOCAB), 0
    for t in range(1, 40):
        if t - 1 in starts:
            g, d, pending, inside = g + 0.002 * pending, np.zeros(VOCAB), np.zeros(VOCAB), 0
        elif inside == 4:
            g, d, pending, inside = g + 0.002 * pending, d + 0.1 * pending, np.zeros(VOCAB), 0
        weights = np.exp(rows[t]) * np.exp(g + d)
        p = weights / weights.sum()
        np.testing.assert_allclose(np.exp(got[t]), p, rtol=1e-12)
        pending += np.eye(VOCAB)[tokens[t]] - p
        inside += 1


def test_bias_is_normalized_and_helps_a_text_that_repeats_itself() -> None:
    tokens, rows = np.tile([3, 5, 7], 100), make_rows(300)
    out = run(tokens, rows, np.array([0]))
    np.testing.assert_allclose(np.exp(out).sum(1), 1.0, atol=1e-12)
    index = np.arange(1, 300)
    assert -out[index, tokens[1:]].mean() < -rows[index, tokens[1:]].mean() - 0.5


def test_bias_scores_a_chunk_before_it_learns_it() -> None:
    tokens, rows = np.arange(40) % VOCAB, make_rows(40)
    changed = tokens.copy()
    changed[9:] = 0
    before, after = run(tokens, rows, np.array([0])), run(changed, rows, np.array([0]))
    assert np.array_equal(before[:13], after[:13])  # position 9 begins a chunk: it is learnt for 13 and later
    assert not np.array_equal(before[13], after[13])


def test_streams_share_what_all_text_teaches() -> None:
    first = DocumentBias(np.zeros(VOCAB), numpy_ops(VOCAB), CONFIG)
    second = first.beside()
    rows = make_rows(4)
    first.update(first.apply(rows), np.array([2, 2, 2, 2]))
    assert second.shared[2] > 0.0 and second.document[2] == 0.0 and first.document[2] > 0.0


@pytest.mark.parametrize(("starts", "num", "chunk"), [([0], 9, 4), ([0, 1, 5], 20, 4), ([0, 8], 9, 3), ([0], 1, 2)])
def test_chunks_cover_every_target_once_and_respect_documents(starts: list[int], num: int, chunk: int) -> None:
    chunks = list(chunk_bounds(np.array(starts), num, chunk))
    assert [t for begin, end, _ in chunks for t in range(begin, end)] == list(range(1, num))
    assert all(end - begin <= chunk for begin, end, _ in chunks)
    assert [begin - 1 for begin, _, first in chunks if first] == [s for s in starts if s < num - 1]
