"""The processes that train together (one per device), or a single one.

Gradients are averaged, decisions (progress, stop) are taken on rank 0 and broadcast, so that ranks never disagree on
depth or on the last step (the deadlock of parameter-golf PR #835's first runs).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

__all__ = ["Group", "joined_group"]


@dataclass(frozen=True)
class Group:
    """``rank`` of ``world`` processes; with ``world > 1`` ``torch.distributed`` must be initialised."""

    rank: int = 0
    world: int = 1

    def mean_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes, in one flat all-reduce."""
        if self.world == 1:
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        torch.distributed.all_reduce(flat)
        flat /= self.world
        for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(mean.view_as(grad))

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean of a scalar tensor over the processes."""
        if self.world == 1:
            return value
        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return total / self.world

    def decide(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Rank 0's ``values`` on every process."""
        if self.world == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64, device=device)
        torch.distributed.broadcast(shared, src=0)
        return [float(value) for value in shared.tolist()]

    def share_hex(self, text: str, device: torch.device) -> str:
        """Rank 0's hexadecimal ``text`` (of equal length everywhere) on every process."""
        return bytes(int(value) for value in self.decide(list(bytes.fromhex(text)), device)).hex()

    def barrier(self) -> None:
        """Wait for every process."""
        if self.world > 1:
            torch.distributed.barrier()


@contextmanager
def joined_group(rank: int, world: int, device: torch.device) -> Iterator[Group]:
    """The group of a torchrun launch (rendezvous from its environment): NCCL on GPUs, gloo on CPUs; left at the end."""
    if world == 1:
        yield Group()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=world)
    try:
        yield Group(rank, world)
    finally:
        torch.distributed.destroy_process_group()
