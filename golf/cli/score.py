"""`golf score MODEL FILE...`: bits per byte of any text under an artifact, by each scorer, document by document."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from golf.base.errors import GolfError
from golf.base.files import write_json
from golf.base.main import printable
from golf.base.params import quoted
from golf.base.score import bits_per_byte
from golf.cli.outputs import tried

if TYPE_CHECKING:  # they load torch
    from golf.scoring.files import Texts
    from golf.scoring.results import Score

__all__ = ["add_arguments", "run"]

MODES = "roundtrip,sliding,streaming,hedge"  # of golf.scoring.modes
_PARAMS = Path("params.yaml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `golf score`."""
    parser.add_argument("model", type=Path, help="an artifact, artifacts/compress/model.golf")
    parser.add_argument("file", type=Path, nargs="+", help="texts: UTF-8, .jsonl, .csv, .tsv or .parquet, compressed "
                        "or not; a folder of them; a folder of token shards")  # fmt: skip
    parser.add_argument("--modes", default=MODES, help="scorers, separated by commas (default: %(default)s)")
    parser.add_argument("--params", type=Path, help="parameters of the scorers (default: params.yaml where there is "
                        "one, else those of the preset cpu_small)")  # fmt: skip
    parser.add_argument("--text-key", default="text", help="key or column of the text (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")


def run(args: argparse.Namespace) -> int:
    """Score the documents as one stream and print a row for each; ``GolfError`` for anything that does not fit."""
    from golf.artifact.decode import load_artifact
    from golf.base.distributed import place
    from golf.data.tokenizer import Tokenizer
    from golf.scoring.files import read_texts, score_text

    tried(args.json)
    configs, settings = _configs(args.modes, args.params)
    decoded = load_artifact(args.model)
    tokenizer = Tokenizer(decoded.tokenizer_model, name="the artifact's tokenizer")
    if tokenizer.vocab_size != decoded.vocab_size:
        pieces = f"its tokenizer has {tokenizer.vocab_size} pieces, its model {decoded.vocab_size}"
        raise GolfError(f"{args.model}: {pieces}")
    texts = read_texts(args.file, tokenizer, text_key=args.text_key)
    begin = time.perf_counter()
    scores = score_text(decoded.model.to(place(os.environ).device), texts.text, configs)
    seconds = time.perf_counter() - begin
    if args.json is not None:
        write_json(args.json, _figures(texts, scores) | {"artifact_sha256": decoded.sha256, "settings": settings})
    print(f"{printable(str(args.model))}: {decoded.num_bytes:,} bytes, SHA-256 {decoded.sha256[:16]}; {settings}")
    for reason, count in sorted(texts.skipped.items()):
        print(f"left out: {count:,} {printable(reason)}")
    print(f"bits per byte of {texts.text.num_bytes:,} bytes, {texts.text.num_targets:,} tokens, in {seconds:.1f} s\n")
    sys.stdout.write(_table(texts, scores))
    return 0


def _configs(modes: str, params: Path | None) -> tuple[dict[str, Any], str]:
    """Parameters of the modes, and the words that say where they are from."""
    from golf.scoring.files import default_modes
    from golf.scoring.modes import MODES as KNOWN
    from golf.scoring.modes import load_modes

    names = tuple(dict.fromkeys(modes.split(",")))
    for name in names:
        if name not in KNOWN:
            raise GolfError(f"--modes: found {quoted(name)}, expected some of {', '.join(KNOWN)}")
    if params is None and not _PARAMS.is_file():
        return default_modes(names), "scorers as in the preset cpu_small"
    params = params or _PARAMS
    return load_modes(params, names), f"scorers as in {params}"


def _figures(texts: Texts, scores: Mapping[str, Score]) -> dict[str, Any]:
    """Everything that was measured, for a program."""
    text, rows = texts.text, []
    for number, name in enumerate(texts.names):
        size = int(text.doc_bytes[number])
        nats = {mode: float(score.doc_nats[number]) for mode, score in scores.items()}
        bits = {mode: bits_per_byte(value, size) for mode, value in nats.items()} if size else {}
        tokens = int(text.doc_tokens[number])
        rows.append({"name": name, "bytes": size, "tokens": tokens, "nats": nats, "bits_per_byte": bits})
    totals = {mode: {"nats": score.total_nats, "bits_per_byte": score.bits_per_byte} for mode, score in scores.items()}
    whole = {"bytes": text.num_bytes, "tokens": text.num_targets, "left_out": dict(texts.skipped)}
    return {"scores": totals, "documents": rows} | whole


def _table(texts: Texts, scores: Mapping[str, Score]) -> str:
    figures = _figures(texts, scores)
    lines = [["document", "bytes", "tokens", *scores]]
    for row in figures["documents"]:
        bits = [f"{row['bits_per_byte'][mode]:.4f}" if row["bytes"] else "-" for mode in scores]
        lines.append([printable(row["name"]).replace("\n", "\\n"), f"{row['bytes']:,}", f"{row['tokens']:,}", *bits])
    total = [f"{score.bits_per_byte:.4f}" for score in scores.values()]
    lines.append([f"all {len(texts.names):,}", f"{figures['bytes']:,}", f"{figures['tokens']:,}", *total])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    cells = ([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines)
    return "".join("  ".join(line) + "\n" for line in cells)
