"""Checks of what a score is divided by and shipped with: splits, bytes, divisor, size. No model is run.

Shapes: N tokens of a split, D documents.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from golf.base.files import require
from golf.base.params import quoted
from golf.data.case import case_of, restore_case
from golf.verify.checks import CheckResult

__all__ = [
    "check_bytes",
    "check_disjoint",
    "check_divisor",
    "check_size",
    "check_text",
    "official_decoder",
]

SPACE = "\u2581".encode()  # SentencePiece's mark for a space


def _result(name: str, value: float, limit: float, unit: str, text: str) -> CheckResult:
    return CheckResult("text", name, bool(value <= limit), value, limit, unit, text)


def check_disjoint(scored: Iterator[np.ndarray], others: Mapping[str, Iterator[np.ndarray]]) -> CheckResult:
    """No document of the scored split is in another split, by SHA-256 of its tokens (BOS alone counts as no document).

    ``value`` counts the documents found on both sides (openai/parameter-golf #2127: 80 % of one validation set).
    Memory holds the scored split's digests only.
    """
    known = {_digest(document) for document in scored if len(document) > 1}
    shared, seen = [], []
    for name, documents in others.items():
        count, found = 0, set()
        for document in documents:
            count += 1
            digest = _digest(document)
            found |= {digest} & known
        seen.append(f"{count:,} of {name}")
        shared += [f"{len(found):,} in {name}"] if found else []
    value = float(sum(int(part.split()[0].replace(",", "")) for part in shared))
    text = f"{len(known):,} scored documents against {', '.join(seen)}: {', '.join(shared) or 'none shared'}"
    return _result("splits_disjoint", value, 0.0, "documents", text)


def _digest(document: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(document, dtype="<u2").tobytes()).digest()


def official_decoder(model: bytes) -> Callable[[list[int]], bytes]:
    """SentencePiece's own decoding of one document's ids to UTF-8 bytes, which owes nothing to our byte tables.

    Where the model carries case operators they are undone.
    """
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    case = case_of(model)
    return lambda ids: restore_case(processor.decode(ids).encode(), case)


def check_bytes(
    token_bytes: Callable[[np.ndarray], np.ndarray],
    decode: Callable[[list[int]], bytes],
    documents: Iterator[np.ndarray],
    doc_bytes: np.ndarray,
) -> CheckResult:
    """Per document: bytes by the table of tokens, bytes of the decoded text, and bytes of the divisor are one number.

    ``token_bytes`` gives the bytes of ``tokens[1:]``; ``decode`` should be independent of it (``official_decoder``).
    ``value`` is the largest difference.
    """
    worst, table_sum, text_sum, count = 0, 0, 0, 0
    for count, document in enumerate(documents, start=1):
        table = int(token_bytes(document).sum())
        text = len(decode(document[1:].tolist()))
        stated = int(doc_bytes[count - 1]) if count <= len(doc_bytes) else -1
        worst = max(worst, abs(table - text), abs(stated - text))
        table_sum, text_sum = table_sum + table, text_sum + text
    worst = max(worst, abs(count - len(doc_bytes)))
    text_line = f"{count:,} documents: table {table_sum:,}, decoded {text_sum:,}, divisor {int(doc_bytes.sum()):,}"
    return _result("byte_ledger", float(worst), 0.0, "bytes", text_line)


def check_text(
    decode: Callable[[list[int]], bytes],
    documents: Iterator[np.ndarray],
    manifest: Mapping[str, Any],
    *,
    found: str,
    split: str,
) -> CheckResult:
    """The decoded text is the text that was read: with the divisor ``raw`` by its SHA-256, taken before tokenizing.

    With ``decoded`` the two may differ, but no text may hold U+2581: there that is a space which had no piece, coded
    and counted as three bytes. ``value`` counts untrue statements or such documents.
    """
    total, spaces, count = hashlib.sha256(), 0, 0
    for document in documents:
        data, count = decode(document[1:].tolist()), count + 1
        total.update(len(data).to_bytes(8, "little") + data)
        spaces += SPACE in data
    if found != "raw":
        return _result("text_as_read", float(spaces), 0.0, "documents", f"{spaces:,} of {count:,} hold U+2581")
    counts = manifest.get("splits", {}).get(split, {})
    stated = counts.get("text_sha256")
    if stated is None and counts.get("raw_bytes") is None:
        text = "not compared: the manifest knows of no raw text, as the corpus gave tokens"
        return CheckResult("text", "text_as_read", None, 0.0, None, "statements", text)
    same = stated == total.hexdigest()
    text = f"{count:,} documents decode to {'the text that was read' if same else 'another text than was read'}"
    return _result("text_as_read", float(not same), 0.0, "statements", text)


def check_divisor(
    manifest: Mapping[str, Any], *, found: str, tokenizer_sha256: str, num_bytes: int, num_tokens: int, split: str
) -> CheckResult:
    """The manifest states whose bytes the score is divided by, and it is true of tokenizer and shards.

    ``found`` is the tokenizer's own divisor (``raw`` or ``decoded``); ``value`` counts untrue statements.
    """
    counts = manifest.get("splits", {}).get(split, {})
    expected = {"divisor": found, "tokenizer_sha256": tokenizer_sha256}
    stated = {key: manifest.get(key) for key in expected}
    wrong = [
        f"{key}: {quoted(stated[key])}, found {value!r}" for key, value in expected.items() if stated[key] != value
    ]
    for key, value in (("bytes", num_bytes), ("tokens", num_tokens)):
        if counts.get(key) != value:
            wrong.append(f"{split} {key}: {quoted(counts.get(key))}, found {value}")
    raw = counts.get("raw_bytes")
    true = f"{num_bytes:,} {found} bytes of {split}" + (f", {raw:,} of raw text" if isinstance(raw, int) else "")
    if found == "raw" and raw is not None and raw != num_bytes:
        wrong.append(f"raw_bytes: {raw}, found {num_bytes}")
    if found == "decoded" and isinstance(raw, int) and num_bytes > raw:
        wrong.append(f"raw_bytes: {raw}, divided by more: {num_bytes}")
    text = f"stated: divided by {true}" if not wrong else f"manifest is not true: {'; '.join(wrong)}"
    return _result("divisor_stated", float(len(wrong)), 0.0, "statements", text)


def check_size(artifact: Path, decoder: Path, *, limit_bytes: int) -> CheckResult:
    """Real sizes of the two shipped files, decimal bytes."""
    sizes = [require(path, made_by="`python -m stages.compress`").stat().st_size for path in (artifact, decoder)]
    total = math.fsum(sizes)
    text = f"artifact {sizes[0]:,} + decoder {sizes[1]:,} = {int(total):,} bytes, limit {limit_bytes:,}"
    return CheckResult("files", "size", bool(total <= limit_bytes), total, float(limit_bytes), "bytes", text)
