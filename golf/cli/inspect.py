"""`golf inspect FILE`: what the bytes of an artifact are spent on, tensor by tensor and section by section."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from golf.coding.blocks import ArtifactError
from golf.container.read import unpack
from golf.shipping import size_rows

__all__ = ["HELP", "add_arguments", "run", "sections_table", "tensors_table"]

HELP = "show what the bytes of an artifact are spent on"
_COLUMNS = (
    ("tensor", "tensor", "{}"),
    ("role", "role", "{}"),
    ("shape", "shape", "{}"),
    ("coder", "coder", "{}"),
    ("bytes", "bytes", "{:,}"),
    ("scale_bytes", "scales", "{:,}"),
    ("table_bytes", "tables", "{:,}"),
    ("bits_per_weight", "bits/w", "{:.3f}"),
    ("order0_bits_per_weight", "order-0", "{:.3f}"),
)
_SECTIONS = {
    "prefix": "prefix: magic, lengths, SHA-256",
    "index": "index: names, shapes, model config",
    "low": "floats: low byte planes of scales and control tensors",
    "high": "floats: high byte planes",
    "codes": "scale codes",
    "side": "coder tables and outliers",
    "tokenizer": "tokenizer",
    "payload": "coded integers",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `golf inspect`."""
    parser.add_argument("file", type=Path, help="an artifact, artifacts/compress/model.golf")


def run(args: argparse.Namespace) -> int:
    """Print both tables; ``ArtifactError`` when the file is missing or damaged."""
    if not args.file.is_file():
        raise ArtifactError("missing", f"{args.file}: not found; it is made by `compress`")
    unpacked = unpack(args.file.read_bytes(), where=str(args.file))
    model = unpacked.model
    family = model.config["family"]
    head = f"{args.file}: {unpacked.num_bytes:,} bytes, {model.num_weights():,} weights, family {family}"
    parts = [head, sections_table(unpacked.sections), tensors_table(size_rows(unpacked)), f"SHA-256 {unpacked.sha256}"]
    sys.stdout.write("\n\n".join(parts) + "\n")
    return 0


def sections_table(sections: dict[str, int]) -> str:
    """Bytes and share of each section of the file."""
    total = sum(sections.values())
    rows = [[_SECTIONS[name], f"{size:,}", f"{size / total:.2%}"] for name, size in sections.items()]
    return _aligned([["section", "bytes", "share"], *rows], left=1)


def tensors_table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per tensor, largest first; scale and table bytes are before their common compression."""
    lines = [[form.format(row[key]) for key, _, form in _COLUMNS] for row in rows]
    return _aligned([[title for _, title, _ in _COLUMNS], *lines], left=4)


def _aligned(lines: list[list[str]], *, left: int) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

    def joined(line: list[str]) -> str:
        cells = [cell.ljust(widths[i]) if i < left else cell.rjust(widths[i]) for i, cell in enumerate(line)]
        return "  ".join(cells).rstrip()

    return "\n".join(map(joined, lines))
