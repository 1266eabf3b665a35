"""The text that an imported model is calibrated on and judged by: two domains, cut by the hash of a document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from golf.base import files
from golf.base.params import Natural
from golf.data.documents import CorpusError, Position
from golf.data.encode import digest
from golf.data.readers import open_corpus
from golf.data.shards import ShardWriter
from golf.data.tokenizer import TokenizerError
from golf.imports.bpe import BytePairs
from golf.imports.origin import read_blob

__all__ = ["DOMAINS", "DomainConfig", "TextsConfig", "write_texts"]

DOMAINS = ("calibration", "other")  # of the judged text: that of the calibration, and another
_HELD_OUT = 64  # of 256 values of a document's hash: never calibrated on


@dataclass(frozen=True)
class DomainConfig:
    """Where a domain's documents are; ``python_docs`` are the reference topics inside every Python, without a path."""

    source: Literal["enwik8", "jsonl", "text", "table", "parquet", "python_docs"]
    path: str
    text_key: str


@dataclass(frozen=True)
class TextsConfig:
    """Section `texts` of the parameters."""

    calibration: DomainConfig
    other: DomainConfig
    calibration_bytes: Natural
    judged_bytes: Natural


def write_texts(config: TextsConfig, root: Path) -> dict[str, Any]:
    """Write artifacts/tokens/train and artifacts/tokens/judged/DOMAIN below ``root``; returns flat metrics.

    Of the calibration's domain, a quarter of the documents by hash is judged and the rest calibrates. Documents that
    the tokenizer changes are left out and counted. Raises ``CorpusError`` for a domain without text.
    """
    blob = read_blob(root / "artifacts/tokens/tokenizer.model")
    vocab_size = files.read_meta(root / "artifacts/average/model.safetensors", made_by="`import_model`")["vocab_size"]
    tokenizer = BytePairs(blob["files"], vocab_size=vocab_size)
    metrics: dict[str, Any] = {"texts_changed_by_tokenizer": 0}
    tokens = root / "artifacts/tokens"
    with files.atomic_directory(tokens / "train") as train, files.atomic_directory(tokens / "judged") as judged:
        wanted = {"calibration": [(judged / "calibration", config.judged_bytes), (train, config.calibration_bytes)],
                  "other": [(judged / "other", config.judged_bytes)]}  # fmt: skip
        for domain in DOMAINS:
            places = [(_writer(folder, tokenizer), most) for folder, most in wanted[domain]]
            for text in _texts(getattr(config, domain), root):
                side = 0 if len(places) == 1 or digest(text.encode(), 0)[8] < _HELD_OUT else 1
                writer, most = places[side]
                if writer.num_bytes < most:
                    try:
                        writer.add(*tokenizer.document(text))
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


def _writer(folder: Path, tokenizer: BytePairs) -> ShardWriter:
    return ShardWriter(
        folder, vocab_size=tokenizer.vocab_size, bos_id=tokenizer.bos_id, tokenizer_sha256=tokenizer.sha256
    )


def _texts(domain: DomainConfig, root: Path) -> Iterator[str]:
    if domain.source == "python_docs":
        from pydoc_data.topics import topics

        yield from (topics[name] for name in sorted(topics))
        return
    for document in open_corpus(domain.source, root / domain.path, _options(domain)).documents(Position()):
        if document.text:
            yield document.text


def _options(domain: DomainConfig) -> Any:
    from golf.data.readers import Options

    return Options(text_key=domain.text_key)
