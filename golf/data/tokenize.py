"""The tokenize stage: corpus to tokenizer, token shards and manifest.

Two streams over the corpus: one, up to ``train_bytes``, trains the tokenizer; one encodes. Cleaning and encoding run
in worker processes; documents stay in order, so the outputs do not depend on how many there are.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from golf.base.files import atomic_directory, write_bytes, write_json
from golf.base.params import Ge, Gt, Le, Lt, Natural, Seed, to_dict
from golf.base.progress import bar
from golf.data.case import Case
from golf.data.documents import Corpus, CorpusError, Position, count_skipped, describe_skipped
from golf.data.encode import Encoded, encode_corpus
from golf.data.readers import KINDS, Options, WithValidation, open_corpus, source_sha256
from golf.data.splitter import SPLITS, Splitter
from golf.data.tokenizer import MIN_VOCAB_SIZE, Tokenizer, TokenizerError, train_tokenizer

__all__ = ["TokenizeConfig", "summary", "tokenize_corpus"]


@dataclass(frozen=True)
class TokenizeConfig:
    """Section ``tokenize`` of the parameters; meanings and units stand in ``conf/config.yaml``."""

    source: str
    path: str
    val_path: str
    text_key: str
    max_bytes: Natural
    tokenizer: str
    case: Case
    vocab_size: Annotated[int, Ge(MIN_VOCAB_SIZE), Le(1 << 16)]
    train_bytes: Annotated[int, Ge(1), Le(10**12)]
    val_fraction: Annotated[float, Gt(0), Lt(1)]
    val_max_bytes: Natural
    holdout_fraction: Annotated[float, Gt(0), Lt(1)]
    holdout_max_bytes: Natural
    split_seed: Seed

    def __post_init__(self) -> None:
        if self.source not in KINDS:
            raise ValueError(f"source: found {self.source!r}, expected one of {', '.join(KINDS)}")
        shares = (self.val_fraction, self.holdout_fraction)
        if sum(shares) >= 1.0:
            raise ValueError(f"val_fraction, holdout_fraction: found {shares}, expected a sum below 1")
        if self.source == "shards" and self.tokenizer == "train":
            raise ValueError("tokenizer: found `train`, expected the path of the .model that the shards were made with")
        if self.source == "shards" and self.val_path != "none":
            raise ValueError(f"val_path: found {self.val_path}, expected none: shards bring their own validation side")


def tokenize_corpus(config: TokenizeConfig, root: str | Path, *, processes: int = 1) -> dict[str, Any]:
    """Write ``artifacts/tokens`` and ``metrics/tokenize.json`` below ``root``; paths in ``config`` are relative to it.

    All or nothing: an error leaves earlier outputs as they were. Returns the manifest. Raises ``CorpusError`` or
    ``TokenizerError``.
    """
    root = Path(root)
    given = None
    if config.tokenizer != "train":
        path = root / Path(config.tokenizer).expanduser()
        given = Tokenizer.from_file(path, made_by="nothing here: tokenize.tokenizer names it")
        if given.case != config.case:
            raise TokenizerError(f"{given.name}: was trained with case {given.case}; set tokenize.case to it")
    with _workers(processes) as pool:
        corpus = _open(config, root, given, pool)
        tokenizer = given or train_tokenizer(_TrainingTexts(config, corpus), config.vocab_size, config.case)
        with atomic_directory(root / "artifacts" / "tokens") as folder:
            splitter = _splitter(config)
            encoded = encode_corpus(corpus, tokenizer, splitter, folder, max_bytes=config.max_bytes, pool=pool)
            for split in SPLITS:
                _check_split(config, corpus, splitter, encoded, tokenizer, split)
            manifest = _manifest(config, corpus, tokenizer, splitter, encoded)
            write_bytes(folder / "tokenizer.model", tokenizer.model)
            tokenizer.table.save(folder / "byte_table.safetensors")
            write_json(folder / "manifest.json", manifest)
    write_json(root / "metrics" / "tokenize.json", _metrics(manifest))
    return manifest


def summary(manifest: dict[str, Any]) -> list[str]:
    """Lines that say what was read, what was left out and why, and what each split holds."""
    source, counts = manifest["source"], manifest["documents"]
    lines = [f"read {source['files']:,} files of {source['path']}"]
    lines += [f"skipped files: {describe_skipped(source['skipped_files'])}"] if source["skipped_files"] else []
    left_out = {**counts["skipped"], "copies of held-out documents": counts["copies"], "over a cap": counts["over_cap"]}
    if any(left_out.values()):
        named = (f"{count:,} {reason}" for reason, count in left_out.items() if count)
        lines.append(f"documents left out: {', '.join(named)}")
    for split, of in manifest["splits"].items():
        lines.append(
            f"{split}: {of['documents']:,} documents, {of['tokens']:,} tokens, {of['bytes']:,} bytes, "
            f"{of['bytes_per_token']:.3f} bytes per token"
        )
    return lines


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _workers:
    """A pool of worker processes, or None for one process; an interrupt reaches the parent alone."""

    def __init__(self, processes: int) -> None:
        self._pool: ProcessPoolExecutor | None = None
        if processes > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_ignore_interrupts)

    def __enter__(self) -> ProcessPoolExecutor | None:
        return self._pool

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _open(config: TokenizeConfig, root: Path, given: Tokenizer | None, pool: ProcessPoolExecutor | None) -> Corpus:
    options = Options(pool, config.text_key)
    if given:
        options = replace(options, vocab_size=given.vocab_size, bos_id=given.bos_id)

    def at(path: str) -> Corpus:
        return open_corpus(config.source, root / Path(path).expanduser(), options)

    corpus = at(config.path)
    return corpus if config.val_path == "none" else WithValidation(at(config.val_path), corpus)


def _splitter(config: TokenizeConfig) -> Splitter:
    return Splitter(
        val_fraction=config.val_fraction,
        holdout_fraction=config.holdout_fraction,
        val_max_bytes=config.val_max_bytes,
        holdout_max_bytes=config.holdout_max_bytes,
        seed=config.split_seed,
    )


@dataclass(frozen=True)
class _TrainingTexts:
    """Texts of the training split up to ``train_bytes``; the held-out documents teach the tokenizer nothing.

    Can be iterated again and again. Raises ``CorpusError`` when there is no such text, with what was read instead.
    """

    config: TokenizeConfig
    corpus: Corpus

    def __iter__(self) -> Iterator[str]:
        config, splitter, position, read = self.config, _splitter(self.config), Position(), 0
        with bar(what="train tokenizer", total=config.train_bytes, unit="B") as shown:
            for document in self.corpus.documents(position):
                text = document.text or ""
                data = text.encode()
                read += len(data)
                if config.max_bytes and read > config.max_bytes:
                    break
                if splitter.assign(data, side=document.side) != "train":
                    continue
                yield text
                shown.update(len(data))
                if splitter.taken["train"] >= config.train_bytes:
                    break
        if not splitter.seen["train"]:
            raise CorpusError(_why_empty(config, self.corpus, splitter, position, "train"))


def _check_split(
    config: TokenizeConfig, corpus: Corpus, splitter: Splitter, encoded: Encoded, tokenizer: Tokenizer, split: str
) -> None:
    """A split must hold documents, and a score must not be divided by more bytes than its text has."""
    writer, raw = encoded.writers[split], encoded.raw_bytes[split]
    if writer.num_documents == 0:
        raise CorpusError(_why_empty(config, corpus, splitter, encoded.position, split))
    if encoded.text_sha256[split] is not None and writer.num_bytes > raw:
        raise CorpusError(
            f"{tokenizer.name}: the tokens of {split} decode to {writer.num_bytes:,} bytes, the text has {raw:,}; bits "
            "per byte would be too few, so use a lossless tokenizer (tokenize.tokenizer: train)"
        )


def _why_empty(config: TokenizeConfig, corpus: Corpus, splitter: Splitter, position: Position, split: str) -> str:
    """What was read, where it went, and the one thing that would put a document into ``split``."""
    files, seen, total = corpus.files(), splitter.seen, sum(splitter.seen.values())
    skipped = "".join(f", {count:,} {reason}" for reason, count in sorted(position.skipped.items()))
    went = ", ".join(f"{count:,} {name}" for name, count in seen.items())
    read = f"read {len(files.paths):,} files with {total:,} documents ({went}{skipped})"
    if files.skipped:
        read += f", skipped files: {describe_skipped(count_skipped(files.skipped))}"
    fraction, cap = f"tokenize.{split}_fraction", f"tokenize.{split}_max_bytes"
    if total == 0:
        problem = "the corpus is empty: found no document with text"
        remedy = "raise tokenize.max_bytes" if config.max_bytes else "set tokenize.path"
    elif splitter.dropped[split]:
        problem = f"the {split} split is empty: its shortest document has {splitter.shortest[split]:,} bytes"
        remedy = f"raise {cap} ({getattr(config, f'{split}_max_bytes'):,} now)"
    elif total < len(SPLITS):
        problem = f"the {split} split is empty: {total} documents for three splits, and a document is never divided"
        remedy = "cut it into several files (text) or lines (jsonl)"
    elif split == "train":
        problem, remedy = "the train split is empty", "lower tokenize.val_fraction and tokenize.holdout_fraction"
    elif split == "val" and config.val_path != "none":
        problem, remedy = f"the val split is empty: {config.val_path} holds no text", "set tokenize.val_path"
    else:
        share = getattr(config, f"{split}_fraction")
        problem = f"the {split} split is empty: {share:g} of {total:,} documents is {share * total:.1f}"
        remedy = f"raise {fraction}, give more documents, or change tokenize.split_seed"
    return f"{config.path}: {problem}; {read}; {remedy}"


def _manifest(
    config: TokenizeConfig, corpus: Corpus, tokenizer: Tokenizer, splitter: Splitter, encoded: Encoded
) -> dict[str, Any]:
    splits = {
        split: {
            "documents": writer.num_documents,
            "tokens": writer.num_tokens,
            "bytes": writer.num_bytes,
            "raw_bytes": encoded.raw_bytes[split] if encoded.text_sha256[split] is not None else None,
            "text_sha256": encoded.text_sha256[split],
            "shards": writer.num_shards,
            "bytes_per_token": writer.num_bytes / writer.num_tokens,
        }
        for split, writer in encoded.writers.items()
    }
    files = corpus.files()
    return {
        "config": {key: value for key, value in to_dict(config).items() if (key, value) != ("case", "none")},
        "source": {
            "kind": config.source,
            "path": config.path,
            "sha256": source_sha256(corpus),
            "files": len(files.paths),
            "skipped_files": count_skipped(files.skipped),
            "license": corpus.license,
            "attribution": corpus.attribution,
        },
        "splits": splits,
        "documents": {
            "over_cap": sum(splitter.dropped.values()),
            "copies": splitter.copies,
            "skipped": dict(encoded.position.skipped),
        },
        "divisor": tokenizer.divisor,
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "tokenizer_sha256": tokenizer.sha256,
    }


def _metrics(manifest: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {
        "vocab_size": manifest["vocab_size"],
        "documents_over_cap": manifest["documents"]["over_cap"],
        "documents_skipped": sum(manifest["documents"]["skipped"].values()) + manifest["documents"]["copies"],
        "files_skipped": sum(of["count"] for of in manifest["source"]["skipped_files"].values()),
    }
    for split, counts in manifest["splits"].items():
        for key in ("documents", "tokens", "bytes", "bytes_per_token"):
            flat[f"{split}_{key}"] = counts[key]
    return flat
