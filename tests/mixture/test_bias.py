"""Document bias against a plain loop, and its order of scoring and learning."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from golf.mixture.bias import DocumentBias, chunk_bounds
from golf.mixture.config import RecordConfig

VOCAB = 12
CONFIG = RecordConfig(bias_chunk_tokens=4)


def make_rows(num: int) -> np.ndarray:
    logits = np.random.default_rng(0).normal(size=(num, VOCAB))
    return np.asarray(logits - np.log(np.exp(logits).sum(1, keepdims=True)))


def run(tokens: np.ndarray, rows: np.ndarray, starts: np.ndarray) -> np.ndarray:
    bias, out = DocumentBias(VOCAB, CONFIG, torch.device("cpu")), rows.copy()
    chunks = list(chunk_bounds(starts, len(tokens), CONFIG.bias_chunk_tokens))
    for group in (chunks[:5], chunks[5:]):
        place = slice(group[0][0], group[-1][1])
        out[place] = bias.apply(torch.from_numpy(rows[place]), torch.from_numpy(tokens[place]), group).numpy()
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


def test_a_chunk_is_six_launches() -> None:
    """It was 15 operations, of which ``logsumexp`` alone is nine kernels, while other GPUs waited."""
    counts: Counter[int] = Counter()

    class Launches(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            counts[chunks] += not func.is_view
            return func(*args, **(kwargs or {}))

    for chunks in (8, 9):
        bias, num = DocumentBias(VOCAB, CONFIG, torch.device("cpu")), 4 * chunks
        group = list(chunk_bounds(np.array([0]), num + 1, 4))
        rows, ids = torch.from_numpy(make_rows(num)), torch.zeros(num, dtype=torch.int64)
        with Launches():
            bias.apply(rows, ids, group)
    assert counts[9] - counts[8] == 6


@pytest.mark.parametrize(("starts", "num", "chunk"), [([0], 9, 4), ([0, 1, 5], 20, 4), ([0, 8], 9, 3), ([0], 1, 2)])
def test_chunks_cover_every_target_once_and_respect_documents(starts: list[int], num: int, chunk: int) -> None:
    chunks = list(chunk_bounds(np.array(starts), num, chunk))
    assert [t for begin, end, _ in chunks for t in range(begin, end)] == list(range(1, num))
    assert all(end - begin <= chunk for begin, end, _ in chunks)
    assert [begin - 1 for begin, _, first in chunks if first] == [s for s in starts if s < num - 1]
