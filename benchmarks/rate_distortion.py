"""Bytes against KL to the float model, one curve per recipe, on a model trained by this pipeline.

Every point is a whole artifact, packed and counted (tokenizer, config and small tensors included, decoder not).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from golf.artifact.read import unpack
from golf.artifact.ship import CompressConfig
from golf.artifact.write import pack
from golf.base.files import load_numpy
from golf.base.params import from_dict
from golf.cli.params import compose
from golf.data.shards import load_split
from golf.models.registry import build_model, config_from_dict
from golf.quantize.calibrate import sensitivities
from golf.quantize.hessian import load_hessians
from golf.quantize.pipeline import QuantizeConfig, Quantizer
from golf.report.baselines import integer_sizes
from golf.report.plots import new_figure, save_figure

__all__ = ["curve", "curve_page", "draw"]

PUBLIC, PLAIN = "GPTQ + SDClip + order-0 rANS", "GPTQ + column steps, rows by damage"
STACK = "GPTQ + trellis (whole stack)"
TRELLIS = "GPTQ + SDClip + trellis + order-0 rANS"
ROLES = ("embedding", "attention", "mlp")
CLIPS = (3.0, 5.0, 8.0, 12.0, 17.0)
BARE = ["gptq.column_exponent=0.0", "gptq.row_exponent=0.0"]  # a step per row, by its spread alone
FP16 = ["control_step=0.0"]  # vectors and scalars, in all recipes that code with order-0 rANS
RECIPES: dict[str, tuple[str, str, list[list[str]]]] = {  # coder, then overrides of each point
    "GPTQ-lite": (
        "rans",
        "gptq_lite",
        [[f"levels.{role}={n}" for role in ROLES] for n in (63, 31, 15, 7)],
    ),
    "SDClip": ("rans", "sdclip", [[f"clip={clip}"] for clip in (3.0, 5.0, 8.0, 12.0)]),
    PUBLIC: ("rans", "gptq", [[f"clip={clip}", *BARE] for clip in CLIPS]),
    TRELLIS: ("rans", "gptq_trellis", [[f"clip={clip}", *BARE] for clip in CLIPS]),
    PLAIN: ("smallest", "gptq", [[f"clip={clip}"] for clip in CLIPS]),
    STACK: ("smallest", "gptq_trellis", [[f"clip={clip}"] for clip in CLIPS]),
}
REFERENCES = ("brotli", "zstd", "xz")
Points = list[dict[str, Any]]


class _Judge:
    """KL of a state dict to the float model on held-out tokens, nats per token."""

    def __init__(self, root: Path, state: dict[str, np.ndarray], meta: dict[str, Any], tokens: int) -> None:
        self.model = build_model(config_from_dict(meta["model"]), meta["vocab_size"]).eval()
        held = load_split(root / "artifacts/tokens/holdout").tokens[: tokens + 1].astype(np.int64)
        self.ids = torch.from_numpy(held[: tokens // 256 * 256]).view(-1, 256)
        self.exact = self._log_probabilities(state)

    @torch.no_grad()
    def _log_probabilities(self, state: dict[str, np.ndarray]) -> torch.Tensor:
        self.model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
        return torch.cat([torch.log_softmax(self.model.logits(self.model.hidden(x)), -1) for x in self.ids.split(4)])

    def __call__(self, state: dict[str, np.ndarray]) -> float:
        found = self._log_probabilities(state)
        return float((self.exact.exp() * (self.exact - found)).sum(-1).mean())


def curve(root: Path, tokens: int) -> dict[str, Any]:
    """Points of every recipe, and the two ratios that have bars."""
    state, meta = load_numpy(root / "artifacts/average/model.safetensors", made_by="`average`")
    known, found = load_hessians(root / "artifacts/calibrate/hessians.safetensors", made_by="`calibrate`")
    hessians = {**known, **dict.fromkeys(found["without"])}  # type: ignore[call-overload]
    tokenizer = (root / "artifacts/tokens/tokenizer.model").read_bytes()
    rows = sensitivities(root)
    judge = _Judge(root, state, meta, tokens)
    recipes: dict[str, Points] = {}
    for title, (coder, method, points) in RECIPES.items():
        config = CompressConfig(coder, 16_000_000)  # type: ignore[arg-type]
        recipes[title] = []
        for overrides in points:
            plain = FP16 if coder == "rans" else []
            words = [f"quantize.method={method}", *(f"quantize.{word}" for word in overrides + plain)]
            section = compose(Path("conf"), overrides=words)["quantize"]
            quantize = from_dict(QuantizeConfig, section, where="quantize")
            measured: dict[str, Any] = {"hessians": hessians, "sensitivities": rows}
            result = Quantizer(state, judge.model, quantize, meta=meta, **measured).run().model
            data = pack(result, tokenizer, coders=config.coders, embedding_coders=config.embedding_coders)
            unpacked = unpack(data)
            point = {
                "setting": overrides[0].removeprefix("levels.embedding="),
                "bytes": len(data),
                "kl": judge(unpacked.model.state()),
            }
            if title in (PUBLIC, STACK) and overrides[0] == "clip=8.0":
                integers = [result.tensors[name].values for name in sorted(result.tensors)]
                rest = len(data) - unpacked.sections["payload"] - unpacked.sections["side"]
                point |= {name: rest + size for name, size in integer_sizes(integers).items() if name in REFERENCES}
            recipes[title].append(point)
            print(title, point, flush=True)
    about = {"weights": int(sum(array.size for array in state.values())), "tokens": judge.ids.numel()}
    return {**about, "recipes": recipes, **_ratios(recipes)}


def _ratios(recipes: dict[str, Points]) -> dict[str, float]:
    """KL at equal bytes and bytes at equal KL, mean over the points of the stack inside the other curve's range."""

    def lines(title: str) -> tuple[np.ndarray, np.ndarray]:
        points = sorted(recipes[title], key=lambda point: point["bytes"])
        return np.array([p["bytes"] for p in points], float), np.log([p["kl"] for p in points])

    def at_equal_bytes(better: str, plain: str) -> float:
        (size, kl), (plain_size, plain_kl) = lines(better), lines(plain)
        inside = (size >= plain_size[0]) & (size <= plain_size[-1])
        return float(np.exp(kl[inside] - np.interp(size[inside], plain_size, plain_kl)).mean())

    (size, kl), (public_size, public_kl) = lines(STACK), lines(PUBLIC)
    within = (kl <= public_kl[0]) & (kl >= public_kl[-1])
    equal_kl = size[within] / np.interp(kl[within], public_kl[::-1], public_size[::-1])
    return {
        "gptq_trellis_to_gptq_kl": at_equal_bytes(STACK, PLAIN),
        "gptq_trellis_to_gptq_kl_rows": at_equal_bytes(TRELLIS, PUBLIC),
        "stack_to_public_bytes": float(equal_kl.mean()),
    }


def curve_page(found: dict[str, Any]) -> list[str]:
    """The section of the results page."""
    lines = [
        "## Bytes against KL", "",
        f"A model of {found['weights']:,} weights trained by this pipeline; KL to the float model in nats per token on "
        f"{found['tokens']:,} held-out tokens; whole artifacts, tokenizer and config included, decoder not. The public "
        "recipe is GPTQ with a step per row and order-0 rANS; the last two recipes use the smallest of our coders.", "",
        "![bytes against KL](compression/rate_distortion.svg)", "",
        "| recipe | setting | bytes | KL |", "|---|---|---|---|",
    ]  # fmt: skip
    for title, points in found["recipes"].items():
        lines += [f"| {title} | {p['setting']} | {p['bytes']:,} | {p['kl']:.5f} |" for p in points]
    lines += [
        "",
        "The same integers under general-purpose compressors, one byte per symbol, rest of the file as it is:",
        "",
    ]
    lines += ["| recipe | ours | brotli-11 | zstd-22 | xz-9e |", "|---|---|---|---|---|"]
    for title, points in found["recipes"].items():
        for p in (point for point in points if "brotli" in point):
            sizes = " | ".join(f"{p[name]:,}" for name in REFERENCES)
            lines.append(f"| {title}, {p['setting']} | {p['bytes']:,} | {sizes} |")
    return [*lines, ""]


def draw(found: dict[str, Any], path: Path) -> None:
    """The plot, as SVG; same input, same bytes."""
    figure = new_figure((7.2, 4.6))
    axes = figure.subplots()
    markers = dict(zip(REFERENCES, "sv^", strict=True))
    for place, (title, points) in enumerate(found["recipes"].items()):
        axes.plot([p["bytes"] for p in points], [p["kl"] for p in points], "o-", color=f"C{place}", label=title)
        for name in REFERENCES:
            for p in (point for point in points if name in point):
                axes.plot(p[name], p["kl"], markers[name], color=f"C{place}", markerfacecolor="none")
    for name, marker in markers.items():
        axes.plot([], [], marker, color="0.4", markerfacecolor="none", label=f"same integers, {name}")
    axes.set(yscale="log", xlabel="artifact (bytes)", ylabel="KL to the float model (nats per token)")
    axes.set_title(f"Rate and damage, {found['weights'] / 1e6:.2f} M weights")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path, "svg")
