"""Muon against a naive per-matrix reference, Newton-Schulz bands, and the sharded form on two gloo processes."""

from __future__ import annotations

import copy
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from golf.training.muon import Muon, coefficient_schedule, normalize_rows, orthogonalize, shape_factor

SHAPES = [(16, 16), (8, 16), (16, 16), (32, 16), (16, 32), (8, 16), (24, 16)]


def _naive_orthogonalize(u: Tensor, kind: str, steps: int) -> Tensor:
    tall = u.size(0) > u.size(1)
    x = u.T if tall else u
    x = x / (x.norm() * (1.01 if kind == "polar_express" else 1.0) + 1e-7)
    for a, b, c in coefficient_schedule(kind, steps):  # type: ignore[arg-type]
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def _naive_step(p: Tensor, g: Tensor, m: Tensor, lr: float, mu: float, decay: float, kind: str, rows: bool) -> None:
    m.mul_(mu).add_(g)
    u = g + mu * m
    if rows:
        u = torch.stack([row / max(float(row.norm()), 1e-7) for row in u])
    u = _naive_orthogonalize(u, kind, 5) * max(1.0, p.size(0) / p.size(1)) ** 0.5
    p.mul_(1 - lr * decay).sub_(lr * u)


def _parameters(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in SHAPES]


def _set_gradients(parameters: list[Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("kind", ["quintic", "polar_express"])
@pytest.mark.parametrize("row_norm", [False, True])
def test_batched_muon_equals_the_naive_rule_for_each_matrix(kind: str, row_norm: bool) -> None:
    fast = _parameters()
    slow = [p.detach().clone() for p in fast]
    buffers = [torch.zeros_like(p) for p in slow]
    muon = Muon(fast, lr=0.1, momentum=0.85, weight_decay=0.5, coefficients=kind, row_norm=row_norm)  # type: ignore[arg-type]
    for step, momentum in enumerate((0.85, 0.9, 0.95)):
        _set_gradients(fast, step)
        for group in muon.param_groups:
            group["lr"], group["momentum"] = 0.1 / (step + 1), momentum
        muon.step()
        for p, f, m in zip(slow, fast, buffers, strict=True):
            assert f.grad is not None
            _naive_step(p, f.grad, m, 0.1 / (step + 1), momentum, 0.5, kind, row_norm)
    for p, f in zip(slow, fast, strict=True):
        torch.testing.assert_close(f.detach(), p, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "low", "high"), [("quintic", 0.66, 1.22), ("polar_express", 0.86, 1.14)])
def test_singular_values_end_in_the_band(kind: str, low: float, high: float, precision: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(5, 32, 48, generator=generator), full_matrices=False)
    matrices = (left * torch.logspace(0, -1.5, 32)) @ right
    out = orthogonalize(matrices.to(precision), kind=kind)  # type: ignore[arg-type]
    assert out.dtype == precision
    values = torch.linalg.svdvals(out.float())
    assert low < float(values.min()) and float(values.max()) < high


def test_polar_express_is_closer_to_orthogonal_than_quintic() -> None:
    matrices = torch.randn(4, 24, 96, generator=torch.Generator().manual_seed(1))
    errors = {}
    for kind in ("quintic", "polar_express"):
        values = torch.linalg.svdvals(orthogonalize(matrices, kind=kind))  # type: ignore[arg-type]
        errors[kind] = float((values - 1).square().mean())
    assert errors["polar_express"] < errors["quintic"]


def test_the_published_five_polynomials_have_their_published_response() -> None:
    # PR #1855: what is left of a singular value s, of a matrix already divided by its norm, after 5 steps
    published = {1e-4: 0.0988, 0.001: 0.8589, 0.01: 1.0271, 0.1: 1.0592, 0.5: 0.9106, 1.0: 0.8591}
    for s, response in published.items():
        for a, b, c in coefficient_schedule("polar_express_5", 5):
            s = a * s + b * s**3 + c * s**5
        assert s == pytest.approx(response, abs=1e-4)
    assert coefficient_schedule("polar_express_5", 7)[4:] == coefficient_schedule("polar_express_5", 5)[4:] * 3
    one = torch.ones(1, 1, 1)
    assert float(orthogonalize(one, kind="polar_express_5")) == pytest.approx(0.8591, abs=1e-4)


def test_long_polar_express_schedules_converge_to_the_polar_factor() -> None:
    matrix = torch.randn(1, 12, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    left, _, right = torch.linalg.svd(matrix[0], full_matrices=False)
    torch.testing.assert_close(orthogonalize(matrix, kind="polar_express", steps=12)[0], left @ right)


def test_orthogonalize_ignores_scale_and_commutes_with_transposition() -> None:
    matrices = torch.randn(2, 10, 30, generator=torch.Generator().manual_seed(3))
    out = orthogonalize(matrices)
    torch.testing.assert_close(orthogonalize(matrices * 1000), out, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(orthogonalize(matrices.mT).mT, out)
    assert torch.equal(orthogonalize(torch.zeros(1, 4, 8)), torch.zeros(1, 4, 8))


def test_shape_factor_and_row_norms() -> None:
    assert shape_factor(1664, 832) == pytest.approx(2**0.5)
    assert shape_factor(416, 832) == shape_factor(832, 832) == 1.0
    rows = normalize_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert torch.equal(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_weight_decay_uses_the_current_learning_rate_and_skips_parameters_without_gradient() -> None:
    moved, still = torch.ones(4, 4).requires_grad_(), torch.ones(4, 4).requires_grad_()
    muon = Muon([moved, still], lr=1.0, weight_decay=0.5)
    muon.param_groups[0]["lr"] = 0.1
    moved.grad = torch.zeros(4, 4)
    muon.step()
    torch.testing.assert_close(moved.detach(), torch.full((4, 4), 0.95))
    assert torch.equal(still.detach(), torch.ones(4, 4))


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"found a parameter of shape \(3,\), expected a matrix"):
        Muon([torch.zeros(3, requires_grad=True)], lr=0.1)
    with pytest.raises(ValueError, match="found 'cubic', expected one of quintic, polar_express"):
        Muon([torch.zeros(3, 3, requires_grad=True)], lr=0.1, coefficients="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps: found 0"):
        coefficient_schedule("quintic", 0)


def _train(world: int, rank: int, precision: torch.dtype) -> list[Tensor]:
    parameters = _parameters()
    muon = Muon(parameters, lr=0.1, weight_decay=0.1, precision=precision, rank=rank, world=world)
    for step in range(2):
        _set_gradients(parameters, step)
        muon.step()
    return [p.detach().clone() for p in parameters]


def _worker(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    results = {str(kind): _train(2, rank, kind) for kind in (torch.float32, torch.bfloat16)}
    for kind, tensors in results.items():
        Path(folder, f"{kind}.{rank}").write_bytes(b"".join(t.numpy().tobytes() for t in tensors))
    torch.distributed.destroy_process_group()


def test_two_ranks_give_the_weights_of_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(_worker, args=(port, str(tmp_path)), nprocs=2, start_method="fork")  # spawn imports torch anew
    for kind, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        blobs = [Path(tmp_path, f"{kind}.{rank}").read_bytes() for rank in range(2)]
        assert blobs[0] == blobs[1]
        flat = torch.frombuffer(bytearray(blobs[0]), dtype=torch.float32)
        single = torch.cat([p.flatten() for p in _train(1, 0, kind)])
        torch.testing.assert_close(flat, single, rtol=0, atol=tolerance)


def test_one_shape_is_gathered_while_the_next_is_orthogonalized(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Handle:
        def wait(self) -> None:
            events.append("wait")

    def gather(gathered: Tensor, own: Tensor, *, async_op: bool) -> Handle:
        assert async_op
        events.append("gather")
        return Handle()

    def orthogonalized(matrices: Tensor, **options: object) -> Tensor:
        events.append("orthogonalize")
        return matrices

    for name in ("all_gather_into_tensor", "all_gather_single"):
        monkeypatch.setattr(torch.distributed, name, gather, raising=False)
    monkeypatch.setattr("golf.training.muon.orthogonalize", orthogonalized)
    parameters = _parameters()
    _set_gradients(parameters, 0)
    Muon(parameters, lr=0.1, rank=0, world=2).step()
    shapes = len({tuple(sorted(shape)) for shape in SHAPES})
    assert events == ["orthogonalize", "gather"] * shapes + ["wait"] * shapes


def test_momentum_is_part_of_the_state() -> None:
    parameters = _parameters()
    muon = Muon(parameters, lr=0.1)
    _set_gradients(parameters, 0)
    muon.step()
    twins = [p.detach().clone().requires_grad_() for p in parameters]
    other = Muon(twins, lr=0.1)
    other.load_state_dict(copy.deepcopy(muon.state_dict()))
    for step in (1, 2):
        _set_gradients(parameters, step)
        _set_gradients(twins, step)
        muon.step()
        other.step()
    assert all(torch.equal(a, b) for a, b in zip(parameters, twins, strict=True))
