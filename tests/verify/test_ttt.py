"""Test-time training under the checks: it scores before it learns, and who learns first is caught."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from golf.scoring.network import score_rows
from golf.scoring.results import Score, make_score
from golf.scoring.ttt import DocumentWeights, TttConfig, iterate_ttt
from golf.verify import checks
from golf.verify.scorers import TttScorer, mode_scorer, with_values
from tiny import flat, shaken

VOCAB = 16
CONFIG = TttConfig(
    **{"enabled": True, "window": 24, "update_tokens": 12, "rank": 2, "learning_rate": 0.02, "batch": 2},
    **{"precision": "fp32"},
)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return shaken(flat(), VOCAB, seed=1, noise=0.3)


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    tokens = np.tile(np.random.default_rng(2).integers(2, VOCAB, 17), 8)[:121]
    tokens[[0, 50, 90]] = 1
    return tokens


class Remembers(DocumentWeights):
    """Weights that no document resets."""

    def reset(self, documents: int) -> None:
        if not getattr(self, "_steps", 0):
            super().reset(documents)


@dataclasses.dataclass(frozen=True)
class ReadsTwice(TttScorer):
    """The whole text is taught, then scored (openai/parameter-golf #1017, conditions C3 and C4)."""

    def run(self, tokens: np.ndarray) -> Score:
        text, config = self.text(tokens), with_values(self.config, batch=1)
        weights = Remembers(self.model, config)
        passes = [score_rows(iterate_ttt(self.model, text, config, weights=weights), text) for _ in range(2)]
        return make_score("ttt", text, passes[1])


def run_all(scorer: Any, tokens: np.ndarray, *, flips: list[int], choices: int) -> dict[str, str]:
    prefixes = {"natural": tokens[:30], "repeated": tokens[:50]}
    results = [
        checks.check_scores(scorer, tokens),
        checks.check_causality(scorer, tokens, flips),
        checks.check_order(scorer, tokens, [45, 77]),
        checks.check_commits(scorer, tokens),
        checks.check_row_sums(scorer, prefixes),
        checks.check_target_unread(scorer, prefixes, choices=choices),
        checks.check_coverage(scorer, tokens),
        checks.check_documents(scorer, tokens, 50),
    ]
    return {result.name: result.verdict for result in results}


def test_it_passes_every_check(model: torch.nn.Module, tokens: np.ndarray) -> None:
    scorer = mode_scorer("ttt", model, CONFIG, vocab_size=VOCAB, bos_id=1)
    verdicts = run_all(scorer, tokens, flips=[30, 75, 119], choices=VOCAB)
    assert verdicts == dict.fromkeys(verdicts, "PASS")
    assert scorer.memoized() is scorer


def test_who_reads_twice_is_caught(model: torch.nn.Module, tokens: np.ndarray) -> None:
    verdicts = run_all(ReadsTwice("ttt", model, CONFIG, VOCAB, 1), tokens, flips=[75], choices=4)
    failed = {name for name, verdict in verdicts.items() if verdict == "FAIL"}
    assert {"score_before_update", "state_hashes", "causality", "target_unread", "documents_apart"} <= failed


def test_a_token_behind_a_piece_is_known_to_later_pieces_of_its_document_only(
    model: torch.nn.Module, tokens: np.ndarray
) -> None:
    scorer = mode_scorer("ttt", model, CONFIG, vocab_size=VOCAB, bos_id=1)
    changed = tokens.copy()
    changed[24] = 2 + (changed[24] - 1) % (VOCAB - 2)  # last target of the first document's second piece, no input yet
    moved = scorer.score(changed) != scorer.score(tokens)
    assert not moved[:23].any() and moved[23:49].all() and not moved[50:].any()
