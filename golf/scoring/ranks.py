"""The processes that score one text together (torchrun: one per device), or this one alone.

Work is dealt out in whole forward passes, whose composition does not depend on who runs them: pass k belongs to rank
``k mod world``. Nats come back either as arrays that are zero wherever another rank scored, so that their sum is
exact in any order, or as hidden states that rank 0 scores in reading order. So a score is the same to the last digit
for every number of processes. (openai/parameter-golf #808 keeps one n-gram table per rank: 0.64 against 0.87 bits.)

Shapes: n targets, R rows, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from golf.processes import process_group
from golf.progress import bar

if TYPE_CHECKING:
    import torch

__all__ = ["ALONE", "Ranks", "joined"]


@dataclass(frozen=True)
class Ranks:
    """``rank`` of ``world`` processes; with ``world > 1`` ``torch.distributed`` must be initialised."""

    rank: int = 0
    world: int = 1

    def mine(self, count: int) -> range:
        """Numbers of the passes, of ``count``, that this rank runs."""
        return range(self.rank, count, self.world)

    def streams(self, segments: int, most: int) -> int:
        """Segments in one streaming pass: ``most``, or fewer where that would leave ranks without work."""
        return max(1, min(most, -(-segments // self.world)))

    def sum(self, array: np.ndarray, device: torch.device) -> np.ndarray:
        """The sum over all ranks of arrays of one shape; exact where at most one rank is not zero."""
        if self.world == 1:
            return array
        import torch

        total = torch.from_numpy(array.copy()).to(device)
        torch.distributed.all_reduce(total)
        return np.asarray(total.cpu().numpy())

    def send(self, block: torch.Tensor) -> Any:
        """Begin to hand ``block`` (R, D) to rank 0; ``wait()`` on what is returned before the next one."""
        import torch

        return torch.distributed.isend(block.contiguous(), 0)

    def receive(self, like: torch.Tensor, rows: int, source: int) -> torch.Tensor:
        """The next block (R, D) of ``rows`` rows that rank ``source`` sends, of the width and dtype of ``like``."""
        import torch

        block = like.new_empty(rows, like.shape[1])
        torch.distributed.recv(block, source)
        return block

    @contextlib.contextmanager
    def shown(self, what: str, total: int) -> Iterator[Any]:
        """A progress bar in tokens on rank 0, nothing elsewhere."""
        if self.rank:
            yield _Quiet()
        else:
            with bar(what=what, total=total, unit="tok") as shown:
                yield shown


class _Quiet:
    def update(self, count: int) -> None:
        """Nobody watches."""


ALONE = Ranks()


@contextlib.contextmanager
def joined(rank: int, world: int, device: torch.device) -> Iterator[Ranks]:
    """The ranks of a torchrun launch, or this process alone; at the end each waits for all."""
    if world == 1:
        yield ALONE
        return
    import torch

    with process_group(rank, world, device):
        yield Ranks(rank, world)
        torch.distributed.barrier()
