"""Where a process finds its rank and device."""

from __future__ import annotations

import pytest
import torch

from golf.base.distributed import Place, place
from golf.base.errors import GolfError


@pytest.mark.parametrize(
    ("gpus", "environment", "wanted"),
    [
        (0, {}, Place(0, 1, "cpu")),
        (8, {}, Place(0, 1, "cuda")),
        (8, {"GOLF_DEVICE": "cpu"}, Place(0, 1, "cpu")),
        (8, {"GOLF_DEVICE": "cuda:3"}, Place(0, 1, "cuda:3")),
        (0, {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, Place(1, 2, "cpu")),
        (8, {"RANK": "13", "WORLD_SIZE": "16", "LOCAL_RANK": "5"}, Place(13, 16, "cuda:5")),
        (8, {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, Place(0, 1, "cuda")),
    ],
)
def test_place(gpus: int, environment: dict[str, str], wanted: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert place(environment) == wanted


@pytest.mark.parametrize(
    ("gpus", "environment", "message"),
    [
        (0, {"GOLF_DEVICE": "cuda"}, r"GOLF_DEVICE: found 'cuda', expected cpu \(no GPU is to be seen here\)"),
        (2, {"GOLF_DEVICE": "gpu"}, r"GOLF_DEVICE: found 'gpu', expected cpu \(cuda, cuda:0 to cuda:1\)"),
        (2, {"GOLF_DEVICE": "cuda:2"}, r"GOLF_DEVICE: found 'cuda:2', expected"),
        (2, {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "3"}, r"GOLF_DEVICE: found 'cuda:3', expected"),
        (0, {"RANK": "first", "WORLD_SIZE": "2"}, r"RANK: found 'first', expected a whole number, 0 to 65536"),
        (0, {"RANK": "0", "WORLD_SIZE": "0"}, r"WORLD_SIZE: found '0', expected a whole number, 1 to 65536"),
        (0, {"RANK": "2", "WORLD_SIZE": "2"}, r"RANK, WORLD_SIZE: found 2, 2, expected the first below"),
    ],
)
def test_bug_a_wrong_environment_was_a_traceback_without_the_variable(
    gpus: int, environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(GolfError, match=message):
        place(environment)
