"""The score of the mixture from a record: every scorer by document, the tables, and the options."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from golf.base.params import load_section
from golf.mixture.batch import row_calibration
from golf.mixture.counts import candidates, count_contexts
from golf.mixture.record import StreamRecord
from golf.scoring.mixture_score import HedgeConfig, MixtureScore, score_mixture
from golf.scoring.record_stream import StreamingConfig, probe_targets
from golf.scoring.text import ValidationText
from reference_mixture import record_from_log_probs

VOCAB = 20
PARAMS = Path(__file__).resolve().parent.parent.parent / "params.yaml"
STREAMING = dataclasses.replace(
    load_section(PARAMS, "evaluate.streaming", StreamingConfig), sampled_rows=50, bias=False, temperatures=()
)
HEDGE = load_section(PARAMS, "evaluate.hedge", HedgeConfig)


def make_text(num_tokens: int = 600) -> ValidationText:
    rng = np.random.default_rng(5)
    tokens = rng.integers(2, 7, (9, 6))[rng.integers(9, size=num_tokens)].reshape(-1)[:num_tokens]
    starts = np.array([0, num_tokens // 4, num_tokens // 2])
    tokens[starts] = 1
    return ValidationText(tokens, starts, np.array([400, 390, 800]), VOCAB)


def make_record(text: ValidationText) -> StreamRecord:
    rng = np.random.default_rng(6)
    logits = rng.normal(size=(len(text.tokens), VOCAB))
    rows = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    table = count_contexts(text.tokens, text.doc_starts, orders=STREAMING.candidate_orders, vocab_size=VOCAB)
    ids = candidates(table, count=STREAMING.candidates, orders=STREAMING.candidate_orders)
    plain = record_from_log_probs(text.tokens, rows, ids)
    at = probe_targets(text.num_targets, STREAMING.sampled_rows) + 1
    plain = dataclasses.replace(plain, sample_positions=at, sample_log_probs=rows[at])
    return StreamRecord(plain, plain.nll[1:], np.zeros((0, text.num_targets)), plain.sample_log_probs)


def score(text: ValidationText, **changes: object) -> MixtureScore:
    return score_mixture(text, make_record(text), STREAMING, dataclasses.replace(HEDGE, **changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def default() -> MixtureScore:
    return score(make_text())


def test_every_scorer_has_nats_by_document(default: MixtureScore) -> None:
    tensors = default.tensors()
    names = {"hedge_simple", "hedge_chain", "hedge_cascade", "hedge_final"}
    assert {name for name in tensors if "." in name} == {f"doc_nats.{name}" for name in names}
    for name in names:
        total = tensors[f"doc_nats.{name}"].sum() / np.log(2.0) / 1590
        assert default.score.details[f"{name}_bits_per_byte"] == pytest.approx(total, abs=1e-12)
    assert np.array_equal(tensors["doc_nats"], default.score.doc_nats)
    gain = default.score.details["hedge_gain_bits_per_byte"]
    base = make_record(make_text()).nats.sum() / np.log(2.0) / 1590
    assert gain == pytest.approx(base - default.score.bits_per_byte, abs=1e-9) and gain > 0.1


def test_sampled_rows_are_counted_by_probability(default: MixtureScore) -> None:
    rows = default.curves.rows.columns
    for name in ("neural", "hedge"):  # every entry of 50 rows that sum to 1, and 50 tokens that came
        assert sum(rows[f"{name}_expected"]) == pytest.approx(50.0) and sum(rows[f"{name}_came"]) == 50.0
    assert rows["at_most"][:3] == [1.0, 0.5, 0.25]
    counted = row_calibration(np.array([0.6, 0.3, 0.1, 0.0]), 1)
    assert counted[0, :5].tolist() == [0.6, 0.3, 0.0, 0.1, 0.0] and counted[1].tolist() == [0.0, 1.0] + [0.0] * 14


@pytest.mark.parametrize("changes", [{"document_orders": ()}, {"document_orders": (0, 1)}])
def test_each_option_reaches_the_score(default: MixtureScore, changes: dict[str, object]) -> None:
    changed = score(make_text(), **changes)
    assert changed.score.bits_per_byte != default.score.bits_per_byte
    assert changed.score.details["hedge_max_sum_error"] <= 1e-9
    assert changed.score.details["hedge_max_row_error"] <= 1e-9
    assert changed.score.details["hedge_count_mismatches"] == 0


def test_a_mixture_that_loses_is_reported_and_not_an_error() -> None:
    text = make_text(60)
    record = make_record(text)
    nats = np.full(len(text.tokens), 1e-9)  # the network knows every token; nothing can gain on that
    none = np.zeros((0, VOCAB))
    base = dataclasses.replace(record.base, nll=nats, sample_positions=np.zeros(0, np.int64), sample_log_probs=none)
    lost = score_mixture(text, StreamRecord(base, nats[1:], record.tempered, none), STREAMING, HEDGE).score
    assert lost.details["hedge_gain_bits_per_byte"] < 0.0
