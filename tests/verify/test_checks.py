"""Every check lets an honest scorer pass and catches the fault it is there for.

The broken scorers are the faults of the field (openai/parameter-golf issues and records), small enough to read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from golf.verify import checks
from golf.verify.checks import CheckResult, Commit

V, BOS = 24, 0
TILT = np.random.default_rng(1).random((V, V))


class Honest:
    """Adaptive bigram counts that forget at each BOS: a code length by construction."""

    name, vocab_size, crosses_documents = "honest", V, False

    def start(self) -> np.ndarray:
        return np.full((V, V), 0.1)

    def row(self, counts: np.ndarray, past: np.ndarray) -> np.ndarray:
        return np.asarray(counts[past[-1]] / counts[past[-1]].sum())

    def learn(self, counts: np.ndarray, past: np.ndarray, token: int) -> None:
        if token == BOS:
            counts[:] = 0.1
        else:
            counts[past[-1], token] += 1.0

    def paid(self, counts: np.ndarray, tokens: np.ndarray, t: int) -> float:
        """Probability paid for token t."""
        return float(self.row(counts, tokens[:t])[tokens[t]])

    def score(self, tokens: np.ndarray) -> np.ndarray:
        if tokens.max() >= V:
            raise ValueError("outside the vocabulary")
        counts, nats = self.start(), []
        for t in range(1, len(tokens)):
            nats.append(-np.log(self.paid(counts, tokens, t)))
            self.learn(counts, tokens[:t], int(tokens[t]))
        return np.array(nats)

    def distribution(self, prefix: np.ndarray) -> np.ndarray:
        counts = self.start()
        for t in range(1, len(prefix)):
            self.learn(counts, prefix[:t], int(prefix[t]))
        return self.row(counts, prefix)

    def total_nats(self, tokens: np.ndarray) -> float:
        return float(np.sum(self.score(tokens)))

    def coverage(self, num_targets: int) -> np.ndarray:
        return np.ones(num_targets, dtype=np.int64)

    def replay(self, tokens: np.ndarray) -> Iterator[Commit]:
        def digest() -> str:
            return hashlib.sha256(counts.tobytes()).hexdigest()

        counts = self.start()
        for t in range(1, len(tokens)):
            before = digest()
            nats = -np.log(self.paid(counts, tokens, t))
            scored = digest()
            self.learn(counts, tokens[:t], int(tokens[t]))
            yield Commit(nats, before, scored, digest())


class EntropyExpert(Honest):
    """Half the weight on an "expert" that pays exp(-H) to whatever comes (#688 and its line)."""

    def paid(self, counts: np.ndarray, tokens: np.ndarray, t: int) -> float:
        row = self.row(counts, tokens[:t])
        return float(0.5 * row[tokens[t]] + 0.5 * np.exp((row * np.log(row)).sum()))


class TargetInHashKey(Honest):
    """The number of times a context was seen is looked up under a key that holds the target."""

    def paid(self, counts: np.ndarray, tokens: np.ndarray, t: int) -> float:
        seen = counts[tokens[t - 1], tokens[t]] - 0.1
        return float((seen + 0.01) / (seen + 0.01 * V))


class LearnsTargetFirst(Honest):
    """Counts are updated with the target, then asked for it."""

    def paid(self, counts: np.ndarray, tokens: np.ndarray, t: int) -> float:
        counts[tokens[t - 1], tokens[t]] += 1.0
        return float(self.row(counts, tokens[:t])[tokens[t]])


class CountsOneTokenEarly(Honest):
    """Counts run one token ahead of the scores: the pair (target, next) is known when the target is scored."""

    def paid(self, counts: np.ndarray, tokens: np.ndarray, t: int) -> float:
        ahead = counts.copy()
        if t + 1 < len(tokens):
            ahead[tokens[t - 1], tokens[t + 1]] += 1.0
        return float(self.row(ahead, tokens[:t])[tokens[t]])


class OracleGate(Honest):
    """The better of two predictions, chosen by looking at the target; equal ones until contexts repeat."""

    def paid(self, counts: np.ndarray, tokens: np.ndarray, t: int) -> float:
        context = counts[tokens[t - 1]]
        sharp = np.where(context > 1.9, 10.0 * context, context)
        return float(max(context[tokens[t]] / context.sum(), sharp[tokens[t]] / sharp.sum()))


class TwoPasses(Honest):
    """Counts of the whole text first, then scores."""

    def score(self, tokens: np.ndarray) -> np.ndarray:
        counts = self.start()
        for t in range(1, len(tokens)):
            counts[tokens[t - 1], tokens[t]] += 1.0
        return np.array([-np.log(self.row(counts, tokens[:t])[tokens[t]]) for t in range(1, len(tokens))])


class DroppedTail(Honest):
    """Only whole windows of 16 are scored."""

    def score(self, tokens: np.ndarray) -> np.ndarray:
        return super().score(tokens)[: (len(tokens) - 1) // 16 * 16]

    def coverage(self, num_targets: int) -> np.ndarray:
        return (np.arange(num_targets) < num_targets // 16 * 16).astype(np.int64)


class TailFourTimes(Honest):
    """Windows of 64, stride 16, one from every multiple of 16: the last ones score the tail again."""

    def coverage(self, num_targets: int) -> np.ndarray:
        counts = np.zeros(num_targets, dtype=np.int64)
        for start in range(0, num_targets, 16):
            end = min(start + 64, num_targets)
            counts[start if start == 0 else max(end - 16, start) : end] += 1
        return counts

    def total_nats(self, tokens: np.ndarray) -> float:
        return float(self.score(tokens) @ self.coverage(len(tokens) - 1))


class Smear(Honest):
    """Declared to keep documents apart, yet each row leans on the token before the last, over a BOS too (#1667)."""

    def row(self, counts: np.ndarray, past: np.ndarray) -> np.ndarray:
        smeared = counts[past[-1]] + TILT[past[-2:][0]]
        return np.asarray(smeared / smeared.sum())


class Clamped(Honest):
    """Tokens of a larger vocabulary are clamped to ours (#1723)."""

    def score(self, tokens: np.ndarray) -> np.ndarray:
        return super().score(np.minimum(tokens, V - 1))


class Remembers(Honest):
    """What a call learnt is kept for the next."""

    def __init__(self) -> None:
        self.kept = np.full((V, V), 0.1)

    def start(self) -> np.ndarray:
        return self.kept


class Unsummed(Honest):
    """States logits' softmax without one class."""

    def row(self, counts: np.ndarray, past: np.ndarray) -> np.ndarray:
        return np.asarray(counts[past[-1]] / counts[past[-1]][1:].sum())


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    """Three documents of a skewed source, with whole passages that come again."""
    random = np.random.default_rng(5)
    documents = [random.choice(np.arange(1, V), 60, p=np.arange(V - 1, 0, -1) / (V * (V - 1) / 2)) for _ in range(3)]
    return np.concatenate([np.concatenate([[BOS], d, d[:9]]) for d in documents])


@pytest.fixture(scope="module")
def prefixes(tokens: np.ndarray) -> dict[str, np.ndarray]:
    passage = np.array([3, 7, 2, 9, 5, 11])
    return {"natural": tokens[:20], "repeated": np.concatenate([tokens[:8], *[passage] * 3, passage[:3]])}


def run_all(scorer: Any, tokens: np.ndarray, prefixes: dict[str, np.ndarray]) -> dict[str, CheckResult]:
    starts = np.flatnonzero(tokens == BOS)
    results = [
        checks.check_scores(scorer, tokens),
        checks.check_causality(scorer, tokens, [5, 90, len(tokens) - 1]),
        checks.check_order(scorer, tokens, [40, 130]),
        checks.check_commits(scorer, tokens),
        checks.check_row_sums(scorer, prefixes),
        checks.check_target_unread(scorer, prefixes, choices=V),
        checks.check_coverage(scorer, tokens),
        checks.check_documents(scorer, tokens, int(starts[1])),
        checks.check_range(scorer, tokens),
    ]
    return {result.name: result for result in results}


def test_an_honest_scorer_passes_every_check(tokens: np.ndarray, prefixes: dict[str, np.ndarray]) -> None:
    results = run_all(Honest(), tokens, prefixes)
    assert {name: result.verdict for name, result in results.items()} == dict.fromkeys(results, "PASS"), results


BROKEN = [
    (EntropyExpert, {"target_unread"}),
    (TargetInHashKey, {"target_unread"}),
    (LearnsTargetFirst, {"target_unread", "state_hashes"}),
    (CountsOneTokenEarly, {"causality", "score_before_update"}),
    (OracleGate, {"target_unread"}),
    (TwoPasses, {"causality", "score_before_update"}),
    (DroppedTail, {"scores", "each_target_once"}),
    (TailFourTimes, {"each_target_once"}),
    (Smear, {"documents_apart"}),
    (Clamped, {"target_range"}),
    (Remembers, {"scores"}),
    (Unsummed, {"distribution", "target_unread"}),
]


@pytest.mark.parametrize(("broken", "caught_by"), BROKEN, ids=[broken.__name__ for broken, _ in BROKEN])
def test_a_broken_scorer_is_caught(
    broken: Callable[[], Any], caught_by: set[str], tokens: np.ndarray, prefixes: dict[str, np.ndarray]
) -> None:
    failed = {name: result for name, result in run_all(broken(), tokens, prefixes).items() if result.passed is False}
    assert caught_by <= set(failed)
    for name in caught_by:
        limit = failed[name].limit
        assert limit is not None and failed[name].value > limit


def test_a_gate_that_reads_its_target_shows_only_on_a_repeated_passage(prefixes: dict[str, np.ndarray]) -> None:
    natural = checks.check_target_unread(OracleGate(), {"natural": prefixes["natural"][:4]}, choices=V)
    repeated = checks.check_target_unread(OracleGate(), {"repeated": prefixes["repeated"]}, choices=V)
    assert (natural.verdict, repeated.verdict) == ("PASS", "FAIL")


def test_the_tail_is_counted_four_times_and_the_sum_says_so(tokens: np.ndarray) -> None:
    result = checks.check_coverage(TailFourTimes(), tokens)
    assert "counted 1 to 4 times; stated sum" in result.text
    assert result.value > 1


def test_with_fewer_choices_each_must_be_the_stated_entry(prefixes: dict[str, np.ndarray]) -> None:
    assert checks.check_target_unread(Honest(), prefixes, choices=6).passed
    assert checks.check_target_unread(EntropyExpert(), prefixes, choices=6).passed is False


def test_another_batch_size_must_not_move_a_score(tokens: np.ndarray) -> None:
    class Rounded(Honest):
        def score(self, tokens: np.ndarray) -> np.ndarray:
            return super().score(tokens).astype(np.float32).astype(np.float64)

    same, rounded = checks.check_same_score(Honest(), {"batch_1": (Honest(), 0.0), "batch_2": (Rounded(), 0.0)}, tokens)
    assert (same.verdict, rounded.verdict) == ("PASS", "FAIL")
    assert 0 < rounded.value < 1e-5


def test_a_declared_crossing_is_stated_not_judged(tokens: np.ndarray) -> None:
    class Declared(Smear):
        crosses_documents = True

    result = checks.check_documents(Declared(), tokens, int(np.flatnonzero(tokens == BOS)[1]))
    assert result.verdict == "NOTE" and result.value > 1e-3


def test_a_score_that_is_no_number_fails(tokens: np.ndarray) -> None:
    class Broken(Honest):
        def score(self, tokens: np.ndarray) -> np.ndarray:
            nats = super().score(tokens)
            nats[3] = np.nan
            return nats

    assert checks.check_scores(Broken(), tokens).verdict == "FAIL"
    assert checks.check_causality(Broken(), tokens, [9]).value == np.inf
