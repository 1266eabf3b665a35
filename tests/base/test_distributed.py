"""Where a process finds its rank and device."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from golf.base.distributed import HOURS, Place, ReplicaError, joined, place, usable_cores
from golf.base.errors import GolfError

MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # torchrun sets both


@pytest.mark.parametrize(
    ("gpus", "environment", "expected"),
    [
        (0, {}, Place(0, 1, "cpu")),
        (8, {}, Place(0, 1, "cuda")),
        (8, {"GOLF_DEVICE": "cpu"}, Place(0, 1, "cpu")),
        (8, {"GOLF_DEVICE": "cuda:3"}, Place(0, 1, "cuda:3")),
        (0, {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", **MEETING}, Place(1, 2, "cpu")),
        (8, {"RANK": "13", "WORLD_SIZE": "16", "LOCAL_RANK": "5", **MEETING}, Place(13, 16, "cuda:5")),
        (8, {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, Place(0, 1, "cuda")),
    ],
)
def test_place(gpus: int, environment: dict[str, str], expected: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert place(environment) == expected


@pytest.mark.parametrize(
    ("gpus", "environment", "message"),
    [
        (0, {"GOLF_DEVICE": "cuda"}, r"GOLF_DEVICE: found 'cuda', expected cpu \(no GPU is to be seen here\)"),
        (2, {"GOLF_DEVICE": "gpu"}, r"GOLF_DEVICE: found 'gpu', expected cpu \(cuda, cuda:0 to cuda:1\)"),
        (2, {"GOLF_DEVICE": "cuda:2"}, r"GOLF_DEVICE: found 'cuda:2', expected"),
        (2, {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "3", **MEETING}, r"GOLF_DEVICE: found 'cuda:3', expected"),
        (0, {"RANK": "first", "WORLD_SIZE": "2"}, r"RANK: found 'first', expected a whole number, 0 to 65536"),
        (0, {"RANK": "0", "WORLD_SIZE": "0"}, r"WORLD_SIZE: found '0', expected a whole number, 1 to 65536"),
        (0, {"RANK": "2", "WORLD_SIZE": "2"}, r"RANK, WORLD_SIZE: found 2, 2, expected the first below"),
        (0, {"RANK": "0", "WORLD_SIZE": "2"}, r"MASTER_ADDR: found none for 2 processes; use torchrun"),
        (0, {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x"}, r"MASTER_PORT: found none for 2 processes"),
    ],
)
def test_bug_a_wrong_environment_was_a_traceback_without_the_variable(
    gpus: int, environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(GolfError, match=message):
        place(environment)


def worker(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    told = "nothing"
    with joined(rank, 2, torch.device("cpu")) as ranks:
        tensors = {"a": torch.full((3,), float(rank)), "scalar": torch.tensor(1.0 + rank), "c": torch.ones(2, 2)}
        ranks.broadcast(tensors.values())
        ranks.check_equal(tensors)
        if rank:
            tensors["scalar"].view(torch.int32).add_(1)  # one bit, as a faulty device would
        try:
            ranks.check_equal(tensors)
        except ReplicaError as error:
            told = str(error)
        problems = [ranks.first_problem(None), ranks.first_problem("no ptxas" if rank else None)]
    Path(folder, str(rank)).write_text(f"{tensors['a'].tolist()} {told}; {problems}")


def test_replicas_begin_equal_and_a_flipped_bit_is_found_on_every_rank(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.start_processes(worker, args=(port, str(tmp_path)), nprocs=2, start_method="fork")
    for rank in range(2):
        told = (tmp_path / str(rank)).read_text()
        assert told.startswith("[0.0, 0.0, 0.0] the 2 processes hold different weights in 1 tensors (first `scalar`)")
        assert told.endswith("[None, 'process 1 of 2: no ptxas']"), "what one process finds, all can say"


def test_bug_a3_ranks_of_a_score_wait_for_hours(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that was done waited 600 s for the others, then the whole group died."""
    seen: list[Any] = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *names, timeout, **rest: seen.append(timeout))
    for name in ("barrier", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda: None)
    with joined(0, 2, torch.device("cpu"), patience=HOURS), joined(0, 2, torch.device("cpu")):
        pass
    assert seen == [timedelta(hours=24), timedelta(minutes=10)]
    assert "patience=HOURS" in (root / "stages/evaluate.py").read_text()


def test_cores_are_counted_where_the_system_has_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stage once ended with an AttributeError on macOS."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3}, raising=False)
    assert usable_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert usable_cores() == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def test_cores_are_counted_in_one_place(root: Path) -> None:
    for path in [*(root / "golf").rglob("*.py"), *(root / "stages").rglob("*.py")]:
        if path.name != "distributed.py":
            text = path.read_text(encoding="utf-8")
            assert "sched_getaffinity" not in text and "cpu_count" not in text, path
