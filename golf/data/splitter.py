"""Which split a document belongs to is decided by its content, so that equal documents never part."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

__all__ = ["SPLITS", "Splitter", "digest"]

SPLITS = ("train", "holdout", "val")


def digest(text: bytes | memoryview, seed: int) -> bytes:
    """SHA-256 of the split seed and the document's bytes, of ids those of each as a little-endian number."""
    made = hashlib.sha256(b"%d:" % seed)
    made.update(text)
    return made.digest()


def _counts() -> dict[str, int]:
    return dict.fromkeys(SPLITS, 0)


@dataclass
class Splitter:
    """Assign documents to train, holdout and val, and leave out a second copy of a document that is held out.

    Without a given side, the hash as a number in [0, 1) below ``val_fraction`` means val, below
    ``val_fraction + holdout_fraction`` holdout, else train. With a given side, val is val and only train is cut by the
    hash. Once a cap is reached, further documents of that split are dropped, not moved to train: a second copy of
    a scored document must not become training text. Where the corpus gives the sides, its validation documents come
    first, and a training document that equals one of them is dropped.

    ``held`` maps the hashes of all val and holdout documents to their split; its size is bounded by the caps.
    ``seen`` counts the documents of each split, ``taken`` the bytes assigned to it, ``dropped`` the documents over its
    cap and ``shortest`` the bytes of the shortest of those; ``copies`` counts the dropped copies.
    """

    val_fraction: float
    holdout_fraction: float
    val_max_bytes: int
    holdout_max_bytes: int
    seed: int
    held: dict[bytes, str] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=_counts)
    taken: dict[str, int] = field(default_factory=_counts)
    dropped: dict[str, int] = field(default_factory=_counts)
    shortest: dict[str, int] = field(default_factory=dict)
    copies: int = 0

    def assign(self, text: bytes | memoryview, *, side: str | None = None, num_bytes: int | None = None) -> str | None:
        """The split of the document with these bytes; None when its split is full or the other side holds a copy.

        ``num_bytes``: of its text, where ``text`` is not that but the document's ids.
        """
        size = len(text) if num_bytes is None else num_bytes
        key = digest(text, self.seed)
        split = self._choose(int.from_bytes(key[:8], "big") / 2.0**64, side)
        if self.held.get(key, split) != split:
            self.copies += 1
            return None
        self.seen[split] += 1
        cap = {"val": self.val_max_bytes, "holdout": self.holdout_max_bytes}.get(split, 0)
        if cap and self.taken[split] + size > cap:
            self.dropped[split] += 1
            self.shortest[split] = min(size, self.shortest.get(split, size))
            return None
        if split != "train":
            self.held[key] = split
        self.taken[split] += size
        return split

    def _choose(self, share: float, side: str | None) -> str:
        if side == "val":
            return "val"
        if side is None and share < self.val_fraction:
            return "val"
        first = self.val_fraction if side is None else 0.0
        return "holdout" if share < first + self.holdout_fraction else "train"
