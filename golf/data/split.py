"""Which split a document belongs to: decided by its content, so that equal documents never part."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from golf.data.documents import CorpusError

__all__ = ["SPLITS", "Splitter", "digest"]

SPLITS = ("train", "holdout", "val")


def digest(text: bytes, seed: int) -> bytes:
    """SHA-256 of the document's bytes and the split seed."""
    return hashlib.sha256(b"%d:" % seed + text).digest()


@dataclass
class Splitter:
    """Assign documents to train, holdout and val, and refuse a document that is on two sides.

    Without a given side, the hash as a number in [0, 1) below ``val_fraction`` means val, below
    ``val_fraction + holdout_fraction`` holdout, else train. With a given side, val is val and only train is cut by the
    hash. Once a cap is reached, further documents of that split are dropped, not moved to train: a second copy of
    a scored document must not become training text.

    ``held`` maps the hashes of all val and holdout documents to their split; its size is bounded by the caps.
    """

    val_fraction: float
    holdout_fraction: float
    val_max_bytes: int
    holdout_max_bytes: int
    seed: int
    held: dict[bytes, str] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    dropped: int = 0

    def assign(self, text: bytes, *, where: str, side: str | None = None) -> str | None:
        """The split of the document with these bytes, or None when its split is full. ``CorpusError`` on overlap."""
        key = digest(text, self.seed)
        split = self._choose(int.from_bytes(key[:8], "big") / 2.0**64, side)
        found = self.held.get(key)
        if found is not None and found != split:
            raise CorpusError(
                f"{where}: this document is on the {split} side and on the {found} side; a scored or held-out "
                "document must not be trained on, so remove one of the two copies"
            )
        if split == "train":
            self.taken[split] += len(text)
            return split
        cap = self.val_max_bytes if split == "val" else self.holdout_max_bytes
        if cap and self.taken[split] + len(text) > cap:
            self.dropped += 1
            return None
        self.held[key] = split
        self.taken[split] += len(text)
        return split

    def _choose(self, share: float, side: str | None) -> str:
        if side == "val":
            return "val"
        if side is None and share < self.val_fraction:
            return "val"
        first = self.val_fraction if side is None else 0.0
        return "holdout" if share < first + self.holdout_fraction else "train"
