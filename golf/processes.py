"""Where a process runs: its rank, how many there are and on which device; and the group they form.

Source: torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK), handed in by the stage; the library reads none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

__all__ = ["Place", "place", "process_group"]


class Place(NamedTuple):
    """``rank`` of ``world`` processes and the name of its ``device`` (``cpu``, ``cuda``, ``cuda:1``)."""

    rank: int
    world: int
    device: str


def place(environment: Mapping[str, str]) -> Place:
    """This process's place; without torchrun rank 0 of 1. ``GOLF_DEVICE`` (cpu, cuda) chooses, else a GPU if any."""
    import torch

    rank, world = int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1"))
    device = environment.get("GOLF_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and world > 1:
        device = f"cuda:{environment.get('LOCAL_RANK', '0')}"
    return Place(rank, world, device)


@contextlib.contextmanager
def process_group(rank: int, world: int, device: torch.device) -> Iterator[None]:
    """Join the default group (rendezvous from torchrun's environment): NCCL on GPUs, gloo on CPUs; left at the end."""
    import torch

    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=world)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
