"""The kinds of corpus by name."""

from __future__ import annotations

import hashlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal

from golf.corpus.competition import CompetitionShards
from golf.corpus.documents import Corpus
from golf.corpus.enwik8 import Enwik8
from golf.corpus.jsonl import JsonLines
from golf.corpus.textfiles import TextFiles
from golf.files import sha256_file

__all__ = ["SourceKind", "open_corpus", "source_sha256"]

SourceKind = Literal["enwik8", "jsonl", "text", "shards"]


def open_corpus(
    kind: SourceKind,
    path: str | Path,
    *,
    pool: ProcessPoolExecutor | None = None,
    vocab_size: int = 0,
    bos_id: int = 1,
) -> Corpus:
    """Open a corpus; ``vocab_size`` and ``bos_id`` matter to ``shards`` alone. Raises ``CorpusError`` when missing."""
    path = Path(path)
    corpus: Corpus
    if kind == "enwik8":
        corpus = Enwik8(path, pool)
    elif kind == "jsonl":
        corpus = JsonLines(path)
    elif kind == "text":
        corpus = TextFiles(path)
    else:
        corpus = CompetitionShards(path, vocab_size, bos_id)
    corpus.files()
    return corpus


def source_sha256(corpus: Corpus) -> str:
    """SHA-256 over the names and contents of the corpus files; of a single file, its own hash."""
    files = corpus.files()
    if len(files) == 1:
        return sha256_file(files[0])
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    return total.hexdigest()
