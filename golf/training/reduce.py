"""The mean of the gradients over processes, in buckets that travel while backward still computes the rest.

Buckets go in reverse order of the parameters, about the order in which backward finishes them. One is sent as soon as
its last gradient is there and all buckets before it have been sent, so that every process sends the same ones in the
same order; what a graph compiled as a whole hands over at its end, and gradients that a shallow depth does not have,
go when ``finish`` is called. The copy back of one bucket overlaps the transfer of the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from golf.base.distributed import Ranks

__all__ = ["BUCKET_BYTES", "GradientMean"]

BUCKET_BYTES = 8 << 20  # of float32 gradients in one message; smaller ones pay latency, larger ones overlap less


class GradientMean:
    """Averages the gradients of ``parameters`` over ``group``; a group of one process sends nothing."""

    def __init__(self, parameters: Sequence[nn.Parameter], group: Ranks, *, bucket_bytes: int = BUCKET_BYTES) -> None:
        self.group = group
        self.buckets = _buckets(parameters, bucket_bytes) if group.world > 1 else []
        self._missing = [len(bucket) for bucket in self.buckets]  # gradients that a bucket still waits for
        self._sent: list[tuple[Tensor, Any]] = []  # flat gradients and the handle of their transfer
        self._armed = False
        for index, bucket in enumerate(self.buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(self._counter(index))

    def _counter(self, index: int) -> Any:
        def ready(parameter: Tensor) -> None:
            if self._armed:
                self._missing[index] -= 1
                while len(self._sent) < len(self.buckets) and self._missing[len(self._sent)] == 0:
                    self._send()

        return ready

    @contextmanager
    def overlapped(self) -> Iterator[None]:
        """Around the backward pass that completes the gradients: full buckets are sent from inside it."""
        self._missing, self._sent, self._armed = [len(bucket) for bucket in self.buckets], [], True
        try:
            yield
        finally:
            self._armed = False

    def _send(self) -> None:
        grads = [parameter.grad for parameter in self.buckets[len(self._sent)] if parameter.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        self._sent.append((flat, torch.distributed.all_reduce(flat, async_op=True)))

    def finish(self) -> None:
        """Send the rest, wait, and replace every gradient by its mean. Every parameter must have a gradient."""
        while len(self._sent) < len(self.buckets):
            self._send()
        for bucket, (flat, handle) in zip(self.buckets, self._sent, strict=True):
            handle.wait()
            flat /= self.group.world
            for parameter, mean in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                assert parameter.grad is not None
                parameter.grad.copy_(mean.view_as(parameter))
        self._sent = []


def _buckets(parameters: Sequence[nn.Parameter], max_bytes: int) -> list[list[nn.Parameter]]:
    """``parameters`` from the last to the first in groups of ``max_bytes`` of float32 at most (or of one)."""
    buckets: list[list[nn.Parameter]] = []
    size = 0
    for parameter in reversed(parameters):
        size += 4 * parameter.numel()
        if not buckets or size > max_bytes:
            buckets.append([])
            size = 4 * parameter.numel()
        buckets[-1].append(parameter)
    return buckets
