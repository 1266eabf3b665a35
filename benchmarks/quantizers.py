"""Recipes at equal artifact bytes on a trained model: KL to the float model, and nats, on held-out tokens.

    python -m benchmarks.quantizers --root . --tokens 4096

Reads artifacts/{average,calibrate,tokens} below the root. Every row is a real artifact, packed and counted whole. The
second table reads bytes at equal KL, and KL at equal bytes, off straight lines between points of log KL against bytes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sections import quantize_section
from golf.artifact.ship import CompressConfig
from golf.artifact.write import pack
from golf.base.files import load_numpy
from golf.data.shards import open_split
from golf.models.registry import build_model, config_from_dict
from golf.quantize.calibrate import Divergence, sensitivities, training_windows
from golf.quantize.fit import split_steps
from golf.quantize.hessian import load_hessians
from golf.quantize.pipeline import Quantizer

PUBLIC = "gptq, order-0 rANS"


@dataclass(frozen=True)
class Recipe:
    """One curve: what differs from plain rounding with order-0 rANS."""

    label: str
    method: str
    column_exponent: float = 0.0
    row_exponent: float = 0.0
    split: bool = False
    coder: str = "rans"
    settings: tuple[float, ...] = (6.0, 9.0, 13.0)  # clips, or levels of gptq_lite; chosen so that the curves overlap


RECIPES = (
    Recipe("gptq_lite (int6, int5, int4), order-0 rANS", "gptq_lite", settings=(31, 15, 7)),
    Recipe("sdclip, order-0 rANS", "sdclip", settings=(3.0, 5.0, 8.0)),
    Recipe(PUBLIC, "gptq"),
    Recipe("gptq + trellis, order-0 rANS", "gptq_trellis", settings=(6.0, 9.0, 13.0, 16.0)),
    Recipe("gptq + column steps, order-0 rANS", "gptq", 0.5, settings=(9.0, 13.0, 18.0)),
    Recipe("gptq + trellis + column steps, order-0 rANS", "gptq_trellis", 0.5, settings=(9.0, 13.0, 18.0)),
    Recipe("the same, smallest coder", "gptq_trellis", 0.5, coder="smallest", settings=(9.0, 13.0, 18.0)),
    Recipe("the same + split by tensor", "gptq_trellis", 0.5, 0.0, True, "smallest", (9.0, 15.0, 22.0)),
    Recipe("without the split, rows by damage", "gptq_trellis", 0.5, 0.375, False, "smallest", (9.0, 15.0, 22.0, 30.0)),
    Recipe("rows by damage, then the split", "gptq_trellis", 0.5, 0.375, True, "smallest", (9.0, 15.0, 22.0, 30.0)),
)


@dataclass(frozen=True)
class Bench:
    """The trained model and what its recipes are judged by."""

    state: dict[str, np.ndarray]
    meta: dict[str, Any]
    hessians: dict[str, np.ndarray | None]
    tokenizer: bytes
    sensitivities: dict[str, np.ndarray]
    held_out: Divergence
    training: Divergence

    def point(self, recipe: Recipe, setting: float) -> tuple[int, float]:
        """Artifact bytes and KL of ``recipe`` at a clip, or at a number of levels for gptq_lite."""
        lite = recipe.method == "gptq_lite"
        config = quantize_section(
            recipe.method,
            8.0 if lite else setting,
            levels=int(setting) if lite else 31,
            column_exponent=recipe.column_exponent,
            row_exponent=recipe.row_exponent,
        )
        model = build_model(config_from_dict(self.meta["model"]), self.meta["vocab_size"])
        quantizer = Quantizer(
            self.state, model, config, meta=self.meta, hessians=self.hessians, sensitivities=self.sensitivities
        )
        if recipe.split:
            result = split_steps(quantizer, damage=self.training, say=lambda line: None).result
        else:
            result = quantizer.run()
        coders = CompressConfig(recipe.coder, 16_000_000)  # type: ignore[arg-type]
        data = pack(result.model, self.tokenizer, coders=coders.coders, embedding_coders=coders.embedding_coders)
        return len(data), self.held_out(result.model.state())


def prepare(root: Path, tokens: int) -> Bench:
    """Read the artifacts below ``root``; KL is on ``tokens`` held-out tokens, splits on 2,048 training tokens."""
    state, meta = load_numpy(root / "artifacts/average/model.safetensors", made_by="`average`")
    found, about = load_hessians(root / "artifacts/calibrate/hessians.safetensors", made_by="`calibrate`")
    hessians = {**found, **dict.fromkeys(about["without"])}  # type: ignore[call-overload]
    tokenizer = (root / "artifacts/tokens/tokenizer.model").read_bytes()

    def divergence(split: str, count: int) -> Divergence:
        model = build_model(config_from_dict(meta["model"]), meta["vocab_size"])
        windows = training_windows(open_split(root / f"artifacts/tokens/{split}"), tokens=count, window=256)
        return Divergence(model, state, windows)

    held_out, training = divergence("holdout", tokens), divergence("train", 2048)
    return Bench(state, meta, hessians, tokenizer, sensitivities(root), held_out, training)


def bytes_at(curve: list[tuple[int, float]], kl: float) -> float:
    """Bytes of ``curve`` at ``kl`` by linear interpolation over log KL; NaN outside."""
    points = sorted(curve, key=lambda point: point[1])
    logs = [float(np.log(point[1])) for point in points]
    return float(np.interp(np.log(kl), logs, [point[0] for point in points], left=np.nan, right=np.nan))


def kl_at(curve: list[tuple[int, float]], num_bytes: float) -> float:
    """KL of ``curve`` at ``num_bytes``, its logarithm interpolated; NaN outside."""
    sizes, divergences = np.array(sorted(curve)).T
    return float(np.exp(np.interp(num_bytes, sizes, np.log(divergences), left=np.nan, right=np.nan)))


def summary(curves: dict[str, list[tuple[int, float]]]) -> list[str]:
    """KL of every curve at the mean of the two smaller sizes of PUBLIC, and bytes at the KL of its largest."""
    public = sorted(curves[PUBLIC])
    size = (public[0][0] + public[1][0]) / 2
    base, (most, least) = kl_at(public, size), public[-1]
    head = f"| recipe | KL at {size:,.0f} bytes | times | bytes at KL {least:.5f} | of {most:,} |"
    lines = ["", head, "|---|---|---|---|---|"]
    for label, curve in curves.items():
        kl, found = kl_at(curve, size), bytes_at(curve, least)
        lines.append(f"| {label} | {kl:.5f} | {kl / base:.3f} | {found:,.0f} | {100 * (found / most - 1):+.1f} % |")
    return lines


def main() -> None:
    """Print one row per artifact, then bytes at equal KL."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("."))
    parser.add_argument("--tokens", type=int, default=4096)
    args = parser.parse_args()
    bench = prepare(args.root, args.tokens)
    print("| recipe | levels or clip | artifact bytes | KL, nats per token |\n|---|---|---|---|", flush=True)
    curves: dict[str, list[tuple[int, float]]] = {}
    for recipe in RECIPES:
        for setting in recipe.settings:
            point = bench.point(recipe, setting)
            curves.setdefault(recipe.label, []).append(point)
            print(f"| {recipe.label} | {setting:g} | {point[0]:,} | {point[1]:.5f} |", flush=True)
    print("\n".join(summary(curves)))


if __name__ == "__main__":
    main()
