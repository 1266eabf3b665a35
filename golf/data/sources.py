"""The kinds of corpus by name, a corpus with validation documents of its own, and the hash of what was read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from golf.base.files import sha256_file
from golf.data.competition import CompetitionShards
from golf.data.documents import Corpus, Document, Files, Position
from golf.data.enwik8 import Enwik8
from golf.data.readers import JsonLines, Parquet, Tables, TextFiles

__all__ = ["KINDS", "Options", "WithValidation", "open_corpus", "source_sha256"]


@dataclass(frozen=True)
class Options:
    """What some kinds of corpus need: workers, the key of the text, and the vocabulary and BOS of given ids."""

    pool: ProcessPoolExecutor | None = None
    text_key: str = "text"
    vocab_size: int = 0
    bos_id: int = 1


KINDS: dict[str, Callable[[Path, Options], Corpus]] = {  # the values of tokenize.source
    "enwik8": lambda path, options: Enwik8(path, options.pool),
    "jsonl": lambda path, options: JsonLines(path, options.text_key),
    "text": lambda path, options: TextFiles(path),
    "table": lambda path, options: Tables(path, options.text_key),
    "parquet": lambda path, options: Parquet(path, options.text_key),
    "shards": lambda path, options: CompetitionShards(path, options.vocab_size, options.bos_id),
}


def open_corpus(kind: str, path: str | Path, options: Options | None = None) -> Corpus:
    """Open a corpus of one of the ``KINDS``. Raises ``CorpusError`` when its files are missing."""
    corpus = KINDS[kind](Path(path), options or Options())
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
