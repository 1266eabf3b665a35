"""How far a compressed model is from its origin: KL, agreement of the likeliest token, bits per byte, on held-out text.

Shapes: ``B`` windows, ``T`` tokens of one, ``D`` width, ``V`` vocabulary, ``N`` targets. Hidden states (N, D) of the
origin are kept, not its logits (N, V): those are made again for a few targets at a time. All methods are measured on
the same windows, so differences between them are paired. A target that begins a document is not scored: no text stands
for it. Bytes are those of the text, or, where a SentencePiece model normalizes, of what its tokens decode to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from golf.base.params import Count, Size
from golf.base.progress import bar
from golf.data.shards import open_split
from golf.imports.texts import DOMAINS, imported_tokenizer, target_bytes
from golf.models.base import LanguageModel
from golf.models.registry import load_weights, model_of
from golf.quantize.calibrate import WEIGHTS, spread_windows

__all__ = [
    "JudgeConfig", "JudgedText", "compared", "judged_texts", "mean_and_error", "origin_model",
    "point", "summary",
]  # fmt: skip

_ROWS = 256  # targets whose logits are in memory at a time
_WINDOWS = 4  # in one forward pass
Rows = dict[str, NDArray[np.float64]]  # per window (B,): kl, nats, exact_nats, agree (sums), targets, bytes


@dataclass(frozen=True)
class JudgeConfig:
    """Section `judge` of the parameters."""

    tokens: Count
    window: Size


@dataclass(frozen=True)
class JudgedText:
    """Windows of one domain and what the origin says of them."""

    ids: NDArray[np.int64]  # (B, T)
    num_bytes: NDArray[np.int64]  # (B, T - 1), bytes of each target; -1 is not scored
    hidden: torch.Tensor  # (B, T - 1, D) of the origin


def judged_texts(root: Path, config: JudgeConfig, origin: LanguageModel) -> dict[str, JudgedText]:
    """The windows of every domain that `texts` wrote, run through the origin."""
    tokenizer, texts = imported_tokenizer(root), {}
    for domain in DOMAINS:
        split = open_split(root / "artifacts/tokens/judged" / domain)
        ids = spread_windows(split, tokens=config.tokens, window=config.window, key="judge.window")
        texts[domain] = JudgedText(ids, target_bytes(tokenizer, ids), _hidden(origin, ids))
    return texts


def _hidden(model: LanguageModel, ids: NDArray[np.int64]) -> torch.Tensor:
    """(B, T - 1, D): what predicts every token but the first of its window."""
    with torch.no_grad(), bar(what="judge", total=ids.size, unit="tok") as shown:
        parts = []
        for part in torch.from_numpy(ids).split(_WINDOWS):
            parts.append(model.hidden(part)[:, :-1])
            shown.update(part.numel())
    return torch.cat(parts)


def compared(text: JudgedText, origin: LanguageModel, model: LanguageModel) -> Rows:
    """Sums over each window of ``text`` (B,): KL(origin || model) and code lengths in nats, agreements, bytes."""
    hidden, targets = _hidden(model, text.ids), torch.from_numpy(text.ids[:, 1:])
    rows: dict[str, list[float]] = {key: [] for key in ("kl", "nats", "exact_nats", "agree", "targets", "bytes")}
    with torch.no_grad():
        for window in range(len(text.ids)):
            scored = torch.from_numpy(text.num_bytes[window] >= 0)
            totals = dict.fromkeys(rows, 0.0)
            wanted = targets[window][scored]
            parts = [of[window][scored].split(_ROWS) for of in (text.hidden, hidden)]
            for exact_hidden, found_hidden, y in zip(*parts, wanted.split(_ROWS), strict=True):
                exact = F.log_softmax(origin.logits(exact_hidden), -1)
                found = F.log_softmax(model.logits(found_hidden), -1)
                totals["agree"] += float((exact.argmax(-1) == found.argmax(-1)).sum())
                for key, table in (("exact_nats", exact), ("nats", found)):
                    totals[key] -= float(table.gather(1, y[:, None]).sum(dtype=torch.float64))
                found.neg_().add_(exact)
                totals["kl"] += float(found.mul_(exact.exp_()).sum(dtype=torch.float64))
            totals |= {"targets": float(scored.sum()), "bytes": float(text.num_bytes[window].clip(0).sum())}
            for key, value in totals.items():
                rows[key].append(value)
    return {key: np.array(values) for key, values in rows.items()}


def mean_and_error(totals: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[float, float]:
    """Ratio of sums over windows, and its standard error from their scatter (0 for a single window)."""
    mean = float(totals.sum() / weights.sum())
    count = len(totals)
    if count < 2:
        return mean, 0.0
    scatter = totals - mean * weights
    return mean, float(np.sqrt((scatter**2).sum() * count / (count - 1)) / weights.sum())


def summary(rows: Mapping[str, Rows]) -> dict[str, float]:
    """Flat metrics by domain: KL in nats per token, agreement, bits per byte of both and their paired difference."""
    flat = {}
    for domain, found in rows.items():
        flat[f"{domain}_kl"], flat[f"{domain}_kl_error"] = mean_and_error(found["kl"], found["targets"])
        flat[f"{domain}_top_agreement"] = mean_and_error(found["agree"], found["targets"])[0]
        bits = found["bytes"] * np.log(2.0)
        flat[f"{domain}_origin_bits_per_byte"] = mean_and_error(found["exact_nats"], bits)[0]
        flat[f"{domain}_bits_per_byte"] = mean_and_error(found["nats"], bits)[0]
        loss = mean_and_error(found["nats"] - found["exact_nats"], bits)
        flat[f"{domain}_loss_bits_per_byte"], flat[f"{domain}_loss_error"] = loss
        flat[f"{domain}_tokens"] = float(found["targets"].sum())
    return flat


def origin_model(root: Path) -> LanguageModel:
    """The float model that `import_model` wrote below ``root``."""
    weights, meta = load_weights(root / WEIGHTS, made_by="`import_model`")
    return model_of(meta, weights, path=root / WEIGHTS, made_by="`import_model`").eval()


def point(name: str, num_bytes: int, rows: Mapping[str, Rows]) -> dict[str, Any]:
    """One compressed model as JSON: bytes, summary by domain, and the sums of every window."""
    windows = {domain: {key: value.tolist() for key, value in found.items()} for domain, found in rows.items()}
    return {"name": name, "bytes": num_bytes, "summary": summary(rows), "windows": windows}
