r"""Small texts: `golf zip` beside zstd with a trained dictionary, brotli, PPMd and xz, in bytes.

    git clone https://github.com/psf/requests
    python -m benchmarks.small_texts --messages requests --artifact artifacts/compress/model.golf \
        --tokens artifacts/tokens

Three kinds of real text, none of it trained on: prose (validation documents), messages (the commit messages of a
repository, newest first) and JSON lines (the metadata of the installed Python packages). Of each kind ``--files`` texts
of each size are cut from different places, at character ends. zstd gets a dictionary of 112,640 bytes trained on
documents of the training split, the text that our model has seen. Prints a Markdown table: bytes of all files of a row.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import lzma
import subprocess
import tempfile
from pathlib import Path

import brotli
import numpy as np
import pyppmd
import zstandard

from golf.data.shards import load_split
from golf.data.tokenizer import Tokenizer
from golf.textcodec.files import CodecConfig, zip_file
from golf.textcodec.model import open_model

SIZES = (100, 1000, 10_000, 100_000)
DICTIONARY_BYTES = 112_640


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small_texts", description=__doc__)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, required=True, help="artifacts/tokens")
    parser.add_argument("--messages", type=Path, required=True, help="a clone of a git repository")
    parser.add_argument("--files", type=int, default=3, help="of each kind and size (default: %(default)s)")
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="bytes at most (default: %(default)s)")
    args = parser.parse_args()
    model = open_model(args.artifact)
    tokenizer = Tokenizer(model.tokenizer_model)
    train = documents(args.tokens / "train", tokenizer, most=8_000_000)
    dictionary = zstandard.train_dictionary(DICTIONARY_BYTES, [*train])
    prose = b"\n\n".join(documents(args.tokens / "val", tokenizer))
    kinds = {"prose": prose, "messages": messages(args.messages), "JSON lines": rows()}
    names = ["golf", "golf, model alone", "zstd -19, dictionary", "brotli -11", "PPMd", "xz -9e"]
    print("| text | files | bytes |", " | ".join(names), "|")
    print("|---|---|---|" + "---|" * len(names))
    for kind, whole in kinds.items():
        for size in SIZES:
            texts = pieces(whole, size, args.files) if size <= args.largest else []
            if texts:
                found = np.sum([[*ours(text, model), *rivals(text, dictionary)] for text in texts], axis=0)
                cells = " | ".join(f"**{n:,}**" if n == found.min() else f"{n:,}" for n in found)
                print(f"| {kind} | {len(texts)} | {sum(map(len, texts)):,} | {cells} |", flush=True)


def documents(folder: Path, tokenizer: Tokenizer, most: int = 1 << 62) -> list[bytes]:
    """The texts of a split, as far as ``most`` bytes."""
    split = load_split(folder)
    tokens = np.asarray(split.tokens[: most // 2], np.int64)
    starts = np.flatnonzero(tokens == split.bos_id)
    found, size = [], 0
    for first, last in zip(starts, [*starts[1:], len(tokens)], strict=True):
        found.append(tokenizer.decode(tokens[first:last]))
        size += len(found[-1])
        if size > most:
            break
    return found


def messages(repository: Path) -> bytes:
    """Commit messages of a repository."""
    return subprocess.run(["git", "-C", repository, "log", "--format=%B"], capture_output=True, check=True).stdout


def rows() -> bytes:
    """The metadata of every installed package, one JSON object a line."""
    found = sorted(importlib.metadata.distributions(), key=lambda each: each.metadata["Name"].lower())
    return "\n".join(json.dumps(each.metadata.json, ensure_ascii=False) for each in found).encode()


def pieces(whole: bytes, size: int, count: int) -> list[bytes]:
    """``count`` texts of ``size`` bytes or a little less, evenly spread; none when there is too little text."""
    starts = np.linspace(0, len(whole) - size, count if len(whole) >= count * size else 0).astype(int)
    return [whole[at : at + size].decode(errors="ignore").encode() for at in starts]


def ours(text: bytes, model: object) -> tuple[int, int]:
    """With the mixture, decoded again, and without."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "text", Path(folder) / "text.golfz"
        source.write_bytes(text)
        sizes = [
            zip_file(source, target, model, CodecConfig(mixture=mixture), force=True, check=mixture).file_bytes  # type: ignore[arg-type]
            for mixture in (True, False)
        ]
    return sizes[0], sizes[1]


def rivals(text: bytes, dictionary: zstandard.ZstdCompressionDict) -> list[int]:
    """Sizes of the others: zstd without what a frame can leave out, the best order of PPMd."""
    parameters = zstandard.ZstdCompressionParameters.from_level(19, write_content_size=0, write_dict_id=0)
    zstd = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters)
    ppmd = []
    for order in (2, 3, 4, 6, 8, 12):
        encoder = pyppmd.Ppmd7Encoder(order, 16 << 20)
        ppmd.append(len(encoder.encode(text) + encoder.flush()))
    xz = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    return [len(zstd.compress(text)), len(brotli.compress(text, quality=11)), min(ppmd), len(xz)]


if __name__ == "__main__":
    main()
