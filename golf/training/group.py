"""The processes that train together (one per device), or a single one.

Decisions (progress, stop) are taken on rank 0 and broadcast, so that ranks never disagree on depth or on the last step
(the deadlock of parameter-golf PR #835's first runs). They travel between the hosts' memories (gloo), also where
gradients travel between GPUs (NCCL): a decision never waits for the work queued on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from golf.errors import GolfError
from golf.processes import process_group

__all__ = ["Group", "PeerLostError", "joined_group"]


class PeerLostError(GolfError):
    """Another process of the group ended before training did."""


@dataclass(frozen=True)
class Group:
    """``rank`` of ``world`` processes; with ``world > 1`` ``torch.distributed`` must be initialised."""

    rank: int = 0
    world: int = 1
    hosts: Any = None  # process group of the hosts' memories; None: the default group is one

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean of a scalar tensor over the processes."""
        if self.world == 1:
            return value
        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return total / self.world

    def decide(self, values: Sequence[float]) -> list[float]:
        """Rank 0's ``values`` on every process."""
        if self.world == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        torch.distributed.broadcast(shared, src=0, group=self.hosts)
        return [float(value) for value in shared.tolist()]

    def share_hex(self, text: str) -> str:
        """Rank 0's hexadecimal ``text`` (of equal length everywhere) on every process."""
        return bytes(int(value) for value in self.decide(list(bytes.fromhex(text)))).hex()

    def barrier(self) -> None:
        """Wait for every process."""
        if self.world > 1:
            torch.distributed.barrier()


@contextmanager
def joined_group(rank: int, world: int, device: torch.device) -> Iterator[Group]:
    """The group of a torchrun launch, or this process alone.

    Raises ``PeerLostError`` when a collective fails because another process is gone.
    """
    if world == 1:
        yield Group()
        return
    with process_group(rank, world, device):
        try:
            yield Group(rank, world, torch.distributed.new_group(backend="gloo") if device.type == "cuda" else None)
        except RuntimeError as error:
            if not _lost_peer(error):
                raise
            raise PeerLostError(
                f"process {rank} of {world} lost another one, whose message (or signal) says why; the last checkpoint "
                "is whole, run again to continue"
            ) from error


def _lost_peer(error: RuntimeError) -> bool:
    """Whether a collective failed for want of a partner; gloo and NCCL raise plain errors with these words."""
    if isinstance(error, torch.distributed.DistError):
        return True
    text = str(error).lower()
    return any(word in text for word in ("gloo", "nccl", "connection closed by peer", "connection reset by peer"))
