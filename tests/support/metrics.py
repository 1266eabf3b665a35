"""The metrics of a run that never was."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["write_metrics"]


def write_metrics(folder: Path) -> Path:
    """Make ``folder`` and write into it what the report reads."""
    folder.mkdir()
    sizes = {"payload_bytes": 1001, "order0_bytes": 1000}
    total = {"artifact_bytes": 1200, "decoder_bytes": 300, "total_bytes": 1500, "limit_bytes": 16_000_000}
    sections = {f"section_{name}_bytes": 50 for name in ("tokenizer", "index", "prefix")}
    values = {
        "tokenize": {"val_documents": 7, "val_bytes": 5000, "val_tokens": 2100},
        "train": {"train_parameters": 1_600_000, "train_steps": 600, "train_tokens": 2_457_600},
        "average": {"heldout_raw_nats_per_token": 3.5, "heldout_mean_nats_per_token": 3.4},
        "quantize": {},
        "prove": {
            "prove_text_bytes": 5000,
            "prove_coded_bytes": 1000,
            "prove_tokens": 2100,
            "prove_bits_per_byte": 1.6,
            "prove_artifact_bytes": 1200,
            "prove_overhead_percent": 0.0123,
            "prove_zip_tokens_per_second": 500.0,
            "prove_unzip_tokens_per_second": 480.0,
            "prove_xz_bytes": 1400,
        },
        "verify": {"verify_pass_checks": 30, "verify_fail_checks": 0},
        "compress": {**sizes, **total, **sections},
        "baselines": {"raw_bytes": 1500, "zlib_bytes": 1400, "xz_bytes": 1300, "xz_bits_per_byte": 2.61234},
    }
    for mode, score in (("roundtrip", 2.3), ("sliding", 2.2), ("streaming", 2.2), ("hedge", 2.1)):
        values[f"evaluate_{mode}"] = {
            f"{mode}_bits_per_byte": score,
            f"{mode}_nats_per_token": score * 1.7,
            f"{mode}_seconds": 12.0,
            "tokens": 2099,
            "bytes": 5000,
        }
    sums = {"hedge_max_sum_error": 1e-15, "hedge_counting_seconds": 0.5, "hedge_mixing_seconds": 0.25}
    values["evaluate_hedge"] |= {"hedge_simple_bits_per_byte": 2.15, "hedge_sampled_rows": 64, **sums}
    for name, value in values.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder
