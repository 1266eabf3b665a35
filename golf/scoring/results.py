"""What a scorer leaves behind: per-document nats and flat metrics; and one table of all scorers by document.

Shapes: n targets, D documents, M modes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from golf.base.files import FileError, checked, load_numpy
from golf.base.jit import kernel
from golf.base.score import bits_per_byte
from golf.scoring.text import ScoringError, ValidationText

__all__ = ["DocumentTable", "Score", "Scored", "document_nats", "load_documents", "make_score"]


@dataclass(frozen=True)
class Score:
    """One scorer's result: ``nats`` float64 (n,) of every target, ``doc_nats`` float64 (D,), ``doc_bytes`` and
    ``doc_tokens`` int64 (D,), the number of ``windows`` (0 where there are none), ``details``: further flat metrics."""

    name: str
    nats: np.ndarray
    doc_nats: np.ndarray
    doc_bytes: np.ndarray
    doc_tokens: np.ndarray
    windows: int
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def total_nats(self) -> float:
        """Nats of all targets, documents added with one rounding (``math.fsum``)."""
        return math.fsum(self.doc_nats)

    @property
    def bits_per_byte(self) -> float:
        """``golf.base.score.bits_per_byte`` of the whole stream."""
        return bits_per_byte(self.total_nats, int(self.doc_bytes.sum()))

    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays that evaluate caches."""
        return {"doc_nats": self.doc_nats, "doc_bytes": self.doc_bytes, "doc_tokens": self.doc_tokens}

    def metrics(self, seconds: float) -> dict[str, float]:
        """Flat metrics; ``seconds`` is the wall-clock time of the scoring alone."""
        tokens = int(self.doc_tokens.sum())
        return {
            f"{self.name}_bits_per_byte": self.bits_per_byte,
            f"{self.name}_nats_per_token": self.total_nats / tokens,
            f"{self.name}_seconds": seconds,
            f"{self.name}_tokens_per_second": tokens / seconds,
            "tokens": tokens,
            "bytes": int(self.doc_bytes.sum()),
            "documents": len(self.doc_nats),
            "windows": self.windows,
            **self.details,
        }


@dataclass(frozen=True)
class Scored:
    """A ``score`` and the arrays of each target (n,) that the stage caches for later stages."""

    score: Score
    tensors: Mapping[str, np.ndarray]


def make_score(
    name: str, text: ValidationText, nats: np.ndarray, *, windows: int = 0, details: Mapping[str, float] | None = None
) -> Score:
    """Sum the nats of all targets (n,) by document."""
    return Score(
        name=name,
        nats=nats,
        doc_nats=document_nats(text, nats),
        doc_bytes=text.doc_bytes,
        doc_tokens=text.doc_tokens,
        windows=windows,
        details=details or {},
    )


def document_nats(text: ValidationText, nats: np.ndarray) -> np.ndarray:
    """float64 (D,): nats of each document's targets, each sum rounded once, so that no order of work can change it;
    NaN for a document with a number that is not finite."""
    assert nats.shape == (text.num_targets,) and nats.dtype == np.float64
    digits = np.zeros((len(text.doc_bytes), _DIGITS), np.uint32)
    finite = _add_exactly(nats, text.target_bounds, digits)
    sums = [int.from_bytes(row.tobytes(), "little", signed=True) / (1 << 1074) for row in digits]
    return np.where(finite, sums, np.nan)


_DIGITS = 68  # of 32 bits: all sums of float64, in units of the smallest one


@kernel
def _add_exactly(values, bounds, digits):  # type: ignore[no-untyped-def]
    """Whole sums of ``values`` between ``bounds`` (D + 1,) into ``digits`` (D, 68), the lowest first; whether all were
    finite (D,)."""
    low32, total = np.int64(0xFFFFFFFF), np.zeros(digits.shape[1], np.int64)
    finite = np.ones(len(digits), np.bool_)
    for d in range(len(digits)):
        total[:] = 0
        for i in range(bounds[d], bounds[d + 1]):
            bits = np.float64(values[i]).view(np.int64)
            exponent, fraction = (bits >> 52) & 0x7FF, bits & 0xFFFFFFFFFFFFF
            if exponent == 0x7FF:
                finite[d], exponent = False, 0
            if exponent > 0:
                exponent, fraction = exponent - 1, fraction | (1 << 52)
            at, shift, sign = exponent >> 5, exponent & 31, 1 if bits >= 0 else -1
            low, high = (fraction & low32) << shift, (fraction >> 32) << shift
            total[at] += sign * (low & low32)
            total[at + 1] += sign * ((low >> 32) + (high & low32))
            total[at + 2] += sign * (high >> 32)
        carry = np.int64(0)
        for j in range(len(total)):
            carry += total[j]
            digits[d, j] = carry & low32
            carry >>= 32
    return finite


@dataclass(frozen=True)
class DocumentTable:
    """``doc_bytes`` and ``doc_tokens`` int64 (D,), and float64 (D,) nats under each scorer's name."""

    doc_bytes: np.ndarray
    doc_tokens: np.ndarray
    nats: Mapping[str, np.ndarray]

    def tsv(self) -> str:
        """Tab-separated: document, bytes, tokens, then nats and bits per byte of each mode (empty text: no number)."""
        modes = list(self.nats)
        names = ["document", "bytes", "tokens", *(f"{m}_{unit}" for m in modes for unit in ("nats", "bits_per_byte"))]
        lines = ["\t".join(names)]
        for d, num_bytes in enumerate(self.doc_bytes.tolist()):
            cells = [str(d), str(num_bytes), str(int(self.doc_tokens[d]))]
            for mode in modes:
                nats = float(self.nats[mode][d])
                cells += [f"{nats:.6f}", f"{nats / np.log(2.0) / num_bytes:.6f}" if num_bytes else ""]
            lines.append("\t".join(cells))
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Scored:
    """What is read of the metadata of a score."""

    artifact_sha256: str


def _check_arrays(tensors: Mapping[str, np.ndarray], path: str | Path, made_by: str) -> None:
    """Integers and nats of every document: as many of each, all finite, none negative."""
    for name in ("doc_nats", "doc_bytes", "doc_tokens", *sorted(tensors)):  # doc_nats first: the others have its shape
        kind, array = ("f" if name.startswith("doc_nats") else "i"), tensors.get(name)
        sound = array is not None and array.dtype.kind == kind and array.shape == tensors["doc_nats"].shape
        if array is None or not sound or array.ndim != 1 or not np.isfinite(array).all() or (array < 0).any():
            raise FileError(f"{path}: `{name}` is not one number for each document; re-run {made_by}")


def load_documents(paths: Mapping[str, str | Path]) -> DocumentTable:
    """Join the safetensors of several modes (name -> path), with the scorers beside the mode where there are any.

    Raises ``FileError`` for a missing file and ``ScoringError`` when two are of different artifacts or texts.
    """
    nats: dict[str, np.ndarray] = {}
    first: tuple[str, str, np.ndarray, np.ndarray] | None = None
    for mode, path in paths.items():
        made_by = "stage hedge" if mode == "hedge" else f"stage evaluate@{mode}"
        tensors, meta = load_numpy(path, made_by=made_by)
        artifact = checked(_Scored, meta, path=path, made_by=made_by).artifact_sha256
        _check_arrays(tensors, path, made_by)
        found = (mode, artifact, tensors["doc_bytes"], tensors["doc_tokens"])
        first = first or found
        same = found[1] == first[1] and np.array_equal(found[2], first[2]) and np.array_equal(found[3], first[3])
        if not same:
            raise ScoringError(f"{path}: scores another artifact or text than `{first[0]}`; re-run `dvc repro`")
        nats[mode] = tensors["doc_nats"]
        nats |= {name.removeprefix("doc_nats."): value for name, value in sorted(tensors.items()) if "." in name}
    if first is None:
        raise ScoringError("found no mode to tabulate, expected at least one")
    return DocumentTable(doc_bytes=first[2], doc_tokens=first[3], nats=nats)
