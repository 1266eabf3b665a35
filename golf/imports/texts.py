"""The text that an imported model is calibrated on and judged by: two domains, cut by the hash of a document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from golf.base import files
from golf.base.params import Natural
from golf.data.documents import CorpusError, Document, Position
from golf.data.readers import Options, open_corpus
from golf.data.shards import ShardWriter
from golf.data.splitter import digest
from golf.data.tokenizer import Tokenizer, TokenizerError
from golf.imports.bpe import BytePairs
from golf.imports.origin import parse_blob

__all__ = ["DOMAINS", "DomainConfig", "TextsConfig", "imported_tokenizer", "target_bytes", "write_texts"]

DOMAINS = ("calibration", "other")  # of the judged text: that of the calibration, and another
_HELD_OUT = 64  # of 256 values of a document's hash: never calibrated on


@dataclass(frozen=True)
class DomainConfig:
    """Where a domain's documents are; ``python_docs`` are the reference topics inside every Python, without a path."""

    source: Literal["enwik8", "jsonl", "text", "table", "parquet", "shards", "python_docs"]
    path: str
    text_key: str


@dataclass(frozen=True)
class TextsConfig:
    """Section `texts` of the parameters."""

    calibration: DomainConfig
    other: DomainConfig
    calibration_bytes: Natural
    judged_bytes: Natural


def imported_tokenizer(root: Path) -> BytePairs | Tokenizer:
    """What `import_model` left below ``root`` to code text with: byte-level BPE, or SentencePiece of a checkpoint."""
    path = files.require(root / "artifacts/tokens/tokenizer.model", made_by="`import_model`")
    data = path.read_bytes()
    if not data.startswith(b"{"):
        return Tokenizer(data, name=str(path))
    found = parse_blob(data, str(path))["files"]
    meta = files.read_meta(root / "artifacts/average/model.safetensors", made_by="`import_model`")
    return BytePairs(found, vocab_size=meta["vocab_size"])


def target_bytes(tokenizer: BytePairs | Tokenizer, ids: np.ndarray) -> np.ndarray:
    """Bytes that ``ids[:, 1:]`` stand for, (B, T - 1) int64; -1 where a document begins, which no text stands for."""
    if isinstance(tokenizer, Tokenizer):
        found = np.stack([tokenizer.table.token_bytes(row) for row in ids])
    else:
        found = np.array([len(piece) for piece in tokenizer.token_bytes])[ids[:, 1:]]
    return np.where(ids[:, 1:] == tokenizer.bos_id, -1, found)


def write_texts(config: TextsConfig, root: Path) -> dict[str, Any]:
    """Write artifacts/tokens/train and artifacts/tokens/judged/DOMAIN below ``root``; returns flat metrics.

    Of the calibration's domain, a quarter of the documents by hash is judged and the rest calibrates; of the
    competition's shards the validation side is judged. Documents that the tokenizer changes are left out and counted.
    Raises ``CorpusError`` for a domain without text.
    """
    tokenizer = imported_tokenizer(root)
    metrics: dict[str, Any] = {"texts_changed_by_tokenizer": 0}
    tokens = root / "artifacts/tokens"
    with files.atomic_directory(tokens / "train") as train, files.atomic_directory(tokens / "judged") as judged:
        wanted = {"calibration": [(judged / "calibration", config.judged_bytes), (train, config.calibration_bytes)],
                  "other": [(judged / "other", config.judged_bytes)]}  # fmt: skip
        for domain in DOMAINS:
            places = [(_writer(folder, tokenizer), most) for folder, most in wanted[domain]]
            for document in _documents(getattr(config, domain), root, tokenizer):
                writer, most = places[0 if len(places) == 1 or _judged(document) else 1]
                if writer.num_bytes < most:
                    try:
                        writer.add(*_coded(document, tokenizer))
                    except TokenizerError:
                        metrics["texts_changed_by_tokenizer"] += 1
                if all(w.num_bytes >= m for w, m in places):
                    break
            for (writer, most), name in zip(places, ("judged", "calibrated"), strict=False):
                writer.close()
                if not writer.num_tokens and most:
                    raise CorpusError(f"texts.{domain}: found no document for what is {name}; give more text")
                key = f"texts_{domain}_{name}"
                metrics |= {f"{key}_tokens": writer.num_tokens, f"{key}_bytes": writer.num_bytes}
    return metrics


def _judged(document: Document) -> bool:
    """Whether a document of the calibration's domain is held out: as its corpus says, else by its hash."""
    if document.side is not None:
        return document.side == "val"
    return digest((document.text or "").encode(), 0)[8] < _HELD_OUT


def _coded(document: Document, tokenizer: BytePairs | Tokenizer) -> tuple[np.ndarray, int]:
    """Ids with the first token in front, and bytes."""
    if document.ids is None:
        return tokenizer.document(document.text or "")
    assert isinstance(tokenizer, Tokenizer)  # `_documents` gives ids to no other
    return tokenizer.imported_document(document.ids)


def _writer(folder: Path, tokenizer: BytePairs | Tokenizer) -> ShardWriter:
    return ShardWriter(
        folder, vocab_size=tokenizer.vocab_size, bos_id=tokenizer.bos_id, tokenizer_sha256=tokenizer.sha256
    )


def _documents(domain: DomainConfig, root: Path, tokenizer: BytePairs | Tokenizer) -> Iterator[Document]:
    if domain.source == "python_docs":
        from pydoc_data.topics import topics

        yield from (Document(where=name, text=topics[name]) for name in sorted(topics))
        return
    if domain.source == "shards" and isinstance(tokenizer, BytePairs):
        raise CorpusError(f"{domain.path}: shards hold ids of SentencePiece, which the imported model does not use")
    options = Options(text_key=domain.text_key, vocab_size=tokenizer.vocab_size, bos_id=tokenizer.bos_id)
    for document in open_corpus(domain.source, root / domain.path, options).documents(Position()):
        if document.text or document.ids is not None:
            yield document
