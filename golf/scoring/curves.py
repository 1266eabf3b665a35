"""Where the gain of the mixture comes from: small tables for plots, made from per-target nats.

Shapes: n targets, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from golf.base.files import write_text
from golf.mixture.batch import MixResult, row_calibration
from golf.mixture.counts import CountTable
from golf.mixture.record import NeuralRecord
from golf.scoring.hedge import HedgeResult
from golf.scoring.text import ValidationText

__all__ = ["Curves", "Table", "make_curves"]

POSITION_BINS = 50
CONFIDENCE_BINS = 20


@dataclass(frozen=True)
class Table:
    """Named columns of equal length."""

    columns: dict[str, list[float]]

    def tsv(self) -> str:
        """Tab-separated text with a heading; whole numbers without a point, others with nine significant digits."""
        rows = zip(*self.columns.values(), strict=True)
        lines = ["\t".join(f"{value:.9g}" for value in row) for row in rows]
        return "\n".join(["\t".join(self.columns), *lines]) + "\n"


@dataclass(frozen=True)
class Curves:
    """``position``: nats per token of each scorer along the text; ``orders``: by the longest context seen before;
    ``weights``: mixture weights at the sampled targets; ``calibration``: how often the likeliest token comes;
    ``rows``: expected and actual number of tokens by their probability, over the whole rows of the sampled targets."""

    position: Table
    orders: Table
    weights: Table
    calibration: Table
    rows: Table

    def write(self, folder: Path) -> None:
        """Write one TSV each into ``folder`` (which exists)."""
        for name, table in vars(self).items():
            write_text(folder / f"{name}.tsv", table.tsv())


def make_curves(
    text: ValidationText,
    nats: dict[str, np.ndarray],
    table: CountTable,
    record: NeuralRecord,
    headline: MixResult,
    simple: HedgeResult,
) -> Curves:
    """All tables; ``nats`` (n,) by scorer, ``table`` and ``record`` those of the ``headline``."""
    bins = np.arange(text.num_targets) * min(POSITION_BINS, text.num_targets) // text.num_targets
    position = _binned(bins, nats, "bin")
    ends = np.cumsum(position.columns["tokens"]).tolist()
    orders = np.array([0, *table.orders])[table.matched[1:]]
    report = headline.report
    weights = {"target": (report.positions - 1).astype(float).tolist()}
    weights |= {"chain": report.chain_weights.tolist()}
    weights |= {f"simple_{name}": simple.probe_weights[:, k].tolist() for k, name in enumerate(simple.experts)}
    return Curves(
        position=Table({"last_target": ends} | position.columns),
        orders=_binned(orders, nats, "order"),
        weights=Table(weights),
        calibration=_calibration(text, record),
        rows=_rows(text, record, headline),
    )


def _binned(bins: np.ndarray, nats: dict[str, np.ndarray], key: str) -> Table:
    names, where, counts = np.unique(bins, return_inverse=True, return_counts=True)
    columns = {key: names.astype(float).tolist(), "tokens": counts.astype(float).tolist()}
    for name, values in nats.items():
        columns[f"{name}_nats_per_token"] = (np.bincount(where, weights=values) / counts).tolist()
    return Table(columns)


def _calibration(text: ValidationText, record: NeuralRecord) -> Table:
    """Targets grouped by the probability of the likeliest token: its mean, and the share of targets that are it."""
    confidence = np.exp(record.argmax_log_prob[1:])
    hits = (record.argmax[1:] == text.tokens[1:]).astype(float)
    bins = np.minimum((confidence * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)
    table = _binned(bins, {"confidence": confidence, "hit_rate": hits}, "bin")
    return Table({key.removesuffix("_nats_per_token"): values for key, values in table.columns.items()})


def _rows(text: ValidationText, record: NeuralRecord, headline: MixResult) -> Table:
    """Of the entries with a probability of at most ``at_most``: their sum, and how many were the token that came."""
    samples = zip(np.exp(record.sample_log_probs), text.tokens[record.sample_positions], strict=True)
    mixed = headline.report.calibration
    neural = sum((row_calibration(row, int(token)) for row, token in samples), np.zeros_like(mixed))
    columns = {"at_most": (0.5 ** np.arange(neural.shape[1])).tolist()}
    for name, (mass, came) in (("neural", neural), ("hedge", mixed)):
        columns |= {f"{name}_expected": mass.tolist(), f"{name}_came": came.tolist()}
    return Table(columns)
