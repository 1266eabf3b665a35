"""One table of all scorers by document, from the files that `evaluate` and `hedge` cache.

Shapes: D documents, M modes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from golf.base.files import FileError, checked, load_numpy
from golf.scoring.text import ScoringError

__all__ = ["DocumentTable", "load_documents"]


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
    for name in {"doc_bytes", "doc_tokens", "doc_nats"} | tensors.keys():
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
        raise ScoringError("found no mode to tabulate, wanted at least one")
    return DocumentTable(doc_bytes=first[2], doc_tokens=first[3], nats=nats)
