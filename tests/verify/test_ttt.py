"""Test-time training under the checks: it scores before it learns, and whoever learns first is caught."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from golf.scoring import ttt
from golf.scoring.network import plan_sliding, target_nats
from golf.scoring.results import Score, make_score
from golf.scoring.ttt import LowRank, TttConfig, iterate_ttt
from golf.verify import checks
from golf.verify.checks import Commit
from golf.verify.scorers import TttScorer, mode_scorer
from tiny import flat, shaken

VOCAB = 16
CONFIG = TttConfig(
    **{"enabled": True, "window": 24, "stride": 8, "update_windows": 2, "rank": 2, "learning_rate": 0.02},
    **{"group_documents": 1, "precision": "fp32"},
)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return shaken(flat(), VOCAB, seed=1, noise=0.3)


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    tokens = np.tile(np.random.default_rng(2).integers(2, VOCAB, 17), 8)[:121]
    tokens[[0, 50, 90]] = 1
    return tokens


@dataclasses.dataclass(frozen=True)
class LearnsFirst(TttScorer):
    """Each pass learns from its targets, then scores them (openai/parameter-golf #1017, condition C3)."""

    def _passes(self, tokens: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, str, str]]:
        text, weights = self.text(tokens), LowRank(self.model, self.config)
        plan = plan_sliding(text.num_targets, self.config.window, self.config.stride)
        with weights.attached(), torch.enable_grad():
            for first in range(0, len(plan), self.config.update_windows):
                span = (first, min(first + self.config.update_windows, len(plan)), torch.device("cpu"))
                before = weights.digest()
                weights.learn(ttt._forward(self.model, text, plan, *span)[1])
                rows = ttt._forward(self.model, text, plan, *span)[0]
                targets = np.concatenate([piece.targets for piece in rows])
                yield targets, np.concatenate([target_nats(piece) for piece in rows]), before, weights.digest()

    def run(self, tokens: np.ndarray) -> Score:
        text = self.text(tokens)
        nats = np.zeros(text.num_targets)
        for targets, found, _, _ in self._passes(tokens):
            nats[targets] = found
        return make_score("ttt", text, nats)

    def replay(self, tokens: np.ndarray) -> Iterator[Commit]:
        for _, nats, before, scored in self._passes(tokens):
            yield from (Commit(float(value), before, scored, scored) for value in nats)


def run_all(scorer: Any, tokens: np.ndarray) -> dict[str, str]:
    prefixes = {"natural": tokens[:30], "repeated": tokens[:50]}
    results = [
        checks.check_scores(scorer, tokens),
        checks.check_causality(scorer, tokens, [30, 75, 119]),
        checks.check_order(scorer, tokens, [45, 77]),
        checks.check_commits(scorer, tokens),
        checks.check_row_sums(scorer, prefixes),
        checks.check_target_unread(scorer, prefixes, choices=VOCAB),
        checks.check_coverage(scorer, tokens),
    ]
    return {result.name: result.verdict for result in results}


def test_it_passes_every_check(model: torch.nn.Module, tokens: np.ndarray) -> None:
    scorer = mode_scorer("ttt", model, CONFIG, vocab_size=VOCAB, bos_id=1)
    verdicts = run_all(scorer, tokens)
    assert verdicts == dict.fromkeys(verdicts, "PASS")
    assert scorer.memoized() is scorer


def test_who_learns_first_is_caught(model: torch.nn.Module, tokens: np.ndarray) -> None:
    verdicts = run_all(LearnsFirst("ttt", model, CONFIG, VOCAB, 1), tokens)
    failed = {name for name, verdict in verdicts.items() if verdict == "FAIL"}
    assert {"score_before_update", "state_hashes", "causality", "target_unread"} <= failed


def test_a_token_behind_a_pass_is_known_to_later_passes_only(model: torch.nn.Module, tokens: np.ndarray) -> None:
    scorer = mode_scorer("ttt", model, CONFIG, vocab_size=VOCAB, bos_id=1)
    seen = [len(rows) and int(rows[0].targets[0]) for rows in iterate_ttt(model, scorer.text(tokens), CONFIG)]
    changed = tokens.copy()
    changed[seen[2]] = 1 + changed[seen[2]] % (VOCAB - 1)  # last target of the second pass
    moved = scorer.score(changed) != scorer.score(tokens)
    assert not moved[: seen[2] - 1].any() and moved[seen[2] :].any()
