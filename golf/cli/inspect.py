"""`golf inspect FILE`: what the bytes of an artifact are spent on, part by part, role by role, tensor by tensor.

With ``--diff A B`` the same tables show how B differs from A; ``--plot`` draws them. Parts are bytes of real files; a
tensor's bytes are its payload and its share of the compressed side information. The share of damage is taken from the
error report of `fit`, where that is at hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.artifact.bytes import ArtifactError
from golf.artifact.layout import Unpacked
from golf.artifact.read import unpack
from golf.artifact.ship import side_bytes, size_rows
from golf.base.errors import GolfError
from golf.base.files import FileError, atomic_file
from golf.base.params import quoted
from golf.quantize.tensors import ROLES

__all__ = ["Contents", "add_arguments", "compare", "describe", "load", "run"]

DAMAGE = ("output_error", "relative_error")  # columns of errors.tsv, the first that is there is used
_DRAWN = 24  # tensors in a plot at most
_PARTS = {
    "payload": "coded integers",
    "side": "coder tables and outliers",
    "codes": "scale codes of rows and columns",
    "low": "floats (scales, small tensors): low bytes",
    "high": "floats: high bytes",
    "index": "header: names, shapes, model config",
    "prefix": "header: magic, lengths, SHA-256",
    "tokenizer": "tokenizer",
    "code": "code: the shipped decoder",
}


@dataclass(frozen=True)
class Contents:
    """One artifact, taken apart: bytes of each part of ``_PARTS`` and one row of numbers per tensor."""

    path: Path
    unpacked: Unpacked
    parts: dict[str, int]
    rows: list[dict[str, Any]]  # of size_rows, with `damage` (share, or None) besides
    damage: str | None  # the column of the error report that the shares are of

    @property
    def total_bytes(self) -> int:
        """Artifact and, where it is known, decoder."""
        return sum(self.parts.values())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `golf inspect`."""
    parser.add_argument("file", type=Path, nargs="?", help="an artifact, artifacts/compress/model.golf")
    parser.add_argument("--diff", type=Path, nargs=2, metavar=("A", "B"), help="show how artifact B differs from A")
    parser.add_argument(
        "--plot", type=Path, metavar="OUT", help="also draw the bytes per tensor, to a .png or .svg file"
    )
    parser.add_argument(
        "--errors",
        type=Path,
        metavar="TSV",
        help="error report of `fit`, for the share of damage: the tensor's part of the sum of output_error (else "
        "relative_error) of all tensors (default: ../fit/errors.tsv beside the artifact, where there is one)",
    )
    parser.add_argument(
        "--decoder", type=Path, metavar="ZIP", help="the shipped decoder (default: decoder.zip beside the artifact)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the tables; ``ArtifactError`` or ``FileError`` when a file is missing or damaged."""
    if (args.file is None) == (args.diff is None):
        raise GolfError("inspect: expected either one FILE or --diff A B, see `golf inspect --help`")
    if args.plot is not None and args.plot.suffix not in (".png", ".svg"):
        raise GolfError(f"--plot: found {args.plot}, expected a name that ends in .png or .svg")
    if args.diff is None:
        shown = [load(args.file, errors=args.errors, decoder=args.decoder)]
        sys.stdout.write(describe(shown[0]) + "\n")
    else:
        shown = [load(path, errors=args.errors, decoder=args.decoder) for path in args.diff]
        sys.stdout.write(compare(*shown) + "\n")
    if args.plot is not None:
        with atomic_file(args.plot) as temporary:
            _draw(temporary, args.plot.suffix[1:], shown)
        print(f"drawn to {args.plot}")
    return 0


def load(path: Path, *, errors: Path | None = None, decoder: Path | None = None) -> Contents:
    """Decode the artifact at ``path`` and take it apart; files named must exist, their defaults need not."""
    if not path.is_file():
        state = "is a folder, expected an artifact" if path.is_dir() else "not found"
        raise ArtifactError("missing", f"{path}: {state}; it is made by `compress`")
    unpacked = unpack(path.read_bytes(), where=str(path))
    parts = {name: unpacked.sections[name] for name in _PARTS if name in unpacked.sections}
    code = _given(decoder, path.parent / "decoder.zip", made_by="`compress`")
    if code is not None:
        parts["code"] = code.stat().st_size
    report = _given(errors, path.parent.parent / "fit" / "errors.tsv", made_by="`fit`")
    column, shares = _damage(report) if report is not None else (None, {})
    rows = [{**row, "damage": shares.get(row["tensor"])} for row in size_rows(unpacked)]
    return Contents(path, unpacked, parts, rows, column)


def _given(path: Path | None, default: Path, *, made_by: str) -> Path | None:
    if path is not None and not path.is_file():
        raise FileError(f"{path}: not found; it is made by {made_by}")
    return path if path is not None else default if default.is_file() else None


def _damage(path: Path) -> tuple[str, dict[str, float]]:
    """The column used and each tensor's part of its sum."""
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    column = next((name for name in DAMAGE if lines and name in lines[0]), None)
    if column is None or "tensor" not in lines[0]:
        raise FileError(f"{path}: no column `tensor` or none of {', '.join(DAMAGE)}; re-run `fit`")
    names, values = lines[0].index("tensor"), lines[0].index(column)
    try:
        found = {line[names]: float(line[values]) for line in lines[1:]}
    except (IndexError, ValueError) as error:
        raise FileError(f"{path}: not a table of numbers ({error}); re-run `fit`") from error
    total = sum(found.values())
    return column, {name: value / total if total else 0.0 for name, value in found.items()}


def describe(contents: Contents) -> str:
    """All tables of one artifact."""
    unpacked, model = contents.unpacked, contents.unpacked.model
    family = quoted(model.config["family"])[1:-1]
    head = (
        f"{contents.path}: {unpacked.num_bytes:,} bytes, {model.num_weights():,} weights, "
        f"{8 * unpacked.num_bytes / max(1, model.num_weights()):.3f} bits per weight, family {family}"
    )
    side = side_bytes(unpacked.sections)
    note = f"side information (all but integers, tokenizer and code): {side:,} bytes, {side / unpacked.num_bytes:.2%}"
    code = "" if "code" in contents.parts else "; the decoder is not beside the artifact, see --decoder"
    about = f"share of damage: the tensor's part of the sum of {contents.damage}" if contents.damage else ""
    blocks = [
        head,
        _parts_table(contents.parts),
        note + code,
        _roles_table(contents.rows),
        _tensors_table(contents.rows),
    ]
    return "\n\n".join([*blocks, *([about] if about else []), f"SHA-256 {unpacked.sha256}"])


def _parts_table(parts: dict[str, int]) -> str:
    total = sum(parts.values())
    rows = [[_PARTS[name], f"{size:,}", f"{size / total:.2%}"] for name, size in parts.items()]
    return _aligned([["part", "bytes", "share"], *rows, ["total", f"{total:,}", "100.00%"]], left=1)


def _roles_table(rows: Sequence[dict[str, Any]]) -> str:
    total = sum(row["stored_bytes"] for row in rows)
    lines = [["role", "tensors", "weights", "bytes", "share", "bits/w", "order-0", "side", "damage"]]
    for role in ROLES:
        some = [row for row in rows if row["role"] == role]
        if some:
            lines.append([role, str(len(some)), *_sums(some, total)])
    return _aligned(lines, left=1)


def _sums(rows: Sequence[dict[str, Any]], total: float) -> list[str]:
    weights, stored, side = (sum(row[key] for row in rows) for key in ("weights", "stored_bytes", "side_stored_bytes"))
    order0 = sum(row["order0_bits_per_weight"] * row["weights"] for row in rows)
    known = [row["damage"] for row in rows if row["damage"] is not None]
    damage = f"{sum(known):.2%}" if known else "-"
    ratios = [f"{8 * stored / max(1, weights):.3f}", f"{order0 / max(1, weights):.3f}"]
    return [f"{weights:,}", f"{stored:,.0f}", f"{stored / total if total else 0:.2%}", *ratios, f"{side:,.0f}", damage]


def _tensors_table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per tensor, largest first; bytes are those in the file."""
    lines = [["tensor", "role", "shape", "coder", "bytes", "bits/w", "order-0", "side", "damage"]]
    for row in sorted(rows, key=lambda row: (-row["stored_bytes"], row["tensor"])):
        bits = 8 * row["stored_bytes"] / max(1, row["weights"])
        damage = "-" if row["damage"] is None else f"{row['damage']:.2%}"
        numbers = [f"{row['stored_bytes']:,.0f}", f"{bits:.3f}", f"{row['order0_bits_per_weight']:.3f}"]
        names = [row[key] for key in ("tensor", "role", "shape", "coder")]
        lines.append([*names, *numbers, f"{row['side_stored_bytes']:,.0f}", damage])
    return _aligned(lines, left=4)


def compare(a: Contents, b: Contents) -> str:
    """Parts and tensors of both, and B minus A; tensors with the same weights and coder are left out."""
    head = (
        f"A {a.path}: {a.total_bytes:,} bytes\nB {b.path}: {b.total_bytes:,} bytes, {b.total_bytes - a.total_bytes:+,}"
    )
    lines = [["part", "A", "B", "B - A"]]
    for name in [part for part in _PARTS if part in a.parts or part in b.parts]:
        lines.append([_PARTS[name], *_change(a.parts.get(name), b.parts.get(name), "{:,}".format)])
    left, right = ({row["tensor"]: row for row in one.rows} for one in (a, b))
    table = [["tensor", "coder A", "coder B", "A", "B", "B - A", "bits/w A", "bits/w B", "weights"]]
    same = 0
    for name in sorted({*left, *right}, key=lambda name: -abs(_bytes(right, name) - _bytes(left, name))):
        if _equal(a, b, name) and left[name]["coder"] == right[name]["coder"]:
            same += 1
            continue
        coders = [rows[name]["coder"] if name in rows else "-" for rows in (left, right)]
        bits = [f"{8 * _bytes(r, name) / max(1, r[name]['weights']):.3f}" if name in r else "-" for r in (left, right)]
        sizes = [_bytes(rows, name) if name in rows else None for rows in (left, right)]
        state = "same" if _equal(a, b, name) else "differ"
        table.append([name, *coders, *_change(sizes[0], sizes[1], "{:,.0f}".format), *bits, state])
    note = f"{same} tensors have the same weights and coder" + ("" if same else ": none")
    configs = "same model config" if a.unpacked.model.config == b.unpacked.model.config else "model configs differ"
    tokenizers = "same tokenizer" if a.unpacked.tokenizer == b.unpacked.tokenizer else "tokenizers differ"
    parts = [head, _aligned(lines, left=1), *([_aligned(table, left=3)] if len(table) > 1 else [])]
    return "\n\n".join([*parts, f"{note}; {configs}; {tokenizers}"])


def _bytes(rows: dict[str, dict[str, Any]], name: str) -> float:
    return float(rows[name]["stored_bytes"]) if name in rows else 0.0


def _change(old: float | None, new: float | None, shown: Callable[[Any], str]) -> list[str]:
    signed = shown(abs((new or 0) - (old or 0)))
    return [*("-" if size is None else shown(size) for size in (old, new)), f"{'-+'[(new or 0) >= (old or 0)]}{signed}"]


def _equal(a: Contents, b: Contents, name: str) -> bool:
    """Whether both store the same weights under ``name``."""
    import numpy as np

    one, two = (x.unpacked.model.tensors.get(name) for x in (a, b))
    if one is not None and two is not None:
        return bool(np.array_equal(one.dequantize(), two.dequantize()))
    plain = [x.unpacked.model.plain.get(name) for x in (a, b)]
    return plain[0] is not None and plain[1] is not None and bool(np.array_equal(plain[0], plain[1]))


def _draw(path: Path, kind: str, shown: Sequence[Contents]) -> None:
    """Bars of the largest tensors and of all parts but the integers, a color per artifact; same input, same bytes."""
    from golf.report.plots import new_figure, save_figure

    sizes = [{row["tensor"]: row["stored_bytes"] for row in one.rows} for one in shown]
    names = sorted({*sizes[0], *sizes[-1]}, key=lambda name: max(size.get(name, 0.0) for size in sizes))[-_DRAWN:]
    parts = [name for name in reversed(_PARTS) if name != "payload" and any(name in one.parts for one in shown)]
    figure = new_figure((8.0, 1.2 + 0.2 * (len(names) + len(parts))))
    above, below = figure.subplots(2, 1, height_ratios=[max(len(names), 1), len(parts)])
    thick = 0.8 / len(shown)
    for place, (one, size) in enumerate(zip(shown, sizes, strict=True)):
        shift, label = (len(shown) - 1) / 2 * thick - place * thick, f"{one.path.name}: {one.total_bytes:,} bytes"
        above.barh([i + shift for i in range(len(names))], [size.get(n, 0) for n in names], thick, label=label)
        below.barh([i + shift for i in range(len(parts))], [one.parts.get(n, 0) for n in parts], thick)
    above.set_yticks(range(len(names)), names, fontsize=6)
    below.set_yticks(range(len(parts)), [_PARTS[name] for name in parts], fontsize=6)
    above.set(title="Largest tensors, side information included")
    below.set(xlabel="bytes", title="Everything but the coded integers")
    above.legend(fontsize=7)
    save_figure(figure, path, kind)


def _aligned(lines: list[list[str]], *, left: int) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

    def joined(line: list[str]) -> str:
        cells = [cell.ljust(widths[i]) if i < left else cell.rjust(widths[i]) for i, cell in enumerate(line)]
        return "  ".join(cells).rstrip()

    return "\n".join(map(joined, lines))
