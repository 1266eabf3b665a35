"""Byte-level BPE, the tokenizers of GPT-2, Llama 3, Qwen and SmolLM, behind the interface of ``golf.data.tokenizer``.

A piece is written in letters that stand for bytes (GPT-2's table), so the bytes of a token are known from its spelling
and any UTF-8 text can be coded. The text is cut by a pattern first, which GGUF calls by a name; the patterns here are
those that llama.cpp gives to these names. Encoding is done by PyPI ``tokenizers``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from golf.base.params import quoted
from golf.data.tokenizer import TokenizerError
from golf.imports.tables import OriginError

__all__ = ["BytePairs", "PRE_TOKENIZERS", "byte_letters", "pre_tokenizer_of", "tokenizer_json"]

MAX_VOCAB = 1 << 18
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_PLAIN_BYTES = _BYTES | {"use_regex": False}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


PRE_TOKENIZERS = {  # GGUF's name: the entry of tokenizer.json
    "gpt-2": _BYTES,
    "smollm": _sequence({"type": "Digits", "individual_digits": True}, _BYTES),
    "llama-bpe": _sequence(_split(_LLAMA3), _PLAIN_BYTES),
    "qwen2": _sequence(_split(_LLAMA3.replace("{1,3}", "")), _PLAIN_BYTES),
    "olmo": _BYTES,
}


def tokenizer_json(pieces: Sequence[str], merges: Sequence[str], added: Sequence[int], pre: str) -> dict[str, Any]:
    """A ``tokenizer.json`` of GGUF's lists; ``added`` are ids of whole tokens that stand for themselves."""
    whole = [
        {"id": i, "content": pieces[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True} for i in added
    ]  # fmt: skip
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": pre == "llama-bpe",
        "vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": list(merges),
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": whole, "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[pre], "post_processor": _PLAIN_BYTES, "decoder": _BYTES, "model": model,
    }  # fmt: skip


def pre_tokenizer_of(data: Mapping[str, Any]) -> str:
    """GGUF's name for the way a ``tokenizer.json`` cuts text; ``OriginError`` when it has none here."""

    def rough(part: Any) -> Any:
        """Without what changes no token."""
        if isinstance(part, dict):
            return {key: rough(value) for key, value in part.items() if key != "trim_offsets"}
        return [rough(item) for item in part] if isinstance(part, list) else part

    for name, known in PRE_TOKENIZERS.items():
        if rough(data.get("pre_tokenizer")) == rough(known):
            return name
    raise OriginError(f"tokenizer.json: pre_tokenizer: {quoted(data.get('pre_tokenizer'))} has no name in GGUF here")


def byte_letters() -> dict[str, int]:
    """The byte that each letter stands for: printable Latin-1 itself, the others moved above 255 in order."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + i): byte for i, byte in enumerate(moved)}


class BytePairs:
    """A byte-level BPE tokenizer; ``encode`` proves its result on every text.

    ``token_bytes`` holds the bytes of every id below ``vocab_size``; ids of the model that no piece has are empty.
    """

    divisor = "raw"

    def __init__(self, files: Mapping[str, Any], *, vocab_size: int, name: str = "tokenizer.json") -> None:
        """Of an origin's ``files``; ``vocab_size`` rows of its token table. Raises ``TokenizerError``."""
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise TokenizerError(f"{name}: reading it needs PyPI `tokenizers`: pip install 'golf[import]'") from error
        self.name, self.vocab_size = name, vocab_size
        data = files.get("tokenizer.json")
        model = data.get("model") if isinstance(data, dict) else None
        if data is None or not isinstance(model, dict) or model.get("type") != "BPE":
            raise TokenizerError(f"{name}: found no tokenizer.json with a BPE model; other kinds cannot be read")
        if affix := model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            raise TokenizerError(f"{name}: pieces are marked by {quoted(affix)}, expected byte-level pieces only")
        text = json.dumps(data, ensure_ascii=False)
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()
        try:
            self._inner = Tokenizer.from_str(text)
        except Exception as error:  # the library raises no class of its own
            raise TokenizerError(f"{name}: not readable ({quoted(str(error))[1:-1]})") from error
        ids = self._inner.get_vocab(with_added_tokens=True)
        largest = max(ids.values(), default=-1)
        if largest >= vocab_size or not 2 <= vocab_size <= MAX_VOCAB:
            raise TokenizerError(f"{name}: found ids up to {largest}, expected below the model's {vocab_size} rows")
        letters = byte_letters()
        added = {item["content"] for item in data.get("added_tokens", [])}
        self.token_bytes = [b""] * vocab_size
        for piece, i in ids.items():
            known = piece not in added and all(letter in letters for letter in piece)
            if not known and piece not in added:
                raise TokenizerError(f"{name}: piece {quoted(piece)} is no byte-level piece, expected only those")
            self.token_bytes[i] = bytes(letters[letter] for letter in piece) if known else piece.encode()
        self.bos_id = self._first(files, ids)
        self.lossless = data.get("normalizer") is None

    def _first(self, files: Mapping[str, Any], ids: Mapping[str, int]) -> int:
        """The token that begins a document: the model's own first token, else its last, else 0."""
        settings, config = files.get("tokenizer_config.json") or {}, files.get("config.json") or {}
        for key in ("bos", "eos"):
            token = settings.get(f"{key}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str) and token in ids:
                return ids[token]
            found = config.get(f"{key}_token_id")
            found = found[0] if isinstance(found, list) and found else found
            if isinstance(found, int) and 0 <= found < self.vocab_size:
                return found
        return 0

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` without first or last token, proved to decode to it; raises ``TokenizerError``."""
        ids: list[int] = self._inner.encode(text, add_special_tokens=False).ids
        if b"".join(self.token_bytes[i] for i in ids) != text.encode():
            raise TokenizerError(f"{self.name}: changes this text, so that a score would be no code length of it")
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """UTF-8 bytes of ids; a first token in front adds none."""
        found = [int(i) for i in ids]
        start = bool(found) and found[0] == self.bos_id
        return b"".join(self.token_bytes[i] for i in found[start:])

    def document(self, text: str) -> tuple[np.ndarray, int]:
        """One document as shards hold it: ids uint32 (T,) with the first token in front, and the bytes of the text."""
        return np.array([self.bos_id, *self.encode(text)], np.uint32), len(text.encode())
