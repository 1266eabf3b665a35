"""The results table and the flat summary, read from metrics files alone.

Every figure shown here was written by the stage that measured it; this module adds, divides and formats nothing but
what its column heading says.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from golf.base.files import FileError, read_json
from golf.base.params import quoted

__all__ = ["MODES", "Metrics", "read_metrics", "results_markdown", "summary"]

MODES = {  # of golf.scoring.modes, which loads a network: those in the table, and what they are called there
    "roundtrip": "round trip",
    "sliding": "sliding window",
    "streaming": "streaming",
    "hedge": "online mixture",
}
_TEXTS = ("_kind", "_source")  # ends of keys whose values are words
PARTS = {  # key in the metrics of hedge: what it is; absent where the parameters switch a part off
    "hedge_simple": "plain Hedge with fixed share",
    "hedge_bias": "document bias alone",
    "hedge_cascade": "candidate cascade over it",
    "hedge_chain": "back-off chain over that",
    "hedge_final": "mean of these two, learned",
    "hedge": "whole mixture, the headline",
}


@dataclasses.dataclass(frozen=True)
class Metrics:
    """The metrics of every stage, as their JSON files hold them; ``scores`` by evaluation mode."""

    tokenize: dict[str, Any]
    train: dict[str, Any]
    average: dict[str, Any]
    compress: dict[str, Any]
    baselines: dict[str, Any]
    prove: dict[str, Any]
    verify: dict[str, Any]
    scores: dict[str, dict[str, Any]]


def read_metrics(folder: str | Path) -> Metrics:
    """Read ``metrics/``; ``FileError`` names the stage whose file is missing."""
    folder = Path(folder)
    stages = ("tokenize", "train", "average", "compress", "baselines", "prove", "verify")
    values = {name: _Figures(folder / f"{name}.json", f"stage {name}") for name in stages}
    return Metrics(**values, scores={mode: _Figures(folder / f"evaluate_{mode}.json", _stage(mode)) for mode in MODES})


class _Figures(dict[str, Any]):
    """The figures of one file; one that is missing or no number is a ``FileError`` with the file and its stage."""

    def __init__(self, path: Path, made_by: str) -> None:
        super().__init__(read_json(path, made_by=made_by))
        self._path, self._made_by = path, made_by
        for key, value in self.items():
            if not isinstance(value, int | float) and not key.endswith(_TEXTS):
                raise FileError(f"{path}: {quoted(key)}: found {quoted(value)}, expected a number; re-run {made_by}")

    def __missing__(self, key: str) -> Any:
        raise FileError(f"{self._path}: no `{key}` in it; re-run {self._made_by}")


def _stage(mode: str) -> str:
    return "stage hedge" if mode == "hedge" else f"stage evaluate@{mode}"


def summary(metrics: Metrics) -> dict[str, float | int | str]:
    """The figures a reviewer wants side by side between two commits, one flat mapping."""
    flat: dict[str, float | int | str] = {
        "parameters": metrics.train["train_parameters"],
        "train_steps": metrics.train["train_steps"],
        "val_bytes": metrics.scores["roundtrip"]["bytes"],
        "xz_bits_per_byte": metrics.baselines["xz_bits_per_byte"],
    }
    for key in ("artifact_bytes", "decoder_bytes", "total_bytes", "limit_bytes"):
        flat[key] = metrics.compress[key]
    for mode in MODES:
        flat[f"{mode}_bits_per_byte"] = metrics.scores[mode][f"{mode}_bits_per_byte"]
    for key in ("prove_text_bytes", "prove_coded_bytes", "prove_bits_per_byte"):
        flat[key] = metrics.prove[key]
    for key in ("verify_pass_checks", "verify_fail_checks"):
        flat[key] = metrics.verify[key]
    return flat


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _score_rows(metrics: Metrics) -> list[list[str]]:
    first = metrics.scores["roundtrip"]
    rows = [["xz -9e on the same text", f"{metrics.baselines['xz_bits_per_byte']:.4f}", "", "", ""]]
    for mode, name in MODES.items():
        score = metrics.scores[mode]
        rows.append(
            [
                f"golf, {name}",
                f"{score[f'{mode}_bits_per_byte']:.4f}",
                f"{score[f'{mode}_nats_per_token']:.4f}",
                f"{score['tokens']:,}",
                f"{score[f'{mode}_seconds']:.1f}",
            ]
        )
    proof = metrics.prove
    if proof["prove_text_bytes"] == first["bytes"]:
        seconds = proof["prove_tokens"] / proof["prove_zip_tokens_per_second"]
        rows.append(["**golf, the file** (coded and decoded back)", f"**{proof['prove_bits_per_byte']:.4f}**", "",
                     f"{proof['prove_tokens']:,}", f"{seconds:.1f}"])  # fmt: skip
    return rows


def _mixture_rows(metrics: Metrics) -> list[list[str]]:
    base, hedge = metrics.scores["streaming"]["streaming_bits_per_byte"], metrics.scores["hedge"]
    rows = [["streaming, no mixture", f"{base:.4f}", ""]]
    for key, name in PARTS.items():
        score = hedge.get(f"{key}_bits_per_byte")
        if score is not None:
            rows.append([name, f"{score:.4f}", f"{base - score:+.4f}"])
    return rows


def _compressor_rows(metrics: Metrics, compressors: tuple[str, ...]) -> list[list[str]]:
    sizes = {name: metrics.baselines[f"{name}_bytes"] for name in ("raw", *compressors)}
    ours = metrics.compress["payload_bytes"]
    entropy = metrics.compress["order0_bytes"]
    rows = [["order-0 entropy per tensor", f"{entropy:,.0f}", "1.0000"]]
    rows.append(["**golf** (coded streams and their tables)", f"**{ours:,}**", f"**{ours / entropy:.4f}**"])
    names = {"raw": "fixed width", "zlib": "zlib -9", "zstd": "zstd -22", "xz": "xz -9e", "brotli": "brotli -11"}
    rows += [[names[name], f"{size:,}", f"{size / entropy:.4f}"] for name, size in sizes.items()]
    return rows


def _proof(metrics: Metrics) -> str:
    proof, checks = metrics.prove, metrics.verify
    return (
        f"Proved: {proof['prove_text_bytes']:,} bytes -> {proof['prove_coded_bytes']:,} bytes, decoded identical "
        f"({proof['prove_overhead_percent']:+.4f} % of the stated code length; "
        f"{proof['prove_zip_tokens_per_second']:,.0f} tokens/s coding, "
        f"{proof['prove_unzip_tokens_per_second']:,.0f} decoding). "
        f"Verified: {checks['verify_pass_checks']} checks passed, {checks['verify_fail_checks']} failed."
    )


def _proof_rows(metrics: Metrics) -> list[list[str]]:
    proof = metrics.prove
    names = {"xz": "xz -9e", "zstd": "zstd -22 --ultra", "bzip2": "bzip2 -9", "brotli": "brotli -11", "ppmd": "PPMd"}
    sizes = [("**golf**", proof["prove_coded_bytes"])]
    sizes += [(name, proof[f"prove_{key}_bytes"]) for key, name in names.items() if f"prove_{key}_bytes" in proof]
    sizes.append(("golf and the artifact itself", proof["prove_coded_bytes"] + proof["prove_artifact_bytes"]))
    return [[name, f"{size:,}", f"{8 * size / proof['prove_text_bytes']:.4f}"] for name, size in sizes]


def results_markdown(metrics: Metrics, *, compressors: tuple[str, ...]) -> str:
    """The results of one run as Markdown: scores, size, weights before quantization, compressors."""
    text, size, train = metrics.tokenize, metrics.compress, metrics.train
    parts = [
        "# Results of this run",
        f"Validation text: {text['val_documents']:,} documents, {text['val_bytes']:,} bytes, "
        f"{text['val_tokens']:,} tokens; disjoint from the training documents by hash. "
        f"Model: {train['train_parameters']:,} parameters, {train['train_steps']:,} steps, "
        f"{train['train_tokens']:,} training tokens.",
        _table(
            ["score (whole validation text)", "bits per byte", "nats per token", "targets", "seconds"],
            _score_rows(metrics),
        ),
        _proof(metrics),
        "## The online mixture, part by part (same logits as streaming)",
        _table(["mixture", "bits per byte", "gain"], _mixture_rows(metrics)),
        f"Whole rows at {metrics.scores['hedge']['hedge_sampled_rows']} targets: largest |sum - 1| "
        f"{metrics.scores['hedge']['hedge_max_sum_error']:.1e}. Counting and mixing took "
        f"{metrics.scores['hedge']['hedge_counting_seconds']:.1f} and "
        f"{metrics.scores['hedge']['hedge_mixing_seconds']:.1f} s.",
        "## The text of the proof, as files",
        _table(["compressor", "bytes", "bits per byte"], _proof_rows(metrics)),
        "## Size",
        _table(
            ["file", "bytes"],
            [
                ["artifact `artifacts/compress/model.golf`", f"{size['artifact_bytes']:,}"],
                ["shipped decoder `artifacts/compress/decoder.zip`", f"{size['decoder_bytes']:,}"],
                ["total", f"{size['total_bytes']:,}"],
                ["limit", f"{size['limit_bytes']:,}"],
            ],
        ),
        "## Weights on held-out training documents, before quantization",
        _table(["weights", "nats per token"], _average_rows(metrics)),
        "## The same integers under other compressors",
        _table(["compressor", "bytes", "/ order-0"], _compressor_rows(metrics, compressors)),
    ]
    return "\n\n".join(parts) + "\n"


def _average_rows(metrics: Metrics) -> list[list[str]]:
    names = (("raw", "raw, last step"), ("mean", "mean of the snapshots"), ("ema", "exponential moving average"))
    rows = []
    for key, name in names:
        value = metrics.average.get(f"heldout_{key}_nats_per_token")
        if value is not None:
            rows.append([name, f"{value:.4f}"])
    return rows
