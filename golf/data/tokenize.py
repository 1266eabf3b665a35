"""The tokenize stage: corpus to tokenizer, token shards and manifest.

Two streams over the corpus: one, up to ``train_bytes``, trains the tokenizer; one encodes. Cleaning and encoding run
in worker processes; documents stay in order, so the outputs do not depend on how many there are.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from golf.base.files import atomic_directory, sha256_file, write_bytes, write_json
from golf.base.params import Ge, Gt, Le, Lt, Natural, Seed, to_dict
from golf.base.progress import bar
from golf.data.competition import CompetitionShards
from golf.data.documents import Corpus, CorpusError, Document, Position
from golf.data.enwik8 import Enwik8
from golf.data.parallel import ordered_map
from golf.data.readers import JsonLines, TextFiles
from golf.data.shards import ShardWriter
from golf.data.split import SPLITS, Splitter
from golf.data.tokenizer import MIN_VOCAB_SIZE, Tokenizer, TokenizerError, train_tokenizer

__all__ = ["SourceKind", "TokenizeConfig", "open_corpus", "source_sha256", "tokenize_corpus"]

SourceKind = Literal["enwik8", "jsonl", "text", "shards"]
_BATCH_BYTES = 400_000


@dataclass(frozen=True)
class TokenizeConfig:
    """Section ``tokenize`` of the parameters; meanings and units stand in ``conf/config.yaml``."""

    source: SourceKind
    path: str
    max_bytes: Natural
    tokenizer: str
    vocab_size: Annotated[int, Ge(MIN_VOCAB_SIZE), Le(1 << 16)]
    train_bytes: Annotated[int, Ge(1), Le(10**12)]
    val_fraction: Annotated[float, Gt(0), Lt(1)]
    val_max_bytes: Natural
    holdout_fraction: Annotated[float, Gt(0), Lt(1)]
    holdout_max_bytes: Natural
    split_seed: Seed

    def __post_init__(self) -> None:
        shares = (self.val_fraction, self.holdout_fraction)
        if sum(shares) >= 1.0:
            raise ValueError(f"val_fraction, holdout_fraction: found {shares}, expected a sum below 1")
        if self.source == "shards" and self.tokenizer == "train":
            raise ValueError("tokenizer: found `train`, expected the path of the .model that the shards were made with")


def tokenize_corpus(config: TokenizeConfig, root: str | Path, *, processes: int = 1) -> dict[str, Any]:
    """Write ``artifacts/tokens`` and ``metrics/tokenize.json`` below ``root``; paths in ``config`` are relative to it.

    All or nothing: an error leaves earlier outputs as they were. Returns the manifest. Raises ``CorpusError`` or
    ``TokenizerError``.
    """
    root = Path(root)
    given = None
    if config.tokenizer != "train":
        given = Tokenizer.from_file(root / config.tokenizer, made_by="nothing here: tokenize.tokenizer names it")
    with _workers(processes) as pool:
        corpus = open_corpus(
            config.source,
            root / config.path,
            pool=pool,
            vocab_size=given.vocab_size if given else 0,
            bos_id=given.bos_id if given else 1,
        )
        tokenizer = given or _train(config, corpus)
        with atomic_directory(root / "artifacts" / "tokens") as folder:
            manifest = _encode(config, corpus, tokenizer, folder, pool)
            write_bytes(folder / "tokenizer.model", tokenizer.model)
            tokenizer.table.save(folder / "byte_table.safetensors")
            write_json(folder / "manifest.json", manifest)
    write_json(root / "metrics" / "tokenize.json", _metrics(manifest))
    return manifest


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


class _workers:
    """A pool of worker processes, or None for one process."""

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        quiet = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}  # Ctrl-C is told once
        self._pool = ProcessPoolExecutor(processes, mp_context=context, **quiet) if processes > 1 else None  # type: ignore[arg-type]

    def __enter__(self) -> ProcessPoolExecutor | None:
        return self._pool

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _splitter(config: TokenizeConfig) -> Splitter:
    return Splitter(
        val_fraction=config.val_fraction,
        holdout_fraction=config.holdout_fraction,
        val_max_bytes=config.val_max_bytes,
        holdout_max_bytes=config.holdout_max_bytes,
        seed=config.split_seed,
    )


def _train(config: TokenizeConfig, corpus: Corpus) -> Tokenizer:
    return train_tokenizer(_training_texts(config, corpus), config.vocab_size)


def _training_texts(config: TokenizeConfig, corpus: Corpus) -> Iterator[str]:
    """Texts of the training split up to ``train_bytes``; the scored documents teach the tokenizer nothing."""
    splitter, read = _splitter(config), 0
    with bar(what="train tokenizer", total=config.train_bytes, unit="B") as shown:
        for document in corpus.documents(Position()):
            assert document.text is not None
            data = document.text.encode()
            read += len(data)
            if config.max_bytes and read > config.max_bytes:
                return
            if splitter.assign(data, where=document.where, side=document.side) != "train":
                continue
            yield document.text
            shown.update(len(data))
            if splitter.taken["train"] >= config.train_bytes:
                return


@dataclass(frozen=True)
class _Job:
    """A batch of documents with their splits, and the tokenizer they are encoded with."""

    documents: list[tuple[str, Document]]
    model: bytes
    name: str


def _encode(
    config: TokenizeConfig, corpus: Corpus, tokenizer: Tokenizer, folder: Path, pool: ProcessPoolExecutor | None
) -> dict[str, Any]:
    writers = {
        split: ShardWriter(
            folder / split,
            vocab_size=tokenizer.vocab_size,
            bos_id=tokenizer.bos_id,
            tokenizer_sha256=tokenizer.sha256,
        )
        for split in SPLITS
    }
    splitter, position = _splitter(config), Position()
    raw_bytes = dict.fromkeys(SPLITS, 0)
    total = sum(path.stat().st_size for path in corpus.files())
    with bar(what="tokenize", total=total, unit="B") as shown:
        jobs = _jobs(config, corpus, tokenizer, splitter, position)
        for encoded in ordered_map(_encode_job, jobs, pool):
            for split, tokens, num_bytes, num_raw in encoded:
                writers[split].add(tokens, num_bytes)
                raw_bytes[split] += num_raw
            shown.update(position.num_bytes - shown.n)
    for writer in writers.values():
        writer.close()
    _check_not_empty(config, {split: writer.num_documents for split, writer in writers.items()})
    return _manifest(config, corpus, tokenizer, writers, raw_bytes, splitter.dropped)


def _jobs(
    config: TokenizeConfig, corpus: Corpus, tokenizer: Tokenizer, splitter: Splitter, position: Position
) -> Iterator[_Job]:
    batch: list[tuple[str, Document]] = []
    size = read = 0
    for document in corpus.documents(position):
        data = document.text.encode() if document.text is not None else tokenizer.decode(document.ids)  # type: ignore[arg-type]
        read += len(data)
        if config.max_bytes and read > config.max_bytes:
            break
        split = splitter.assign(data, where=document.where, side=document.side)
        if split is None:
            continue
        batch.append((split, document))
        size += len(data)
        if size >= _BATCH_BYTES:
            yield _Job(batch, tokenizer.model, tokenizer.name)
            batch, size = [], 0
    if batch:
        yield _Job(batch, tokenizer.model, tokenizer.name)


@lru_cache(maxsize=2)
def _tokenizer(model: bytes, name: str) -> Tokenizer:
    """Each worker builds the tokenizer once."""
    return Tokenizer(model, name=name)


def _encode_job(job: _Job) -> list[tuple[str, np.ndarray, int, int]]:
    """(split, tokens with BOS, counted bytes, bytes of the text as given) of each document."""
    tokenizer = _tokenizer(job.model, job.name)
    encoded = []
    for split, document in job.documents:
        try:
            if document.text is not None:
                tokens, num_bytes = tokenizer.document(document.text)
                encoded.append((split, tokens, num_bytes, len(document.text.encode())))
            else:
                assert document.ids is not None
                tokens, num_bytes = tokenizer.imported_document(document.ids)
                encoded.append((split, tokens, num_bytes, num_bytes))
        except TokenizerError as error:
            raise CorpusError(f"{document.where}: {error}") from error
    return encoded


def _check_not_empty(config: TokenizeConfig, documents: dict[str, int]) -> None:
    total = sum(documents.values())
    if total == 0:
        raise CorpusError(f"{config.path}: corpus is empty: found no document with text; set tokenize.path")
    for split, count in documents.items():
        if count == 0:
            key = "the corpus" if split == "train" else f"tokenize.{split}_fraction or tokenize.{split}_max_bytes"
            raise CorpusError(
                f"{config.path}: the {split} split is empty: found {total} documents, none of them in it; raise {key}, "
                "or change tokenize.split_seed"
            )


def _manifest(
    config: TokenizeConfig,
    corpus: Corpus,
    tokenizer: Tokenizer,
    writers: dict[str, ShardWriter],
    raw_bytes: dict[str, int],
    dropped: int,
) -> dict[str, Any]:
    splits = {
        split: {
            "documents": writer.num_documents,
            "tokens": writer.num_tokens,
            "bytes": writer.num_bytes,
            "raw_bytes": raw_bytes[split],
            "shards": writer.num_shards,
            "bytes_per_token": writer.num_bytes / writer.num_tokens,
        }
        for split, writer in writers.items()
    }
    return {
        "config": to_dict(config),
        "source": {
            "kind": config.source,
            "path": config.path,
            "sha256": source_sha256(corpus),
            "license": corpus.license,
            "attribution": corpus.attribution,
        },
        "splits": splits,
        "documents_over_cap": dropped,
        "divisor": tokenizer.divisor,
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "tokenizer_sha256": tokenizer.sha256,
    }


def _metrics(manifest: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {"vocab_size": manifest["vocab_size"], "documents_over_cap": manifest["documents_over_cap"]}
    for split, counts in manifest["splits"].items():
        for key in ("documents", "tokens", "bytes", "bytes_per_token"):
            flat[f"{split}_{key}"] = counts[key]
    return flat
