"""The proof of a score: a sample of the validation documents coded to a file, decoded, compared and measured."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from golf.base.files import scratch_directory
from golf.base.params import Ge, Le, Size
from golf.data.shards import Split
from golf.data.tokenizer import Tokenizer
from golf.textcodec.blocks import check_tokens
from golf.textcodec.files import CodecConfig, CodecReport, unzip_file, zip_tokens
from golf.textcodec.layout import Arithmetic, CodecError
from golf.textcodec.model import TextModel

__all__ = ["ProveConfig", "prove", "sample_tokens"]


@dataclass(frozen=True)
class ProveConfig:
    """``max_tokens`` of the sample (0: the whole text); ``streams``, ``window``, ``arithmetic`` and ``mixture`` as in
    ``CodecConfig``."""

    max_tokens: Annotated[int, Ge(0), Le(10**9)]
    streams: Annotated[int, Ge(1), Le(4096)]
    window: Size
    arithmetic: Arithmetic
    mixture: bool

    def codec(self, threads: int) -> CodecConfig:
        """The same as the codec wants it."""
        return CodecConfig(self.streams, self.window, threads, self.arithmetic, self.mixture)


def sample_tokens(split: Split, max_tokens: int) -> np.ndarray:
    """The first ``max_tokens`` tokens of the split (0: all), BOS in front of each document, int64; the last document
    may be cut."""
    return np.asarray(split.tokens[: max_tokens or None], dtype=np.int64)


def prove(split: Split, target: Path, decoded: TextModel, config: ProveConfig, *, threads: int) -> dict[str, Any]:
    """Code the sample into ``target``, decode it again, and return the metrics, keys with ``prove_`` in front.

    Raises ``CodecError`` when tokens and artifact are of different runs or when the decoded bytes are not the text's.
    """
    if split.tokenizer_sha256 != decoded.tokenizer_sha256:
        raise CodecError(
            f"the validation tokens were made with tokenizer {split.tokenizer_sha256[:16]}, the artifact carries "
            f"{decoded.tokenizer_sha256[:16]} (SHA-256): re-run `dvc repro`"
        )
    tokens = sample_tokens(split, config.max_tokens)
    check_tokens(tokens, decoded.vocab_size)
    text = Tokenizer(decoded.tokenizer_model).decode(tokens)
    coded = zip_tokens([tokens], target, decoded, config.codec(threads), total_bytes=len(text))
    with scratch_directory("golf-prove") as folder:
        back = unzip_file(target, folder / "text", decoded, threads=threads)
        found = (folder / "text").read_bytes()
    if found != text:
        raise CodecError(
            f"decoded {len(found)} bytes with SHA-256 {hashlib.sha256(found).hexdigest()}, the sample has {len(text)} "
            f"bytes and {hashlib.sha256(text).hexdigest()}: the proof has failed"
        )
    return _metrics(tokens, split, coded, back, decoded)


def _metrics(
    tokens: np.ndarray, split: Split, coded: CodecReport, back: CodecReport, decoded: TextModel
) -> dict[str, Any]:
    return {
        "prove_text_bytes": coded.text_bytes,
        "prove_documents": int((tokens == split.bos_id).sum()),
        "prove_tokens": coded.tokens,
        "prove_coded_bytes": coded.file_bytes,
        "prove_code_bytes": coded.code_bytes,
        "prove_stated_bits": coded.stated_bits,
        "prove_overhead_percent": coded.overhead_percent,
        "prove_bits_per_byte": 8 * coded.file_bytes / max(1, coded.text_bytes),
        "prove_decoded_identical": True,
        "prove_zip_tokens_per_second": coded.tokens / coded.seconds,
        "prove_unzip_tokens_per_second": back.tokens / back.seconds,
        "prove_artifact_bytes": decoded.num_bytes,
    }
