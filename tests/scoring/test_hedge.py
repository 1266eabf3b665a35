"""Hedge: against a naive mixture of whole rows, causal, normalized; and why the entropy expert is none of this."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.mixture.counts import TokenIndex, count_contexts
from golf.scoring import hedge
from golf.scoring.hedge import NeuralScores, SimpleHedge, SimpleHedgeConfig, mix_hedge
from golf.scoring.record_stream import probe_targets
from golf.scoring.text import ValidationText

CONFIG = SimpleHedgeConfig(
    learning_rate=1.0,
    share=0.01,
    temperatures=(0.8, 1.25),
    smoothing=0.1,
)


def make_text(tokens: np.ndarray, vocab_size: int) -> ValidationText:
    return ValidationText(np.asarray(tokens, dtype=np.int64), np.array([0]), np.array([len(tokens)]), vocab_size)


def repetitive_text(num_tokens: int, vocab_size: int, seed: int = 0) -> ValidationText:
    """Half random, half phrases that come back, so that every count expert has something to say."""
    rng = np.random.default_rng(seed)
    phrases = rng.integers(0, vocab_size, (5, 7))
    pieces = [
        phrases[rng.integers(5)] if rng.random() < 0.5 else rng.integers(0, vocab_size, 4) for _ in range(num_tokens)
    ]
    return make_text(np.concatenate(pieces)[:num_tokens], vocab_size)


def row_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    scaled = np.exp((logits - logits.max()) / temperature)
    return scaled / scaled.sum()


def neural_scores(text: ValidationText, logits: np.ndarray, temperatures: tuple[float, ...]) -> NeuralScores:
    def nats(temperature: float) -> np.ndarray:
        return np.array(
            [-math.log(row_softmax(z, temperature)[y]) for z, y in zip(logits, text.tokens[1:], strict=True)]
        )

    tempered = np.array([nats(t) for t in temperatures]).reshape(len(temperatures), text.num_targets)
    probe = probe_targets(text.num_targets, 50)
    return NeuralScores(nats=nats(1.0), tempered=tempered, probe=probe, probe_logits=logits[probe])


def random_logits(text: ValidationText, seed: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.0, 1.5, (text.num_targets, text.vocab_size))
    logits[np.arange(text.num_targets), text.tokens[1:]] += 1.0
    return logits


def naive_rows(text: ValidationText, logits: np.ndarray, config: SimpleHedgeConfig) -> tuple[np.ndarray, np.ndarray]:
    """The definition: whole rows, dictionary counts, one target after another. Rows (n, V) and last weights (K,)."""
    tables: list[dict[tuple[int, ...], Counter[int]]] = [{}, {}, {}]
    names = 1 + len(config.temperatures) + 3
    weights = np.full(names, 1.0 / names)
    rows = []
    tokens, size = text.tokens.tolist(), text.vocab_size
    for position in range(len(tokens)):
        if position > 0:
            experts = [row_softmax(logits[position - 1], t) for t in (1.0, *config.temperatures)]
            for order in range(3):
                context = tuple(tokens[position - order : position]) if position >= order else None
                counts = tables[order].get(context, Counter()) if context is not None else Counter()
                dense = np.array([counts[v] for v in range(size)], dtype=np.float64) + config.smoothing
                experts.append(dense / dense.sum())
            rows.append(weights @ np.array(experts))
            weights = weights * np.array([e[tokens[position]] for e in experts]) ** config.learning_rate
            weights = (1 - config.share) * weights / weights.sum() + config.share / names
        for order in range(3):
            if position >= order:
                tables[order].setdefault(tuple(tokens[position - order : position]), Counter())[tokens[position]] += 1
    return np.array(rows), weights


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"learning_rate": 0.3, "share": 0.0},
        {"temperatures": ()},
        {"temperatures": (0.5, 0.9, 1.1, 2.0), "smoothing": 0.01, "share": 0.2},
    ],
)
def test_equals_the_naive_mixture_of_whole_rows(changes: dict[str, object]) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    text = repetitive_text(1200, vocab_size=23)
    logits = random_logits(text)
    result = mix_hedge(text, neural_scores(text, logits, config.temperatures), config)
    rows, weights = naive_rows(text, logits, config)
    truth = rows[np.arange(text.num_targets), text.tokens[1:]]
    np.testing.assert_allclose(result.nats, -np.log(truth), rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.weights, weights, rtol=0, atol=1e-9)
    np.testing.assert_allclose(rows.sum(axis=1), 1.0, atol=1e-9)
    assert result.max_sum_error <= 1e-9
    assert result.max_row_error <= 1e-9
    assert result.experts[0] == "neural"
    assert len(result.experts) == len(result.weights)
    assert result.mean_weights.sum() == pytest.approx(1.0)


def test_pieces_of_any_length_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    text = repetitive_text(1200, vocab_size=23)
    neural = neural_scores(text, random_logits(text), CONFIG.temperatures)
    whole = mix_hedge(text, neural, CONFIG)
    monkeypatch.setattr(hedge, "PIECE_TOKENS", 7)
    found = mix_hedge(text, neural, CONFIG)
    for name, value in vars(whole).items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)


def test_earlier_scores_do_not_depend_on_later_tokens() -> None:
    text = repetitive_text(600, vocab_size=11)
    logits = random_logits(text)
    reference = mix_hedge(text, neural_scores(text, logits, CONFIG.temperatures), CONFIG).nats
    for cut in (1, 2, 3, 250, 599):
        tokens = text.tokens.copy()
        tokens[cut:] = (tokens[cut:] + 1 + np.arange(600 - cut) % 9) % 11
        other = make_text(tokens, 11)
        nats = mix_hedge(other, neural_scores(other, logits, CONFIG.temperatures), CONFIG).nats
        np.testing.assert_array_equal(nats[: cut - 1], reference[: cut - 1])


def test_all_choices_of_the_last_token_sum_to_one() -> None:
    """The scorer as a black box, on a prefix that ends in a passage seen before, so that the counts are awake."""
    phrase = [3, 1, 4, 1, 5, 9, 2, 6]
    prefix = [0, *phrase, 7, *phrase, 8, *phrase[:5]]
    logits = random_logits(make_text(np.array([*prefix, 0]), 10))
    total = 0.0
    for last in range(10):
        text = make_text(np.array([*prefix, last]), 10)
        total += math.exp(-mix_hedge(text, neural_scores(text, logits, CONFIG.temperatures), CONFIG).nats[-1])
    assert total == pytest.approx(1.0, abs=1e-9)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), st.integers(0, 2))
def test_counts_are_exact(tokens: list[int], order: int) -> None:
    text = make_text(np.array(tokens), 4)
    n = text.num_targets
    table = count_contexts(text.tokens, text.doc_starts, orders=(1, 2), vocab_size=4)
    config = dataclasses.replace(CONFIG, smoothing=0.5, temperatures=())
    neural = NeuralScores(np.ones(n), np.ones((0, n)), np.zeros(0, np.int64), np.zeros((0, 4)))

    def probabilities(size: int) -> np.ndarray:
        counted = SimpleHedge(text, neural, config, TokenIndex(text.tokens, 4))
        ends = [(begin, min(begin + size, n + 1)) for begin in range(0, n + 1, size)]
        pieces = [counted._counted(table.read(*each), max(each[0], 1) - 1, each[1] - 1)[order] for each in ends]
        return np.concatenate(pieces)

    got = probabilities(n + 1)
    np.testing.assert_array_equal(got, probabilities(3))
    for target in range(text.num_targets):
        past, y = tokens[: target + 1], tokens[target + 1]
        followers = [
            past[i]
            for i in range(order, len(past))
            if past[i - order : i] == past[len(past) - order :] and order <= len(past)
        ]
        assert got[target] == pytest.approx((followers.count(y) + 0.5) / (len(followers) + 2.0), abs=1e-15)


def test_beats_a_neural_model_that_ignores_repetition_and_never_loses_much() -> None:
    text = repetitive_text(4000, vocab_size=32)
    flat = np.zeros((text.num_targets, 32))
    neural = neural_scores(text, flat, CONFIG.temperatures)
    assert mix_hedge(text, neural, CONFIG).nats.sum() < 0.8 * neural.nats.sum()
    bayes = dataclasses.replace(CONFIG, share=0.0)
    noise = make_text(np.random.default_rng(0).integers(0, 32, 4000), 32)
    neural = neural_scores(noise, random_logits(noise), CONFIG.temperatures)
    assert mix_hedge(noise, neural, bayes).nats.sum() <= neural.nats.sum() + math.log(6) + 1e-6, "the Bayes bound"


def test_published_entropy_expert_is_no_distribution() -> None:
    """It gives exp(-H) to every token: mass V exp(-H), so the "score" beats the source's own entropy."""
    vocab_size, weight = 1024, 0.1
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 3.5, (200, vocab_size))
    rows = np.array([row_softmax(z) for z in logits])
    entropy = -(rows * np.log(rows)).sum(axis=1)
    mixture = (1 - weight) * rows + weight * np.exp(-entropy)[:, None]
    assert mixture.sum(axis=1).min() > 2.0
    expected_nats = -(rows * np.log(mixture)).sum(axis=1)  # the truth is drawn from the model itself
    assert (expected_nats < entropy - 0.05).all(), "shorter than the entropy: no code can do that"
    normalized = mixture / mixture.sum(axis=1, keepdims=True)
    assert (-(rows * np.log(normalized)).sum(axis=1) > entropy).all()
