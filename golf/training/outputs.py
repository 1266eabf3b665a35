"""The files that ``train`` leaves behind, written as one folder or not at all.

    snapshot_000.safetensors ...   weights at the snapshot steps, the last one after the last step
    final.safetensors              weights after the last step
    ema.safetensors                moving average (only with ``ema_decay`` > 0)
    history.tsv                    one row per history interval, ledger.json what happened

No file holds a wall-clock value: equal runs write equal bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from golf.files import atomic_directory, save_torch, write_json, write_text
from golf.training.checkpoint import CheckpointFolder
from golf.training.state import HISTORY_COLUMNS, TrainState

__all__ = ["history_tsv", "weights_meta", "write_outputs"]


def weights_meta(state: TrainState, base: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` (model config, vocabulary size, sequence length) with the place in the run of the present weights."""
    events = state.events
    place = {"step": events.step, "progress": events.progress, "lr_multiplier": events.last_multiplier}
    return {**base, **place}


def history_tsv(rows: list[list[float]]) -> str:
    """The history as tab-separated text; whole numbers without a point, others with all their digits."""
    lines = ["\t".join(HISTORY_COLUMNS)]
    lines += ["\t".join(str(int(v)) if float(v).is_integer() else repr(float(v)) for v in row) for row in rows]
    return "\n".join(lines) + "\n"


def write_outputs(
    folder: str | Path,
    state: TrainState,
    checkpoints: CheckpointFolder,
    ledger: Mapping[str, Any],
    base_meta: Mapping[str, Any],
) -> None:
    """Write all files of a finished run into ``folder``, replacing what was there."""
    meta = weights_meta(state, base_meta)
    with atomic_directory(folder) as temporary:
        for index in range(len(state.events.snapshot_steps)):
            source = checkpoints.snapshot_path(index)
            shutil.copyfile(source, temporary / source.name)
        save_torch(temporary / "final.safetensors", state.weights, meta)
        if state.ema:
            save_torch(temporary / "ema.safetensors", state.ema, meta)
        write_text(temporary / "history.tsv", history_tsv(state.events.history))
        write_json(temporary / "ledger.json", ledger)
