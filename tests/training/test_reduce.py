"""Gradients averaged over processes: the mean, the order of the messages, and that they leave inside backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from golf.base.distributed import Ranks
from golf.training.reduce import GradientMean


class Wire:
    """Stands for a group of two processes of which the other has gradients of 3 everywhere."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def all_reduce(self, flat: torch.Tensor, *, async_op: bool) -> Any:
        assert async_op
        number = sum(event.startswith("send") for event in self.events)
        self.events.append(f"send {number} of {flat.numel()}")
        wire = self

        class Handle:
            def wait(self) -> None:
                wire.events.append(f"wait {number}")
                flat.add_(3.0)

        return Handle()


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire = Wire()
    monkeypatch.setattr(torch.distributed, "all_reduce", wire.all_reduce)
    return wire


def layers() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(5, 5, generator=generator)) for _ in range(3)]


def loss(matrices: list[nn.Parameter]) -> torch.Tensor:
    x = torch.ones(2, 5)
    for matrix in (*matrices, matrices[1]):  # the second is used twice, as blocks of a recurrent model are
        x = torch.tanh(x @ matrix)
    return x.square().sum()


def test_buckets_leave_in_order_inside_backward_and_come_back_as_the_mean(wire: Wire) -> None:
    matrices = layers()
    want = [grad / 2 + 1.5 for grad in torch.autograd.grad(loss(matrices), matrices)]
    mean = GradientMean(matrices, Ranks(0, 2), bucket_bytes=100)
    with mean.overlapped():
        value = loss(matrices)
        assert wire.events == []
        value.backward()
    assert wire.events == ["send 0 of 25", "send 1 of 25", "send 2 of 25"]
    mean.finish()
    assert wire.events[3:] == ["wait 0", "wait 1", "wait 2"]
    for matrix, grad in zip(matrices, want, strict=True):
        torch.testing.assert_close(matrix.grad, grad)


def test_a_gradient_that_backward_does_not_make_holds_back_its_bucket_and_those_behind(wire: Wire) -> None:
    matrices = [*layers(), nn.Parameter(torch.ones(7))]  # the last is unused, as depth tables are at a shallow depth
    mean = GradientMean(matrices, Ranks(0, 2), bucket_bytes=100)
    with mean.overlapped():
        loss(matrices[:3]).backward()
    assert wire.events == []
    matrices[3].grad = torch.zeros(7)
    mean.finish()
    assert wire.events[:4] == ["send 0 of 7", "send 1 of 25", "send 2 of 25", "send 3 of 25"]
    torch.testing.assert_close(matrices[3].grad, torch.full((7,), 1.5))


def test_small_tensors_share_a_bucket_and_accumulation_sends_once(wire: Wire) -> None:
    matrices = layers()
    mean = GradientMean(matrices, Ranks(0, 2))
    loss(matrices).backward()
    assert wire.events == [], "only the pass that completes the gradients sends them"
    with mean.overlapped():
        loss(matrices).backward()
    mean.finish()
    assert wire.events == ["send 0 of 75", "wait 0"]
    want = [grad + 1.5 for grad in torch.autograd.grad(loss(matrices), matrices)]
    for matrix, grad in zip(matrices, want, strict=True):
        torch.testing.assert_close(matrix.grad, grad)


def test_hooks_change_no_graph_of_torch_compile(wire: Wire) -> None:
    torch.compiler.reset()
    matrices, graphs = layers(), list[int]()

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(1)
        return graph.forward

    mean = GradientMean(matrices, Ranks(0, 2))
    compiled = torch.compile(lambda: loss(matrices), backend=counting, fullgraph=True, dynamic=False)
    for _ in range(3):
        with mean.overlapped():
            compiled().backward()
        mean.finish()
    assert len(graphs) == 1 and wire.events == [f"{what} {i}" + suffix for i in range(3) for what, suffix in
                                                (("send", " of 75"), ("wait", ""))]  # fmt: skip


def test_one_process_sends_nothing(wire: Wire) -> None:
    matrices = layers()
    mean = GradientMean(matrices, Ranks())
    with mean.overlapped():
        loss(matrices).backward()
    before = [matrix.grad.clone() for matrix in matrices if matrix.grad is not None]
    mean.finish()
    assert wire.events == [] and all(torch.equal(a, m.grad) for a, m in zip(before, matrices, strict=True))
