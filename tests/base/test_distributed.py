"""Where a process finds its rank and device."""

from __future__ import annotations

import pytest
import torch

from golf.base.distributed import Place, place


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
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    assert place(environment) == wanted
