"""A short text behind a header of 12 bytes or less: one block in the usual settings, its code up to the file's end."""

from __future__ import annotations

import hashlib
import time
import zlib
from pathlib import Path

import numpy as np

from golf.base.files import atomic_file
from golf.base.progress import bar
from golf.textcodec.coder import mixture_hash
from golf.textcodec.layout import CodecError, Short
from golf.textcodec.model import TextModel
from golf.textcodec.range_coder import RangeError
from golf.textcodec.settings import (
    BLOCK_BYTES,
    INTEGER,
    CodecConfig,
    CodecReport,
    lossless_tokenizer,
    mixture_of,
    open_codec,
    steps_of,
)
from golf.textcodec.text import iterate_text

__all__ = ["SHORT_BYTES", "decode_short", "zip_short"]

SHORT_BYTES = 1 << 16  # of a text that has a short header, at most


def zip_short(source: Path, target: Path, decoded: TextModel, config: CodecConfig, *, check: bool) -> CodecReport:
    """A text of one block behind a short header; an interruption loses nothing that another way would keep."""
    begin, tokenizer = time.perf_counter(), lossless_tokenizer(decoded)
    text = "".join(iterate_text(source, block_bytes=BLOCK_BYTES))
    tokens, data = np.asarray(tokenizer.encode(text), dtype=np.int64), text.encode()
    mixture = mixture_of(config)
    with open_codec(decoded, config, mixture) as codec, bar(what="zip", total=len(data), unit="B") as progress:
        coded = codec.encode(tokens, advance=steps_of(progress, len(data), len(tokens)))
    head = Short(len(tokens), config.mixture, _short_name(decoded, config), zlib.crc32(data)).pack()
    with atomic_file(target, source=source) as temporary:
        Path(temporary).write_bytes(head + coded.code)
        if check:
            decode_short(Path(temporary), None, decoded, config.threads)
    return CodecReport(
        text_bytes=len(data), tokens=len(tokens), code_bytes=len(coded.code), file_bytes=len(head) + len(coded.code),
        stated_bits=coded.stated_bits, text_sha256=hashlib.sha256(data).hexdigest(),
        seconds=time.perf_counter() - begin,
    )  # fmt: skip


def _short_name(decoded: TextModel, config: CodecConfig) -> bytes:
    """Four bytes that name artifact, mixture and arithmetic."""
    names = (decoded.sha256, mixture_hash(mixture_of(config)), INTEGER)
    return hashlib.sha256(" ".join(names).encode()).digest()[:4]


def decode_short(source: Path, target: Path | None, decoded: TextModel, threads: int | None) -> CodecReport:
    begin = time.perf_counter()
    if source.stat().st_size > 4 * SHORT_BYTES + 64:
        raise CodecError(f"{source}: {source.stat().st_size} bytes are too many for a short text: damaged")
    data = source.read_bytes()
    header, code = Short.read(data, where=str(source))
    config = CodecConfig(threads=threads or 1, mixture=header.mixes)
    expected = _short_name(decoded, config)
    if header.name != expected:
        raise CodecError(
            f"{source}: coded with artifact or version {header.name.hex()}, this is {expected.hex()}; give --artifact "
            "the very same file and use the golf that coded it"
        )
    try:
        tokenizer = lossless_tokenizer(decoded)
        sizes = tokenizer.table.with_space.astype(np.int64)
        mixture = mixture_of(config)
        with open_codec(decoded, config, mixture) as codec, bar(what="unzip", total=header.tokens) as progress:
            codec.check_memory(header.tokens, len(code))
            tokens, bits = codec.decode(
                code, header.tokens, sizes=sizes, num_bytes=SHORT_BYTES, advance=progress.update
            )
        text = tokenizer.decode(tokens)
    except (RangeError, CodecError) as error:
        raise CodecError(f"{source}: {error}") from error
    if zlib.crc32(text) != header.crc:
        raise CodecError(f"{source}: decoded {len(text)} bytes with CRC-32 {zlib.crc32(text):08x}, the text coded had "
                         f"{header.crc:08x}: damaged")  # fmt: skip
    if target is not None:
        with atomic_file(target, source=source) as temporary:
            Path(temporary).write_bytes(text)
    return CodecReport(
        text_bytes=len(text), tokens=header.tokens, code_bytes=len(code), file_bytes=len(data), stated_bits=bits,
        text_sha256=hashlib.sha256(text).hexdigest(), seconds=time.perf_counter() - begin,
    )  # fmt: skip
