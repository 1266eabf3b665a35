"""Black-box checks of a scorer: each runs it on token streams and compares what it says with what a coder could do.

Shapes: N tokens of a stream, N-1 targets (target i is token i+1, predicted from tokens 0..i), V vocabulary.
A scorer that fails one of these checks states a number that no decoder could reach. Sources: openai/parameter-golf
#1017 (conditions on a score), #1240 (flip test), #1967 (gate that reads its target).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

__all__ = [
    "CheckResult",
    "Commit",
    "CountedScorer",
    "DistributionScorer",
    "ReplayScorer",
    "Scorer",
    "check_causality",
    "check_commits",
    "check_coverage",
    "check_documents",
    "check_order",
    "check_range",
    "check_row_sums",
    "check_same_score",
    "check_scores",
    "check_target_unread",
]

MOVE_LIMIT = 1e-6  # nats; kernels that depend on the batch's shape move a float32 score by less
SUM_LIMIT = 1e-6  # |sum over the vocabulary - 1|


@dataclass(frozen=True)
class CheckResult:
    """One line of the verdict. ``value`` was measured, in ``unit``; it passes when it is at most ``limit``.
    ``passed`` is None where nothing was to be decided, ``text`` says why."""

    scorer: str
    name: str
    passed: bool | None
    value: float
    limit: float | None
    unit: str
    text: str

    @property
    def verdict(self) -> str:
        """PASS, FAIL or NOTE."""
        return "NOTE" if self.passed is None else "PASS" if self.passed else "FAIL"


class Scorer(Protocol):
    """What every check needs: ``score(tokens (N,) int64) -> nats float64 (N-1,)`` of every target.

    ``crosses_documents`` declares whether the tokens before a document's BOS may move the scores behind it.
    """

    @property
    def name(self) -> str: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def crosses_documents(self) -> bool: ...

    def score(self, tokens: np.ndarray) -> np.ndarray: ...


@runtime_checkable
class DistributionScorer(Protocol):
    """A scorer that shows its whole prediction: ``distribution(prefix (N,)) -> (V,)`` for the token behind it."""

    def distribution(self, prefix: np.ndarray) -> np.ndarray: ...


@runtime_checkable
class CountedScorer(Protocol):
    """A scorer that states its headline sum, and how often each target of a stream of that length enters it."""

    def total_nats(self, tokens: np.ndarray) -> float: ...

    def coverage(self, num_targets: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Commit:
    """One token of a replay: its ``nats``, and hashes of the state before its score, after it, and after learning."""

    nats: float
    before: str
    scored: str
    learnt: str


@runtime_checkable
class ReplayScorer(Protocol):
    """A scorer with learnt state that can be run one token at a time: one ``Commit`` for every target, in order."""

    def replay(self, tokens: np.ndarray) -> Iterator[Commit]: ...


def _result(scorer: Scorer, name: str, value: float, limit: float, unit: str, text: str) -> CheckResult:
    return CheckResult(scorer.name, name, bool(value <= limit), value, limit, unit, text)


def _largest(a: np.ndarray, b: np.ndarray) -> float:
    """Largest |a - b|; infinite where one is not a number or the lengths differ."""
    if a.shape != b.shape:
        return math.inf
    moved = np.where(a == b, 0.0, np.abs(a - b))
    return float(np.nan_to_num(moved, nan=math.inf, posinf=math.inf).max(initial=0.0))


def check_scores(scorer: Scorer, tokens: np.ndarray) -> CheckResult:
    """One finite number of nats >= 0 for each target, and the very same ones in a second call (no state left over)."""
    first, second = scorer.score(tokens), scorer.score(tokens)
    if first.shape != (len(tokens) - 1,):
        text = f"{first.size:,} scores for {len(tokens) - 1:,} targets"
        return _result(scorer, "scores", float(abs(first.size - len(tokens) + 1)), 0.0, "targets", text)
    bad = int((~np.isfinite(first) | (first < 0.0)).sum()) + int((first != second).sum())
    text = f"{first.size:,} targets: finite, not negative, bit-equal in a second call"
    return _result(scorer, "scores", float(bad), 0.0, "targets", text)


def check_causality(
    scorer: Scorer, tokens: np.ndarray, positions: Sequence[int], *, seed: int = 0, limit: float = MOVE_LIMIT
) -> CheckResult:
    """Replace token c by another and everything behind it by noise, twice, for each c of ``positions``.

    Scores of the targets before token c must not move, and the score of the new token c must be the same before both
    futures: the current prediction does not read the future either.
    """
    random = np.random.default_rng(seed)
    base, moved = scorer.score(tokens), 0.0
    for c in positions:
        other = (int(tokens[c]) + int(random.integers(1, scorer.vocab_size))) % scorer.vocab_size
        runs = []
        for _ in range(2):
            changed = tokens.copy()
            changed[c] = other
            changed[c + 1 :] = random.integers(0, scorer.vocab_size, len(tokens) - c - 1)
            runs.append(scorer.score(changed))
        moved = max(moved, _largest(runs[0][: c - 1], base[: c - 1]), _largest(runs[0][:c], runs[1][:c]))
    text = f"{len(positions)} positions, target and future replaced: largest move of an earlier or current score"
    return _result(scorer, "causality", moved, limit, "nats", text)


def check_order(scorer: Scorer, tokens: np.ndarray, cuts: Sequence[int], *, limit: float = MOVE_LIMIT) -> CheckResult:
    """Score before update, single pass: the scores of ``tokens[:cut]`` are the first scores of ``tokens``.

    Whoever reads the text twice, or learns from it before scoring it, knows more in the longer text.
    """
    base, moved = scorer.score(tokens), 0.0
    for cut in cuts:
        moved = max(moved, _largest(scorer.score(tokens[:cut]), base[: cut - 1]))
    text = f"text cut at {len(cuts)} places: largest move of a score in front of the cut"
    return _result(scorer, "score_before_update", moved, limit, "nats", text)


def check_commits(scorer: Scorer, tokens: np.ndarray, *, limit: float = MOVE_LIMIT) -> CheckResult:
    """State hashes: scoring a token leaves the state as it was, and nothing learns between two tokens.

    ``value`` counts the tokens whose hashes are out of order or whose nats differ from those of ``score`` by more
    than ``limit``. ``scorer`` must be a ``ReplayScorer``.
    """
    assert isinstance(scorer, ReplayScorer)
    commits = list(scorer.replay(tokens))
    nats = np.array([commit.nats for commit in commits])
    wrong = sum(commit.before != commit.scored for commit in commits)
    wrong += sum(a.learnt != b.before for a, b in zip(commits[:-1], commits[1:], strict=True))
    idle = len({commit.learnt for commit in commits}) <= 1
    scores = scorer.score(tokens)
    wrong += len(tokens) if nats.shape != scores.shape else int((np.abs(nats - scores) > limit).sum())
    text = f"{len(commits):,} tokens replayed one by one: state hash unchanged by scoring, same scores"
    return _result(scorer, "state_hashes", float(wrong + idle), 0.0, "tokens", text)


def _choice_nats(scorer: Scorer, prefix: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """Nats of the token behind ``prefix`` for each of ``choices``: one whole run of the scorer each."""
    tokens = np.append(prefix, 0)
    nats = np.empty(len(choices))
    for i, choice in enumerate(choices):
        tokens[-1] = choice
        nats[i] = scorer.score(tokens)[-1]
    return nats


def check_row_sums(scorer: Scorer, prefixes: Mapping[str, np.ndarray], *, limit: float = SUM_LIMIT) -> CheckResult:
    """The stated distribution behind each prefix has V entries, none negative, that sum to 1.

    ``scorer`` must be a ``DistributionScorer``.
    """
    assert isinstance(scorer, DistributionScorer)
    rows = {name: scorer.distribution(prefix) for name, prefix in prefixes.items()}
    shapes = all(row.shape == (scorer.vocab_size,) and bool((row >= 0.0).all()) for row in rows.values())
    value = max(abs(math.fsum(row) - 1.0) for row in rows.values()) if shapes else math.inf
    text = f"largest |sum over {scorer.vocab_size:,} - 1|, prefixes: {', '.join(rows)}"
    return _result(scorer, "distribution", value, limit, "probability", text)


def check_target_unread(
    scorer: Scorer,
    prefixes: Mapping[str, np.ndarray],
    *,
    choices: int,
    seed: int = 0,
    limit: float = SUM_LIMIT,
) -> CheckResult:
    """Run the scorer once for every possible last token: the probabilities it pays out sum to 1.

    A target that is read before its score (gate, hash key, counts one token early) or an expert that gives every
    token the same mass shows here, but only where it is active: give a prefix that ends in a repeated passage too.
    With a vocabulary above ``choices`` that many tokens are run, half of them the likeliest: each must be paid the
    entry of the stated distribution (whose sum is another check), or without one, their sum must stay at 1 or below.
    """
    random = np.random.default_rng(seed)
    whole = choices >= scorer.vocab_size
    worst, sums = 0.0, []
    for prefix in prefixes.values():
        row = scorer.distribution(prefix) if isinstance(scorer, DistributionScorer) else None
        drawn = random.permutation(scorer.vocab_size)
        if row is not None:
            likely = np.argsort(-row, kind="stable")[: (choices + 1) // 2]
            drawn = np.concatenate([likely, drawn[~np.isin(drawn, likely)]])
        drawn = drawn[:choices]
        paid = np.exp(-_choice_nats(scorer, prefix, drawn))
        total = math.fsum(paid)
        sums.append(total)
        error = abs(total - 1.0) if whole else max(total - 1.0, 0.0)
        if row is not None:
            error = max(error, _largest(paid, row[drawn]))
        worst = max(worst, error if math.isfinite(error) else math.inf)
    shown = ", ".join(f"{name} {total:.9g}" for name, total in zip(prefixes, sums, strict=True))
    text = f"{min(choices, scorer.vocab_size):,} of {scorer.vocab_size:,} last tokens run; sums: {shown}"
    return _result(scorer, "target_unread", worst, limit, "probability", text)


def check_coverage(scorer: Scorer, tokens: np.ndarray) -> CheckResult:
    """Each target enters the headline sum exactly once; ``value`` counts the targets that do not.

    ``scorer`` must be a ``CountedScorer``; its stated sum must be that of its per-target scores.
    """
    assert isinstance(scorer, CountedScorer)
    num_targets, nats = len(tokens) - 1, scorer.score(tokens)
    counts = scorer.coverage(num_targets)
    wrong = abs(len(counts) - num_targets) + int((counts != 1).sum())
    total, stated = math.fsum(nats), scorer.total_nats(tokens)
    differs = not math.isclose(total, stated, rel_tol=1e-12)
    text = f"{num_targets:,} targets counted {counts.min(initial=1)} to {counts.max(initial=1)} times"
    text += f"; stated sum {stated:.6f} nats, sum of targets {total:.6f}" if differs else ""
    return _result(scorer, "each_target_once", float(wrong + differs), 0.0, "targets", text)


def check_same_score(
    scorer: Scorer, variants: Mapping[str, tuple[Scorer, float]], tokens: np.ndarray
) -> list[CheckResult]:
    """The same scores from the same scorer with another batch size, chunk or world size, each with its limit (nats)."""
    base, found = scorer.score(tokens), []
    for name, (other, limit) in variants.items():
        moved = _largest(other.score(tokens), base)
        text = f"scored again with {name.replace('_', ' ')}: largest move of a score"
        found.append(_result(scorer, f"same_score_{name}", moved, limit, "nats", text))
    return found


def check_documents(
    scorer: Scorer, tokens: np.ndarray, doc_start: int, *, seed: int = 0, limit: float = MOVE_LIMIT
) -> CheckResult:
    """Replace all text in front of the document at ``doc_start`` (its BOS) and compare the scores behind that BOS.

    A scorer declared to keep documents apart must not move; one declared to cross them gets its move stated.
    """
    changed = tokens.copy()
    changed[1:doc_start] = np.random.default_rng(seed).integers(0, scorer.vocab_size, doc_start - 1)
    moved = _largest(scorer.score(changed)[doc_start:], scorer.score(tokens)[doc_start:])
    if scorer.crosses_documents:
        text = "declared: context crosses document starts, as in the public scorers; largest move of a later score"
        return CheckResult(scorer.name, "documents_apart", None, moved, None, "nats", text)
    text = "documents in front of a BOS replaced: largest move of a score behind it"
    return _result(scorer, "documents_apart", moved, limit, "nats", text)


def check_range(scorer: Scorer, tokens: np.ndarray) -> CheckResult:
    """A token outside the vocabulary is refused, not clamped to a known one; ``value`` counts what was scored."""
    outside = tokens.copy()
    outside[len(tokens) // 2] = scorer.vocab_size
    try:
        scorer.score(outside)
        scored = 1.0
    except (ValueError, IndexError):
        scored = 0.0
    text = f"token id {scorer.vocab_size:,} (the vocabulary's size) {'was scored' if scored else 'is refused'}"
    return _result(scorer, "target_range", scored, 0.0, "streams", text)
