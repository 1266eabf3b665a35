"""The scored text as the page of a run carries it: tokens, bits under each scorer and likeliest tokens, packed.

Shapes: N = n + 1 tokens, S targets from the first on (target i is token i + 1), C of them with the network's likeliest
tokens, H with the mixture's, K tokens of each, V vocabulary.
"""

from __future__ import annotations

import gzip
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from golf.base.errors import GolfError

__all__ = ["TextView", "pack"]

UNIT = 8  # steps of a bit, and of a halving of a probability: a byte ends at 31.9 bits


@dataclass(frozen=True)
class TextView:
    """``tokens`` (N,), ``doc_starts`` (D,) and the bytes of the ``pieces`` (V,); ``nats`` (S,) by scorer, the first of
    which the others are compared with; ``network_ids`` and ``network_probs`` (S, K); ``mixture_targets`` (H,) rising,
    ``mixture_ids`` and ``mixture_probs`` (H, K). ``names``: what each scorer is called. Raises ``GolfError`` for arrays
    that do not fit together."""

    tokens: np.ndarray
    doc_starts: np.ndarray
    pieces: Sequence[bytes]
    nats: Mapping[str, np.ndarray]
    names: Mapping[str, str]
    network_ids: np.ndarray
    network_probs: np.ndarray
    mixture_targets: np.ndarray
    mixture_ids: np.ndarray
    mixture_probs: np.ndarray

    def __post_init__(self) -> None:
        shown, targets = self.num_shown, len(self.tokens) - 1
        for name, nats in self.nats.items():
            if nats.shape != (shown,) or not 1 <= shown <= targets or not (np.isfinite(nats) & (nats >= 0)).all():
                raise GolfError(f"{name}: found {nats.shape} nats, expected one for each of {shown} tokens, 0 or more")
        likeliest = {
            "network": (self.network_ids, self.network_probs, shown),
            "mixture": (self.mixture_ids, self.mixture_probs, len(self.mixture_targets)),
        }
        for name, (ids, probs, count) in likeliest.items():
            whole = ids.ndim == 2 and len(ids) == count and ids.shape == probs.shape and ids.shape[1] >= 1
            if not whole or (ids >= len(self.pieces)).any() or not ((probs >= 0) & (probs < 1.001)).all():
                raise GolfError(f"{name}: its likeliest tokens are not ids and probabilities of {count} targets")
        at = self.mixture_targets
        if at.ndim != 1 or (len(at) and not 0 <= at[0] <= at[-1] < shown) or (np.diff(at) <= 0).any():
            raise GolfError(f"mixture: found targets that do not rise or are none of the first {shown}")

    @property
    def num_shown(self) -> int:
        """S."""
        return len(next(iter(self.nats.values())))


def pack(view: TextView, *, tokens: int, candidates: int) -> bytes:
    """The view for the page's script: gzip of a length (uint32), a JSON head and byte arrays.

    ``tokens`` likeliest ones are kept (K or fewer), those of the network for the first ``candidates`` targets (C).
    Bits and halvings of probabilities are rounded to eighths and end at 31.9.
    """
    arrays = _halves("token", view.tokens[: view.num_shown + 1])
    base: np.ndarray | None = None
    for name, nats in view.nats.items():
        bits = np.minimum(np.rint(nats / math.log(2.0) * UNIT), 255).astype(np.uint8)
        arrays[f"bits.{name}"] = bits if base is None else bits - base  # modulo 256: small changes pack well
        base = bits if base is None else base
    likeliest = {
        "network": (view.network_ids[:candidates], view.network_probs[:candidates]),
        "mixture": (view.mixture_ids, view.mixture_probs),
    }
    for name, (ids, probs) in likeliest.items():
        for k in range(min(tokens, ids.shape[1])):
            arrays |= _halves(f"{name}.id{k}", ids[:, k])
            arrays[f"{name}.p{k}"] = _halvings(probs[:, k])
    head: dict[str, Any] = {
        "pieces": [piece.decode("latin-1") for piece in view.pieces],
        "docStarts": [int(start) for start in view.doc_starts if start <= view.num_shown],
        "scorers": [{"key": key, "name": view.names.get(key, key)} for key in view.nats],
        "targets": len(view.tokens) - 1,
        "tokens": min(tokens, view.network_ids.shape[1]),
        "passages": _runs(view.mixture_targets),
        "unit": UNIT,
        "arrays": {name: len(array) for name, array in arrays.items()},
    }
    text = json.dumps(head, separators=(",", ":")).encode()
    data = struct.pack("<I", len(text)) + text + b"".join(array.tobytes() for array in arrays.values())
    return gzip.compress(data, 9, mtime=0)


def _halves(name: str, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Low and high bytes of ids below 65,536, apart: the high ones are few."""
    wide = ids.astype(np.uint16)
    return {f"{name}.low": (wide & 255).astype(np.uint8), f"{name}.high": (wide >> 8).astype(np.uint8)}


def _halvings(probs: np.ndarray) -> np.ndarray:
    """``-8 log2 p`` as bytes."""
    bits = -np.log2(np.maximum(probs.astype(np.float64), 1e-30)) * UNIT
    return np.clip(np.rint(bits), 0, 255).astype(np.uint8)


def _runs(targets: np.ndarray) -> list[list[int]]:
    """Rising numbers as runs: first and length."""
    if not len(targets):
        return []
    edges = np.flatnonzero(np.diff(targets) != 1) + 1
    starts, ends = np.concatenate([[0], edges]), np.append(edges, len(targets))
    return [[int(targets[a]), int(b - a)] for a, b in zip(starts, ends, strict=True)]
