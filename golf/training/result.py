"""What a finished training run hands back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from golf.training.state import TrainState

__all__ = ["TrainResult"]


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
            f"{max(events.fake_quantisations.values(), default=0)} QAT updates; "
            f"gradient clipped in {self.ledger['clipped_steps']} steps; {moved} tensors moved",
        ]
