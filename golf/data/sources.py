"""The kinds of corpus by name, a corpus with validation documents of its own, and the hash of what was read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from golf.base.files import sha256_file
from golf.data.competition import CompetitionShards
from golf.data.documents import Corpus, Document, Files, Position
from golf.data.enwik8 import Enwik8
from golf.data.readers import JsonLines, Parquet, Tables, TextFiles

__all__ = ["SourceKind", "WithValidation", "open_corpus", "source_sha256"]

SourceKind = Literal["enwik8", "jsonl", "text", "table", "parquet", "shards"]


def open_corpus(
    kind: SourceKind,
    path: str | Path,
    *,
    pool: ProcessPoolExecutor | None = None,
    text_key: str = "text",
    vocab_size: int = 0,
    bos_id: int = 1,
) -> Corpus:
    """Open a corpus; ``vocab_size`` and ``bos_id`` matter to ``shards`` alone. Raises ``CorpusError`` when missing."""
    path = Path(path)
    kinds: dict[str, Any] = {
        "enwik8": lambda: Enwik8(path, pool),
        "jsonl": lambda: JsonLines(path, text_key),
        "text": lambda: TextFiles(path),
        "table": lambda: Tables(path, text_key),
        "parquet": lambda: Parquet(path, text_key),
        "shards": lambda: CompetitionShards(path, vocab_size, bos_id),
    }
    corpus: Corpus = kinds[kind]()
    corpus.files()
    return corpus


def source_sha256(corpus: Corpus) -> str:
    """SHA-256 over the names and contents of the corpus files; of a single file, its own hash."""
    files = corpus.files().paths
    if len(files) == 1:
        return sha256_file(files[0])
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    return total.hexdigest()


@dataclass(frozen=True)
class WithValidation:
    """A corpus and a separate validation corpus, which comes first, so that copies of its documents are found."""

    val: Corpus
    train: Corpus

    @property
    def license(self) -> str:
        return self.train.license

    @property
    def attribution(self) -> str:
        return self.train.attribution

    def files(self) -> Files:
        parts = self.val.files(), self.train.files()
        skipped: dict[str, list[str]] = {}
        for part in parts:
            for reason, names in part.skipped.items():
                skipped.setdefault(reason, []).extend(names)
        return Files([path for part in parts for path in part.paths], skipped)

    def documents(self, position: Position) -> Iterator[Document]:
        for side, corpus in (("val", self.val), ("train", self.train)):
            for document in corpus.documents(position):
                yield replace(document, side=side)
