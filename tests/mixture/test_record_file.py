"""A streaming record out of a file: everything that a kernel indexes by is compared with the text before it runs.

A changed `argmax` once made the mixture read and write outside its arrays and ended in a segmentation fault.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golf.base.errors import GolfError
from golf.base.params import load_section
from golf.mixture.counts import candidates, count_contexts
from golf.mixture.record import StreamRecord
from golf.scoring.mixture_score import HedgeConfig, score_mixture
from golf.scoring.record_stream import StreamingConfig
from golf.scoring.text import ValidationText
from reference_mixture import record_from_log_probs

VOCAB, NUM = 20, 120
TOKENS = np.random.default_rng(1).integers(1, VOCAB, NUM)
TEXT = ValidationText(TOKENS, np.array([0]), np.array([NUM]), VOCAB)


@pytest.fixture(scope="module")
def configs(root: Path) -> tuple[StreamingConfig, HedgeConfig]:
    streaming = load_section(root / "params.yaml", "evaluate.streaming", StreamingConfig)
    hedge = load_section(root / "params.yaml", "evaluate.hedge", HedgeConfig)
    return dataclasses.replace(streaming, temperatures=(1.1,)), hedge


@pytest.fixture(scope="module")
def tensors(configs: tuple[StreamingConfig, HedgeConfig]) -> dict[str, np.ndarray]:
    logits = np.random.default_rng(2).normal(size=(NUM, VOCAB))
    rows = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    table = count_contexts(TOKENS, TEXT.doc_starts, orders=configs[0].candidate_orders, vocab_size=VOCAB)
    ids = candidates(table, count=configs[0].candidates, orders=configs[0].candidate_orders)
    record = record_from_log_probs(TOKENS, rows, ids, samples=3)
    return StreamRecord(record, np.ones(NUM - 1), np.ones((1, NUM - 1)), record.sample_log_probs).tensors()


def read(tensors: dict[str, np.ndarray], configs: Any, **changes: Any) -> float:
    flat = {name: array.copy() for name, array in tensors.items()}
    for name, change in changes.items():
        flat[name.replace("__", ".")] = change
    return score_mixture(TEXT, StreamRecord.from_tensors(flat), *configs).score.total_nats


@pytest.mark.parametrize("value", [VOCAB, -1, 2**31 - 1, -(2**31)])
def test_an_argmax_outside_the_vocabulary_reaches_no_kernel(
    value: int, tensors: dict[str, np.ndarray], configs: Any
) -> None:
    assert read(tensors, configs) > 0.0
    argmax = tensors["base.argmax"].copy()
    argmax[70] = value
    with pytest.raises(GolfError, match=f"argmax of position 70 is {value}, expected 0 to {VOCAB - 1}"):
        read(tensors, configs, base__argmax=argmax)


WRONG: dict[str, Any] = {
    "rows of another vocabulary": ("sample_log_probs", lambda a: a[:, :-3]),
    "rows without entries": ("sample_log_probs", lambda a: a[:, 0]),
    "a position before the text": ("sample_positions", lambda a: a - a.max() - 1),
    "a position behind the text": ("sample_positions", lambda a: a + NUM),
    "positions that fall": ("sample_positions", lambda a: a[::-1]),
    "positions that are floats": ("sample_positions", lambda a: a.astype(np.float64)),
    "fewer positions than rows": ("sample_positions", lambda a: a[:-1]),
    "an argmax of floats": ("argmax", lambda a: a.astype(np.float32)),
    "too few of argmax": ("argmax", lambda a: a[:-1]),
    "too few candidates": ("candidate_log_prob", lambda a: a[:, :-1]),
    "candidates in a row": ("candidate_log_prob", lambda a: a.reshape(-1)),
    "nats that are no number": ("nll", lambda a: a * np.nan),
    "a probability above 1": ("nll", lambda a: a - 30.0),
    "candidates above 1": ("candidate_log_prob", lambda a: a + 99.0),
    "rows above 1": ("sample_log_probs", lambda a: a + 400.0),
    "a row that is no number": ("sample_log_probs", lambda a: a * np.nan),
    "nats as integers": ("nll", lambda a: a.astype(np.int64)),
    "scored as bytes": ("scored", lambda a: a.astype(np.uint8)),
    "everything shorter": ("nll", lambda a: a[:40]),
}


@pytest.mark.parametrize("what", WRONG)
def test_arrays_that_do_not_fit_are_named(what: str, tensors: dict[str, np.ndarray], configs: Any) -> None:
    name, change = WRONG[what]
    for key in {f"base.{name}", name} & set(tensors):
        with pytest.raises(GolfError, match="record|mixture"):
            read(tensors, configs, **{key.replace(".", "__"): change(tensors[key])})


@pytest.mark.parametrize("nats", [np.ones(9), np.ones((1, NUM - 1)), np.full(NUM - 1, np.inf), -np.ones(NUM - 1)])
def test_nats_of_the_network_fit_the_targets(nats: Any, tensors: dict[str, np.ndarray], configs: Any) -> None:
    with pytest.raises(GolfError, match="streaming record: 120 positions and nats"):
        read(tensors, configs, nats=nats)


@pytest.mark.parametrize(
    "tempered", [np.ones(9), np.ones((1, 9)), np.ones((3, NUM - 1)), np.full((1, NUM - 1), np.inf)]
)
def test_tempered_nats_fit_the_targets(tempered: Any, tensors: dict[str, np.ndarray], configs: Any) -> None:
    with pytest.raises(GolfError, match="tempered|temperatures"):
        read(tensors, configs, tempered=np.asarray(tempered))


def test_a_missing_array_is_named(tensors: dict[str, np.ndarray]) -> None:
    for name in tensors:
        flat = {key: array for key, array in tensors.items() if key != name}
        with pytest.raises(GolfError, match=f"found no {name};"):
            StreamRecord.from_tensors(flat)
