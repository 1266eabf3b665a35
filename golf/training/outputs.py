"""What a finished run hands back, and the files that it leaves behind, written as one folder or not at all.

    snapshot_000.safetensors ...   weights at the snapshot steps, the last one after the last step
    final.safetensors              weights after the last step
    ema.safetensors                moving average (only with ``ema_decay`` > 0)
    history.tsv                    one row per history interval, ledger.json what happened

No file holds a wall-clock value: equal runs write equal bytes.

DVCLive is an optional place for the run's curves; the run log and the history file need none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.base.errors import GolfError
from golf.base.files import atomic_directory, save_torch, write_json, write_text
from golf.training.checkpoint import CheckpointFolder
from golf.training.ledger import HISTORY_COLUMNS, TrainState

__all__ = ["Sink", "TrainResult", "history_tsv", "live_sink", "weights_meta", "write_outputs"]


@dataclass(frozen=True)
class TrainResult:
    """A finished run."""

    state: TrainState
    ledger: dict[str, Any]
    final_loss: float  # nats per token on the batches of the last 2 % of the history rows
    parameters: int  # trainable values

    def metrics(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Flat numbers for JSON: those that equal runs share, and those of the clock."""
        events = self.state.events
        same = {
            "train_loss_nats_per_token": self.final_loss,
            "train_steps": events.step,
            "train_tokens": events.tokens,
            "train_snapshots": len(events.snapshot_steps),
            "train_parameters": self.parameters,
        }
        clock: dict[str, Any] = {"train_seconds": events.elapsed}
        clock["train_tokens_per_second"] = events.tokens / max(1e-9, events.elapsed)
        for index, ((_, depth), seconds) in enumerate(zip(events.phases, events.phase_seconds, strict=True)):
            clock[f"train_phase_{index}_depth_{depth}_seconds"] = seconds
        return same, clock

    def summary(self) -> list[str]:
        """What happened, in words."""
        events = self.state.events
        phases = ", ".join(
            f"depth {depth} from step {first} ({seconds:.0f} s)"
            for (first, depth), seconds in zip(events.phases, events.phase_seconds, strict=True)
        )
        moved = sum(distance > 0 for distance in self.ledger["distance_from_initial"].values())
        return [
            f"trained {events.step} steps, {events.tokens:,} tokens in {events.elapsed:.0f} s: "
            f"{self.final_loss:.4f} nats/token",
            f"  {phases}",
            f"  warmdown from step {events.warmdown_start}, last multiplier {events.last_multiplier:.4f}; "
            f"{len(events.snapshot_steps)} snapshots; {events.ema_updates} EMA updates; "
            f"{max(events.fake_quantizations.values(), default=0)} QAT updates; "
            f"gradient clipped in {self.ledger['clipped_steps']} steps; {moved} tensors moved",
        ]


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
    """Write all files of a finished run into ``folder``, replacing what was there. Raises ``CheckpointError``."""
    meta = weights_meta(state, base_meta)
    with atomic_directory(folder) as temporary:
        checkpoints.copy_snapshots(temporary)
        save_torch(temporary / "final.safetensors", state.weights, meta)
        if state.ema:
            save_torch(temporary / "ema.safetensors", state.ema, meta)
        write_text(temporary / "history.tsv", history_tsv(state.events.history))
        write_json(temporary / "ledger.json", ledger)


Sink = Callable[[int, Mapping[str, float]], None]


def _nothing(step: int, values: Mapping[str, float]) -> None:
    """Where points go when nobody collects them."""


@contextmanager
def live_sink(folder: str | Path, *, enabled: bool) -> Iterator[Sink]:
    """A function ``(step, values)`` that logs a point into DVCLive's ``folder``; one that does nothing when disabled.

    A resumed run appends to the folder. Raises ``ValueError`` when DVCLive is expected and not installed.
    """
    if not enabled:
        yield _nothing
        return
    try:
        from dvclive import Live
    except ModuleNotFoundError as error:
        raise GolfError("train.live is true, but dvclive is not installed; install it or set live to false") from error

    with Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None, resume=Path(folder).exists()) as live:

        def point(step: int, values: Mapping[str, float]) -> None:
            live.step = step
            for name, value in values.items():
                live.log_metric(name, value)
            live.sync()

        yield point
