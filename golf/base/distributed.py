"""The processes that train or score together (torchrun: one per device), or this one alone.

Source of rank and device: torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK), handed in by the stage.

Decisions of training (progress, stop) are taken on rank 0 and broadcast, so that ranks never disagree on depth or on
the last step (the deadlock of parameter-golf PR #835's first runs). They travel between the hosts' memories (gloo),
also where gradients travel between GPUs (NCCL): a decision never waits for the work queued on a GPU.

Scoring deals out whole forward passes, whose composition does not depend on who runs them: pass k belongs to rank
``k mod world``. Nats come back either as arrays that are zero wherever another rank scored, so that their sum is
exact in any order, or as hidden states that rank 0 scores in reading order. So a score is the same to the last digit
for every number of processes. (openai/parameter-golf #808 keeps one n-gram table per rank: 0.64 against 0.87 bits.)

Shapes: n targets, R rows, D width.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from golf.base.errors import GolfError
from golf.base.main import environment_number
from golf.base.progress import bar

if TYPE_CHECKING:  # torch costs 1.4 s to import
    import torch

__all__ = [
    "ALONE", "HOURS", "PeerLostError", "Place", "Ranks", "ReplicaError", "gpus_to_share", "joined", "place", "torchrun",
    "usable_cores",
]  # fmt: skip

_PROBLEM_BYTES = 512  # of what one process tells the others
HOURS = timedelta(hours=24)  # ranks of a score finish hours apart


class PeerLostError(GolfError):
    """Another process of the group ended too early."""


class ReplicaError(GolfError):
    """Processes that must hold the same weights do not."""


class Place(NamedTuple):
    """``rank`` of ``world`` processes and the name of its ``device`` (``cpu``, ``cuda``, ``cuda:1``)."""

    rank: int
    world: int
    device: str


def place(environment: Mapping[str, str]) -> Place:
    """This process's place; without torchrun rank 0 of 1. ``GOLF_DEVICE`` (cpu, cuda) chooses, else a GPU if any.

    Raises ``GolfError`` naming the variable for a value that cannot be.
    """
    import torch

    world = environment_number(environment, "WORLD_SIZE", 1)
    rank = environment_number(environment, "RANK", 0, least=0)
    if rank >= world:
        raise GolfError(f"environment variables RANK, WORLD_SIZE: found {rank}, {world}, expected the first below")
    for variable in ("MASTER_ADDR", "MASTER_PORT") if world > 1 else ():
        if not environment.get(variable):
            raise GolfError(f"environment variable {variable}: found none for {world} processes; use torchrun")
    count = torch.cuda.device_count()
    device = environment.get("GOLF_DEVICE") or ("cuda" if count else "cpu")
    if device == "cuda" and world > 1:
        device = f"cuda:{environment_number(environment, 'LOCAL_RANK', 0, least=0)}"
    if device not in ("cpu", *["cuda"] * (count > 0), *(f"cuda:{index}" for index in range(count))):
        gpus = f"cuda, cuda:0 to cuda:{count - 1}" if count else "no GPU is to be seen here"
        raise GolfError(f"environment variable GOLF_DEVICE: found {device[:40]!r}, expected cpu ({gpus})")
    return Place(rank, world, device)


def gpus_to_share(environment: Mapping[str, str]) -> int:
    """How many GPUs this process sees and may share work over: 0 under torchrun, where GOLF_DEVICE names another
    device, or where there is one alone."""
    if "RANK" in environment or (environment.get("GOLF_DEVICE") or "cuda") != "cuda":
        return 0
    import torch

    devices = torch.cuda.device_count()
    return devices if devices > 1 else 0


def torchrun(options: str, module: str) -> list[str]:
    """Arguments of Python that start ``module`` under torchrun."""
    return ["-m", "torch.distributed.run", *shlex.split(options), "-m", module]


def usable_cores() -> int:
    """Cores that this process may use: those of its affinity where the system has one (macOS has none), else all."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


@dataclass(frozen=True)
class Ranks:
    """``rank`` of ``world`` processes; with ``world > 1`` ``torch.distributed`` must be initialized."""

    rank: int = 0
    world: int = 1
    hosts: Any = None  # process group of the hosts' memories; None: the default group is one

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean of a scalar tensor over the processes."""
        if self.world == 1:
            return value
        import torch

        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return total / self.world

    def decide(self, values: Sequence[float]) -> list[float]:
        """Rank 0's ``values`` on every process."""
        if self.world == 1:
            return list(values)
        import torch

        shared = torch.tensor(values, dtype=torch.float64)
        torch.distributed.broadcast(shared, src=0, group=self.hosts)
        return [float(value) for value in shared.tolist()]

    def first_problem(self, problem: str | None) -> str | None:
        """On every process the ``problem`` of the first one that has any, which it names; ``None`` where all have none.

        Every process must call it.
        """
        if self.world == 1:
            return problem
        import torch

        own = torch.zeros(_PROBLEM_BYTES, dtype=torch.uint8)
        text = (problem or "").encode()[:_PROBLEM_BYTES]
        own[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else own[:0]
        found = [torch.zeros_like(own) for _ in range(self.world)]
        torch.distributed.all_gather(found, own, group=self.hosts)
        told = [bytes(each.tolist()).rstrip(b"\0").decode(errors="replace") for each in found]
        return next((f"process {rank} of {self.world}: {text}" for rank, text in enumerate(told) if text), None)

    def share_hex(self, text: str) -> str:
        """Rank 0's hexadecimal ``text`` (of equal length everywhere) on every process."""
        return bytes(int(value) for value in self.decide(list(bytes.fromhex(text)))).hex()

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give ``tensors`` the values that rank 0's have."""
        import torch

        for tensor in tensors if self.world > 1 else ():
            torch.distributed.broadcast(tensor, src=0)

    def check_equal(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Raise ``ReplicaError`` on every rank unless the float32 ``tensors`` have the same checksums everywhere."""
        import torch

        if self.world == 1:
            return
        tensors = {name: tensor.detach() for name, tensor in tensors.items() if tensor.dtype == torch.float32}
        sums = torch.stack([tensor.view(torch.int32).sum(dtype=torch.int64) for tensor in tensors.values()])
        extremes = torch.stack([sums, -sums])
        torch.distributed.all_reduce(extremes, op=torch.distributed.ReduceOp.MAX)
        apart = (extremes[0] != -extremes[1]).tolist()
        names = [name for name, differs in zip(tensors, apart, strict=True) if differs]
        if names:
            raise ReplicaError(
                f"the {self.world} processes hold different weights in {len(names)} tensors (first `{names[0]}`); look "
                "for a faulty device, then run again to continue from the last checkpoint"
            )

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

    def shown(self, what: str, total: int) -> Any:
        """A progress bar in tokens (a context manager); rank 0 alone shows it."""
        return bar(what=what, total=total, unit="tok", quiet=self.rank > 0)


ALONE = Ranks()


@contextmanager
def joined(
    rank: int, world: int, device: torch.device, *, patience: timedelta = timedelta(minutes=10)
) -> Iterator[Ranks]:
    """The ranks of a torchrun launch (NCCL on GPUs, gloo on CPUs), or this process alone; all leave together.

    ``patience`` is how long a message may take before its partner counts as lost. Raises ``PeerLostError`` when a
    collective fails because another process is gone.
    """
    if world == 1:
        yield ALONE
        return
    import torch
    from torch import distributed as dist

    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=world, timeout=patience)
    try:
        yield Ranks(rank, world, dist.new_group(backend="gloo", timeout=patience) if cuda else None)
        dist.barrier()
    except RuntimeError as error:  # gloo and NCCL raise plain ones with these words
        words = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
        if not isinstance(error, dist.DistError) and not any(word in str(error).lower() for word in words):
            raise
        raise PeerLostError(
            f"process {rank} of {world} lost another one, whose message (or signal) says why; the last checkpoint "
            "of a training is whole, run again to continue"
        ) from error
    finally:
        dist.destroy_process_group()
