"""The mixture: naive whole rows against the fast forms, normalization, causality, and cheats that are caught."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from golf.base.errors import GolfError
from golf.base.params import from_dict, to_dict
from golf.mixture.batch import MixResult, mix
from golf.mixture.config import LayerConfig, MixtureConfig, RecordConfig
from golf.mixture.counts import CountTable, candidates, count_contexts
from golf.mixture.document import DocumentCounts, count_documents
from golf.mixture.expert import new_states
from golf.mixture.mixture import EXPERTS, kernels
from golf.mixture.record import NeuralRecord
from golf.mixture.stream import MixtureState
from reference_mixture import ReferenceMixture, record_from_log_probs

VOCAB, BOS = 24, 1
CONFIG = MixtureConfig(layers=LayerConfig(near_tokens=300, document_orders=()))
EVERY = MixtureConfig(layers=LayerConfig(near_tokens=300, document_orders=(0, 2)))


def with_layers(config: MixtureConfig, changes: dict[str, object]) -> MixtureConfig:
    return dataclasses.replace(config, layers=dataclasses.replace(config.layers, **changes))  # type: ignore[arg-type]


def make_text(num_tokens: int, seed: int, *, thrice: bool = False) -> np.ndarray:
    """Random tokens with copied passages and documents; ``thrice`` ends in one passage three times over."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, VOCAB, num_tokens)
    for begin in range(60, num_tokens - 50, 70):
        source, length = rng.integers(0, begin - 45), rng.integers(3, 45)
        tokens[begin : begin + length] = tokens[source : source + length]
    tokens[::400] = BOS
    if thrice:
        tokens[-120:] = np.tile(tokens[-160:-120], 3)
    return tokens.astype(np.int32)


def make_rows(tokens: np.ndarray, seed: int) -> np.ndarray:
    """Normalized log-probabilities (N, V) of a made-up neural model that never looks at the current token."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(tokens), VOCAB)) * rng.uniform(0.2, 4.0, size=(len(tokens), 1))
    logits[1:] += np.eye(VOCAB)[tokens[:-1]]
    return np.asarray(logits - np.log(np.exp(logits).sum(1, keepdims=True)))


def prepare(
    tokens: np.ndarray, rows: np.ndarray, config: MixtureConfig, samples: int
) -> tuple[CountTable, NeuralRecord]:
    starts = np.flatnonzero(tokens == BOS)
    near = config.layers.near_tokens
    table = count_contexts(tokens, starts, orders=config.orders, vocab_size=VOCAB, near_tokens=near)
    ids = candidates(table, count=config.record.candidates, orders=config.record.candidate_orders)
    return table, record_from_log_probs(tokens, rows, ids, samples=samples)


def documents_of(tokens: np.ndarray, config: MixtureConfig) -> DocumentCounts:
    orders, near = config.layers.document_orders, config.layers.near_tokens
    return count_documents(tokens, np.flatnonzero(tokens == BOS), orders, near_tokens=near)


def run(tokens: np.ndarray, rows: np.ndarray, config: MixtureConfig = CONFIG, samples: int = 0) -> MixResult:
    return mix(tokens, *prepare(tokens, rows, config, samples), config, documents_of(tokens, config))


@pytest.mark.parametrize("thrice", [False, True])
def test_batch_equals_the_naive_reference_at_every_position(thrice: bool) -> None:
    tokens = make_text(2400, seed=3, thrice=thrice)
    rows = make_rows(tokens, seed=4)
    result = run(tokens, rows)
    reference = ReferenceMixture(CONFIG, vocab_size=VOCAB)
    reference.update(int(tokens[0]), starts_document=True)
    for t in range(1, len(tokens)):
        row = reference.distribution(rows[t])
        assert abs(row.sum() - 1.0) <= 1e-9
        assert row[tokens[t]] == pytest.approx(np.exp(-result.nats["mixture"][t]), abs=1e-9)
        reference.update(int(tokens[t]), starts_document=bool(tokens[t] == BOS))
    assert result.nats["mixture"].sum() < result.nats["neural"].sum()


@pytest.mark.parametrize(
    "off",
    [
        {},
        {"cascade": False, "final": False},
        {"chain": False, "final": False},
        {"final": False},
        {"chain_forgetting": 0.9},
        {"document_orders": (0, 1, 3)},
        {"chain": False, "cascade": False, "final": False, "document_orders": (1,)},
    ],
)
def test_each_configuration_equals_the_reference(off: dict[str, object]) -> None:
    config = with_layers(CONFIG, off)
    tokens = make_text(700, seed=5)
    rows = make_rows(tokens, seed=6)
    result = run(tokens, rows, config)
    reference = ReferenceMixture(config, vocab_size=VOCAB)
    reference.update(int(tokens[0]), starts_document=True)
    for t in range(1, len(tokens)):
        row = reference.distribution(rows[t])
        assert row[tokens[t]] == pytest.approx(np.exp(-result.nats["mixture"][t]), abs=1e-9)
        reference.update(int(tokens[t]), starts_document=bool(tokens[t] == BOS))
    assert ("chain" in result.nats) == config.layers.chain
    assert ("cascade" in result.nats) == config.layers.cascade


@pytest.mark.parametrize("config", [CONFIG, EVERY], ids=["text alone", "with document"])
def test_streaming_gives_the_batch_probabilities(config: MixtureConfig) -> None:
    tokens = make_text(2500 if config is CONFIG else 1200, seed=7, thrice=True)
    rows = make_rows(tokens, seed=8)
    nats = run(tokens, rows, config).nats["mixture"]
    state = MixtureState(config, vocab_size=VOCAB)
    state.update(int(tokens[0]), starts_document=True)
    for t in range(1, len(tokens)):
        row = state.distribution(rows[t])
        assert row.dtype == np.float64 and abs(row.sum() - 1.0) <= 1e-12 and row.min() > 0.0
        assert abs(row[tokens[t]] - np.exp(-nats[t])) <= 1e-13
        state.update(int(tokens[t]), starts_document=bool(tokens[t] == BOS))


@pytest.mark.parametrize("config", [CONFIG, EVERY], ids=["text alone", "with document"])
def test_the_decoder_of_several_streams_sees_the_encoders_rows(config: MixtureConfig) -> None:
    streams = [make_text(300, seed) for seed in (1, 2, 3)]
    rows = [make_rows(tokens, seed=9) for tokens in streams]
    encoder, decoder = (MixtureState(config, vocab_size=VOCAB, streams=3) for _ in range(2))
    for t in range(300):
        for state in (encoder, decoder):
            seen = []
            for s in range(3):
                if t:
                    seen.append(state.distribution(rows[s][t], stream=s))
                state.update(int(streams[s][t]), stream=s, starts_document=bool(streams[s][t] == BOS))
            assert all(abs(row.sum() - 1.0) <= 1e-12 for row in seen)
            if state is encoder:
                coded = seen
        assert all(np.array_equal(a, b) for a, b in zip(coded, seen, strict=True))


@pytest.mark.parametrize("config", [CONFIG, EVERY], ids=["text alone", "with document"])
def test_sampled_rows_prove_themselves(config: MixtureConfig) -> None:
    tokens = make_text(1500, seed=11, thrice=True)
    report = run(tokens, make_rows(tokens, seed=12), config, samples=400).report
    assert len(report.positions) == 400 and report.max_sum_error <= 1e-9
    assert report.target_errors.max() <= 1e-9 and report.count_mismatches == 0
    assert ((report.chain_weights > 0) & (report.chain_weights < 1)).all()


@pytest.mark.parametrize("config", [CONFIG, EVERY], ids=["text alone", "with document"])
@pytest.mark.parametrize("thrice", [False, True])
def test_earlier_scores_do_not_move_when_the_future_changes(thrice: bool, config: MixtureConfig) -> None:
    tokens = make_text(900, seed=13, thrice=thrice)
    rows = make_rows(tokens, seed=14)
    whole = run(tokens, rows, config).nats
    rng = np.random.default_rng(15)
    for cut in (1, 57, 500, 851, 899):
        changed, changed_rows = tokens.copy(), rows.copy()
        changed[cut:] = rng.integers(1, VOCAB, len(tokens) - cut)  # may begin documents too
        changed_rows[cut + 1 :] = make_rows(changed, seed=16)[cut + 1 :]
        for name, nats in run(changed, changed_rows, config).nats.items():
            assert np.array_equal(nats[:cut], whole[name][:cut]), name
        for name, nats in run(tokens[:cut], rows[:cut], config).nats.items() if cut > 1 else ():
            assert np.array_equal(nats, whole[name][:cut]), name


def sum_over_last_token(
    tokens: np.ndarray, rows: np.ndarray, cheat: str | None = None, config: MixtureConfig = CONFIG
) -> float:
    """Total probability of all choices of the last token, each scored by a fresh run (the target never leaks)."""
    total = 0.0
    for choice in range(VOCAB):
        tokens = tokens.copy()
        tokens[-1] = choice
        table, record = prepare(tokens, rows, config, 0)
        table = CHEATS[cheat](table) if cheat in CHEATS else table
        documents = documents_of(tokens, config)
        if cheat == "documents counted early":
            documents = dataclasses.replace(documents, n=documents.n + 1, c=documents.c + 1)
        total += float(np.exp(-mix(tokens, table, record, config, documents).nats["mixture"][-1]))
    return total


def _counted_early(table: CountTable) -> CountTable:
    """Counts that already hold the current token, as when the update runs before the score."""
    return dataclasses.replace(table, n=table.n + 1, c=table.c + 1)


def _target_in_key(table: CountTable) -> CountTable:
    """Context occurrences looked up with the target in the key: n is the count of (context, target)."""
    return dataclasses.replace(table, n=np.maximum(table.c, 1))


def _oracle_recency(table: CountTable) -> CountTable:
    """A gate bucket that knows whether the order will be right."""
    return dataclasses.replace(table, r=np.where(table.c > 0, 3, 1).astype(np.uint8))


CHEATS = {"counted early": _counted_early, "target in key": _target_in_key, "oracle gate": _oracle_recency}


@pytest.mark.parametrize("config", [CONFIG, EVERY], ids=["text alone", "with document"])
@pytest.mark.parametrize("thrice", [False, True])
def test_all_choices_of_the_target_sum_to_one(thrice: bool, config: MixtureConfig) -> None:
    tokens = make_text(800, seed=17, thrice=thrice)
    assert abs(sum_over_last_token(tokens, make_rows(tokens, seed=18), config=config) - 1.0) <= 1e-9


@pytest.mark.parametrize("cheat", [*CHEATS, "documents counted early"])
def test_cheats_do_not_sum_to_one(cheat: str) -> None:
    tokens = make_text(800, seed=17, thrice=True)
    assert abs(sum_over_last_token(tokens, make_rows(tokens, seed=18), cheat, EVERY) - 1.0) > 1e-3


def test_the_document_counts_act() -> None:
    tokens = make_text(600, seed=31, thrice=True)
    rows = make_rows(tokens, seed=32)
    assert not np.array_equal(run(tokens, rows, EVERY).nats["mixture"], run(tokens, rows).nats["mixture"])


@pytest.mark.parametrize("cheat", ["counted early", "target in key"])
def test_the_run_report_catches_cheating_counts(cheat: str) -> None:
    tokens = make_text(800, seed=19, thrice=True)
    table, record = prepare(tokens, make_rows(tokens, seed=20), CONFIG, samples=100)
    report = mix(tokens, CHEATS[cheat](table), record, CONFIG).report
    assert report.count_mismatches > 0 and max(report.max_sum_error, report.target_errors.max()) > 1e-3


def test_gates_and_weights_are_learnt() -> None:
    tokens = make_text(2000, seed=21)
    result = run(tokens, make_rows(tokens, seed=22))
    assert len(np.unique(result.final_weights)) > 1 and len(np.unique(result.gates)) > 1
    assert result.num_bytes > 0 and np.all(result.nats["mixture"][1:] > 0) and result.nats["mixture"][0] == 0.0


def test_confident_rows_stay_normalized() -> None:
    tokens = make_text(600, seed=23, thrice=True)
    logits = make_rows(tokens, seed=24) + 40.0 * np.eye(VOCAB)[tokens]  # nearly all mass on one token
    rows = logits - np.logaddexp.reduce(logits, axis=1)[:, None]
    assert run(tokens, rows, samples=200).report.max_sum_error <= 1e-9


def test_float32_records_are_within_a_millionth() -> None:
    tokens = make_text(1200, seed=25, thrice=True)
    rows = make_rows(tokens, seed=26).astype(np.float32)
    assert run(tokens, rows, samples=300).report.max_sum_error <= 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"orders": (1, 2)}, "has orders"),
        ({"record": "short"}, "expected three equal numbers"),
        ({"candidates": 2}, "candidate_log_prob has shape"),
        ({"documents": (4,)}, "count with `count_documents`"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    tokens = make_text(200, seed=27)
    table, record = prepare(tokens, make_rows(tokens, seed=28), CONFIG, 0)
    config = CONFIG
    if "orders" in change:
        layers = dataclasses.replace(CONFIG.layers, chain_orders=(1, 2))
        config = MixtureConfig(RecordConfig(candidate_orders=(1, 2)), layers)
    if "candidates" in change:
        config = dataclasses.replace(CONFIG, record=RecordConfig(candidates=2))
    if "documents" in change:
        config = with_layers(CONFIG, {"document_orders": change["documents"]})
    if "record" in change:
        tokens = tokens[:-1]
    with pytest.raises(ValueError, match=message):
        mix(tokens, table, record, config)


def test_a_record_that_is_not_finite_is_refused() -> None:
    tokens = make_text(200, seed=29)
    _, record = prepare(tokens, make_rows(tokens, seed=30), CONFIG, 0)
    broken = record.nll.copy()
    broken[7] = np.nan
    with pytest.raises(ValueError, match="position 7 is not finite"):
        dataclasses.replace(record, nll=broken)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (LayerConfig, {"chain_orders": (3, 2)}, "chain_orders: found"),
        (LayerConfig, {"chain": False}, "final: found true"),
        (LayerConfig, {"near_tokens": 0}, "near_tokens: found 0"),
        (LayerConfig, {"chain_forgetting": 1.5}, "chain_forgetting: found"),
        (LayerConfig, {"document_orders": (2, 1)}, "document_orders: found .* rising"),
        (LayerConfig, {"entropy_edges_nats": (2.0, 1.0)}, "entropy_edges_nats: found"),
        (RecordConfig, {"candidate_orders": ()}, "candidate_orders: found"),
        (RecordConfig, {"candidates": 9}, "candidates: found 9 .*, 1 or more and at most 8"),
        (RecordConfig, {"bias_global_rate": -1.0}, "bias_global_rate: found -1.0"),
    ],
)
def test_config_errors_name_the_key(part: type, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(part, to_dict(part()) | change)


def test_no_kernel_takes_more_than_eight_arguments(root: Path) -> None:
    """They once took up to 21 by position, of which two could be swapped unseen."""
    for path in [*(root / "golf" / "mixture").glob("*.py"), root / "golf" / "scoring" / "hedge.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and all(arg.annotation is None for arg in node.args.args):
                assert len(node.args.args) <= 8, f"{path.name}:{node.name}"


def test_the_stored_kernels_know_the_code_of_every_expert() -> None:
    names = {module.__name__ for module in kernels(EXPERTS).perceive.parts}  # type: ignore[attr-defined]
    assert {expert.perceive.py_func.__module__ for expert in EXPERTS} <= names  # type: ignore[attr-defined]
    assert {expert.predict.py_func.__module__ for expert in EXPERTS} <= names  # type: ignore[attr-defined]


def test_two_experts_of_one_state_class_are_refused() -> None:
    other = EXPERTS[0]._replace(name="other", perceive=EXPERTS[1].perceive)
    with pytest.raises(GolfError, match="expert other: its state is a Cascade, as that of expert cascade"):
        new_states((EXPERTS[0], other), CONFIG, VOCAB)
