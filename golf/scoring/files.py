"""Any text under an artifact: files read as the tokenize stage reads them, scored as the stages of evaluation score.

The documents become one stream in the order they are given, a BOS before each, exactly as the validation text is: so
the score of the validation text is that of the stages, and what learns from the text (the mixture) has read the files
before it. Text whose bytes cannot be counted exactly is refused.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golf.base.progress import bar
from golf.data.documents import COMPRESSIONS, CorpusError, Document, Files, Position, find_files
from golf.data.readers import Options, open_corpus
from golf.data.tokenizer import Tokenizer, TokenizerError
from golf.mixture.record import StreamRecord
from golf.scoring.mixture_score import score_mixture
from golf.scoring.modes import MODES, mode_of, run_mode
from golf.scoring.results import Score, Scored
from golf.scoring.text import ScoringError, ValidationText, decode_documents, load_text

__all__ = ["Texts", "default_modes", "read_texts", "score_text"]

_KINDS = {".txt": "text", ".jsonl": "jsonl", ".csv": "table", ".tsv": "table", ".parquet": "parquet"}
_ENDINGS = tuple(ending + packed for ending in _KINDS for packed in COMPRESSIONS)


@dataclass(frozen=True)
class Texts:
    """``text``: the stream; ``names`` of its documents; ``skipped``: how many files and documents were left out, by
    reason."""

    text: ValidationText
    names: list[str]
    skipped: Mapping[str, int]


def read_texts(paths: Sequence[str | Path], tokenizer: Tokenizer, *, text_key: str = "text") -> Texts:
    """The documents of files and folders as one stream.

    A file is what its ending says (``.jsonl``, ``.csv``, ``.tsv``, ``.parquet``, compressed or not; the text under
    ``text_key``), anything else is one document of UTF-8 text. Of a folder the files of these endings and ``.txt`` are
    read; a folder of token shards is the split it holds. Raises ``CorpusError`` for text that is missing, damaged or no
    UTF-8, and ``ScoringError`` for a document that the tokenizer changes.
    """
    tokens: list[np.ndarray] = []
    sizes: list[int] = []
    names: list[str] = []
    skipped: Counter[str] = Counter()
    for path in map(Path, paths):
        parts = _of_shards if any(path.glob("shard_*.safetensors")) else _of_files
        for name, ids, num_bytes in parts(path, tokenizer, text_key, skipped):
            names.append(name)
            tokens.append(ids)
            sizes.append(num_bytes)
    if not tokens:
        left_out = f" (left out: {', '.join(f'{count} {why}' for why, count in skipped.items())})" if skipped else ""
        raise ScoringError(f"{', '.join(map(str, paths))}: no text in it{left_out}; a score needs at least one byte")
    lengths = np.array([len(ids) for ids in tokens])
    text = ValidationText(
        tokens=np.concatenate(tokens).astype(np.int64), doc_starts=np.cumsum(lengths) - lengths,
        doc_bytes=np.array(sizes, dtype=np.int64), vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    return Texts(text, names, skipped)


_Part = tuple[str, np.ndarray, int]  # name of a document, its ids with BOS in front, its bytes


def _of_files(path: Path, tokenizer: Tokenizer, text_key: str, skipped: Counter[str]) -> Iterator[_Part]:
    files = _files(path)
    skipped.update({f"files {reason}": len(names) for reason, names in files.skipped.items()})
    with bar(what="read", total=sum(file.stat().st_size for file in files.paths), unit="B") as shown:
        for file in files.paths:
            kind, position = _kind(file), Position(skipped=skipped)
            try:
                for document in open_corpus(kind, file, Options(text_key=text_key)).documents(position):
                    yield str(file) if kind == "text" else document.where, *_tokens(document, tokenizer)
            except CorpusError as error:
                raise ScoringError(str(error).replace("tokenize.text_key", "--text-key")) from error
            shown.update(file.stat().st_size)


def _files(path: Path) -> Files:
    if path.is_file():
        return Files([path])
    try:
        return find_files(path, _ENDINGS)
    except CorpusError as error:
        state = f"in this folder is no {', '.join(_KINDS)} file" if path.is_dir() else "not found"
        raise ScoringError(f"{path}: {state}; name a file of text or a folder of such files") from error


def _kind(file: Path) -> str:
    name = file.name.lower()
    packed = next((end for end in COMPRESSIONS[1:] if name.endswith(end)), "")
    return _KINDS.get(Path(name.removesuffix(packed)).suffix, "text")


def _tokens(document: Document, tokenizer: Tokenizer) -> tuple[np.ndarray, int]:
    """The ids of a document, proved to decode to its very bytes, and how many these are."""
    raw = (document.text or "").encode()
    try:
        ids, num_bytes = tokenizer.document(document.text or "")
        same = num_bytes == len(raw) and (tokenizer.lossless or tokenizer.decode(ids) == raw)
    except TokenizerError as error:
        raise ScoringError(f"{document.where}: {error}") from error
    if not same:
        raise ScoringError(
            f"{document.where}: the artifact's tokenizer changes this text (it normalizes), so its score would be of "
            "another one; score it with an artifact whose tokenizer is lossless (tokenize.tokenizer: train)"
        )
    return ids, num_bytes


def _of_shards(folder: Path, tokenizer: Tokenizer, text_key: str, skipped: Counter[str]) -> Iterator[_Part]:
    text = load_text(folder, vocab_size=tokenizer.vocab_size, tokenizer_sha256=tokenizer.sha256)
    decode_documents(text, tokenizer.decode)  # whose bytes are those that the split states
    ends = np.append(text.doc_starts[1:], len(text.tokens))
    for number, (start, end) in enumerate(zip(text.doc_starts, ends, strict=True)):
        yield f"{folder}, document {number}", text.tokens[start:end], int(text.doc_bytes[number])


def default_modes(modes: Sequence[str]) -> dict[str, Any]:
    """The parameters of ``modes`` where no file gives them: the defaults of their classes, which are those of the
    preset ``cpu_small``."""
    if "ttt" in modes:
        raise ScoringError("ttt: its parameters have no defaults; give --params FILE with a section `evaluate.ttt`")
    return {mode: mode_of(mode).config() for mode in modes}


def score_text(model: Any, text: ValidationText, configs: Mapping[str, Any]) -> dict[str, Score]:
    """The score of each mode in ``configs`` (name: its parameters, as ``golf.scoring.modes.load_modes`` gives them).

    Windows longer than the text are shortened to it, which changes no probability. Raises ``ScoringError``.
    """
    scores: dict[str, Score] = {}
    streamed: Scored | None = None
    for mode in (mode for mode in MODES if mode in configs):
        config = configs[mode]
        if mode == "hedge":  # over the record of streaming, as stage hedge does
            passed = _fitting(config.streaming, text.num_targets)
            streamed = streamed or run_mode("streaming", model, text, passed)
            scores[mode] = score_mixture(text, StreamRecord.from_tensors(streamed.tensors), passed, config.hedge).score
            continue
        scored = run_mode(mode, model, text, _fitting(config, text.num_targets))
        streamed = scored if mode == "streaming" else streamed
        scores[mode] = scored.score
    return scores


def _fitting(config: Any, num_targets: int) -> Any:
    """``config`` with its window, and the stride, no longer than the text."""
    sizes = {name: min(getattr(config, name), num_targets) for name in ("window", "stride") if hasattr(config, name)}
    return dataclasses.replace(config, **sizes)
