"""The likeliest tokens of the network and of the mixture, for people who look at a text: no score is made of them.

Those of the network are taken in the streaming pass, while its rows exist. The mixture's need whole rows of the
distribution that it mixes over: they are kept for a few passages, and the mixture is materialized there.

Shapes: S targets from the first on, H of the passages, K tokens of each, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from golf.base.errors import GolfError
from golf.mixture.batch import Watch
from golf.scoring.text import ValidationText

if TYPE_CHECKING:
    import torch

__all__ = ["Likeliest", "LikeliestRows", "passages", "watched"]

TOKENS = 5
SHOWN_TARGETS = 1 << 17  # 4 MB of ids and probabilities
PASSAGES = 8
PASSAGE_TARGETS = 1024  # in all passages; each costs the mixture a millisecond
PASSAGE_PROBABILITIES = 1 << 22  # 16 MB


@dataclass(frozen=True)
class Likeliest:
    """Of the ``targets`` int64 (S,), rising: ``ids`` uint16 (S, K), likeliest first, and ``probs`` float32 (S, K)."""

    targets: np.ndarray
    ids: np.ndarray
    probs: np.ndarray

    @classmethod
    def empty(cls, targets: np.ndarray, vocab_size: int) -> Likeliest:
        """Zeros, to be filled."""
        shape = len(targets), min(TOKENS, vocab_size)
        return cls(targets, np.zeros(shape, np.uint16), np.zeros(shape, np.float32))

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """Flat arrays for a safetensors file."""
        return {f"{name}.{field}": array for field, array in vars(self).items()}


def passages(num_targets: int, vocab_size: int) -> np.ndarray:
    """int64 (H,): targets of the passages, which are of one length and spread evenly over those that are shown of a
    text; all of a short text."""
    num_targets = min(num_targets, SHOWN_TARGETS)
    most = min(PASSAGE_TARGETS, PASSAGE_PROBABILITIES // vocab_size)
    if num_targets <= most:
        return np.arange(num_targets)
    length = max(1, most // PASSAGES)
    starts = np.linspace(0, num_targets - length, num=most // length).astype(np.int64)
    return np.unique(starts[:, None] + np.arange(length))


class LikeliestRows:
    """What the streaming pass gathers, from pieces of rows in reading order: the ``network``'s likeliest tokens of the
    targets that are shown, the first ones; and ``rows`` float32 (H, V), the log-probabilities that the mixture mixes
    over, of ``passages``."""

    def __init__(self, text: ValidationText) -> None:
        self.network = Likeliest.empty(np.arange(min(text.num_targets, SHOWN_TARGETS)), text.vocab_size)
        self.passages = passages(text.num_targets, text.vocab_size)
        self.rows = np.zeros((len(self.passages), text.vocab_size), np.float32)

    def take(self, first: int, network: torch.Tensor) -> list[torch.Tensor]:
        """Columns (R,) on the device for ``store``, of the ``network``'s rows (R, V), targets ``first`` on."""
        if first >= len(self.network.ids):
            return []
        values, ids = network.topk(self.network.ids.shape[1], dim=1)
        return [*ids.unbind(1), *values.exp().unbind(1)]

    def store(self, first: int, columns: np.ndarray, mixed: torch.Tensor) -> None:
        """Keep the fetched ``columns``, and the rows of passages of ``mixed`` (R, V): those under the document bias, or
        the network's."""
        import torch

        count = self.network.ids.shape[1]
        if len(columns):
            place = slice(first, min(first + len(mixed), len(self.network.ids)))
            taken = columns[:, : place.stop - first].T
            self.network.ids[place], self.network.probs[place] = taken[:, :count], taken[:, count:]
        here = np.flatnonzero((self.passages >= first) & (self.passages < first + len(mixed)))
        if len(here):
            self.rows[here] = mixed[torch.from_numpy(self.passages[here] - first).to(mixed.device)].cpu().numpy()

    def tensors(self) -> dict[str, np.ndarray]:
        """Flat arrays that go beside the record."""
        return self.network.tensors("network") | {"passages.targets": self.passages, "passages.rows": self.rows}

    @classmethod
    def from_tensors(cls, flat: Mapping[str, np.ndarray], text: ValidationText) -> LikeliestRows:
        """The inverse of ``tensors``; raises ``GolfError`` for arrays that are not those of ``text``."""
        rows = cls(text)
        for name, array in rows.tensors().items():
            found = flat.get(name, np.zeros(0))
            if found.shape != array.shape or found.dtype != array.dtype:
                raise GolfError(f"{name}: found {found.dtype} {found.shape}, expected {array.dtype} {array.shape}")
            array[:] = found
        sums = np.exp(np.minimum(rows.rows, 1.0)).sum(axis=1)
        sound = (rows.network.ids < text.vocab_size).all() and (np.abs(sums - 1.0) < 1e-3).all()
        if not sound or not np.array_equal(rows.passages, passages(text.num_targets, text.vocab_size)):
            raise GolfError("likeliest tokens: an id outside the vocabulary, a row that is no distribution, or another "
                            "passage")  # fmt: skip
        return rows


def watched(rows: LikeliestRows) -> tuple[Likeliest, Watch]:
    """Where the mixture's likeliest tokens in the passages come once it has gone through the text with this ``Watch``.

    The rows are rounded to float32, so these probabilities are the score's up to some 1e-7 of them.
    """
    found = Likeliest.empty(rows.passages, rows.rows.shape[1])
    count = found.ids.shape[1]

    def keep(place: int, row: np.ndarray) -> None:
        order = np.argsort(-row, kind="stable")[:count]
        found.ids[place], found.probs[place] = order, row[order]

    return found, Watch(rows.passages + 1, rows.rows, keep)
