"""``python -m stages.train`` and ``stages.average`` as processes: killed, stopped, repeated, and their messages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import stages.average
import stages.train
from golf.base.files import load_torch, read_json, read_meta, sha256_file, write_json
from golf.training.average import average_weights
from warm import Started, Warm

Workspace = Callable[[], Path]
Sections = dict[str, dict[str, Any]]
Output = pytest.CaptureFixture[str]


def command(folder: Path) -> list[str]:
    return ["-m", "stages.train", "--params", str(folder / "params.json"), "--root", str(folder)]


def start(warm: Warm, root: Path, folder: Path) -> Started:
    return warm.start(*command(folder), cwd=root, GOLF_DEVICE="cpu", GOLF_CKPT_DIR=str(folder / "ckpt"))


def torchrun(root: Path, folder: Path) -> subprocess.Popen[str]:
    """Two processes, which a real interpreter launches."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GOLF_DEVICE": "cpu", "GOLF_CKPT_DIR": str(folder / "ckpt"), **TWO}
    words, pipe = [sys.executable, *command(folder)], subprocess.PIPE
    return subprocess.Popen(words, cwd=root, env=env, text=True, stdout=pipe, stderr=pipe)


def after_step(process: Started | subprocess.Popen[str], step: int, signum: int) -> None:
    """Send ``signum`` (0: nothing) once the run log has shown ``step`` or a later one."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step ") and int(line.split()[1].split("/")[0]) >= step:
            process.send_signal(signum)
            return
    raise AssertionError(f"ended before step {step}: {process.communicate()}")


def hashes(folder: Path) -> dict[str, str]:
    paths = [*(folder / "artifacts/train").iterdir(), folder / "metrics/train.json"]
    return {path.name: sha256_file(path) for path in paths}


def test_killed_and_stopped_runs_end_with_the_bytes_of_an_uninterrupted_one(
    warm: Warm, root: Path, workspace: Workspace, sections: Sections, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    sections["train"].update(iterations=60, momentum_warmup_steps=10)
    folder = workspace()
    monkeypatch.setenv("GOLF_DEVICE", "cpu")
    monkeypatch.setenv("GOLF_CKPT_DIR", str(folder / "ckpt"))
    assert stages.train.run(folder / "params.json", folder) == 0
    out = capsys.readouterr().out
    assert "plan for 60 steps:" in out and "depth 2 from step 31" in out and "trained 60 steps" in out
    wanted = hashes(folder)
    assert {"final.safetensors", "ema.safetensors", "history.tsv", "ledger.json", "train.json"} <= set(wanted)
    assert not any((folder / "ckpt").iterdir()), "the checkpoint is removed after success"

    sections["train"].update(checkpoint_seconds=1e-6, log_seconds=1e-6)  # neither belongs to the run's identity
    workspace()
    (folder / "artifacts/train/final.safetensors").unlink()
    process = start(warm, root, folder)
    after_step(process, 12, signal.SIGKILL)
    assert process.communicate()[0] == -signal.SIGKILL
    process = start(warm, root, folder)
    after_step(process, 40, signal.SIGTERM)
    code, out, _ = process.communicate()
    assert code == 143 and "SIGTERM after step" in out
    code, out, err = start(warm, root, folder).communicate()
    assert code == 0, err
    assert "resuming after step" in out
    assert hashes(folder) == wanted

    assert stages.average.run(folder / "params.json", folder) == 0
    metrics = read_json(folder / "metrics/average.json", made_by="test")
    assert {f"heldout_{kind}_nats_per_token" for kind in ("raw", "mean", "ema")} <= set(metrics)
    meta = read_meta(folder / "artifacts/average/model.safetensors", made_by="test")
    assert meta["model"]["family"] == "depth_recurrent" and meta["vocab_size"] == 64
    assert meta["average"] == metrics["average_kind"] == "mean"
    sections["average"]["kind"] = "best"
    write_json(folder / "params.json", sections)
    assert stages.average.run(folder / "params.json", folder) == 0
    best = read_json(folder / "metrics/average.json", made_by="test")
    losses = {kind: best[f"heldout_{kind}_nats_per_token"] for kind in ("raw", "mean", "ema")}
    assert best["average_kind"] == min(losses, key=losses.__getitem__)
    assert {key: value for key, value in metrics.items() if key != "average_kind"}.items() <= best.items()
    tensors, meta = load_torch(folder / "artifacts/average/model.safetensors", made_by="test")
    assert meta["average"] == best["average_kind"]
    chosen = average_weights(folder / "artifacts/train", best["average_kind"])
    assert all(torch.equal(tensors[name], weights) for name, weights in chosen.items())


def test_qat_for_another_grid_stops_before_anything_is_trained(workspace: Workspace, sections: Sections) -> None:
    sections["train"]["qat"]["below"] = 0.2
    sections["quantize"] = {"method": "gptq_trellis", "clip": 8.0}
    folder = workspace()
    with pytest.raises(ValueError, match="train.qat.below is 0.2 and quantize.method is gptq_trellis"):
        stages.train.run(folder / "params.json", folder)
    assert not (folder / "artifacts/train").exists()


def test_messages_of_bad_input(warm: Warm, root: Path, workspace: Workspace, sections: Sections) -> None:
    sections["train"]["iteration"] = sections["train"].pop("iterations")
    code, _, err = start(warm, root, workspace()).communicate()
    assert code == 1 and "unknown key `iteration`; did you mean `iterations`?" in err and "Traceback" not in err
    sections["train"]["iterations"] = sections["train"].pop("iteration")
    sections["train"]["warmdown"] = 0.01
    folder = workspace()
    with pytest.raises(ValueError, match=r"plan is refused:\n.*warmdown: 0.01 never acts in 24 steps; set it to 0.08"):
        stages.train.run(folder / "params.json", folder)
    assert not (folder / "artifacts/train").exists()
    with pytest.raises(ValueError, match="final.safetensors: not found; it is made by `python -m stages.train`"):
        stages.average.run(folder / "params.json", folder)


def test_two_runs_of_one_configuration_do_not_share_a_checkpoint(tmp_path: Path) -> None:
    from golf.training.checkpoint import CheckpointError, open_checkpoints

    with (
        open_checkpoints(tmp_path),
        pytest.raises(CheckpointError, match="another run of the same configuration"),
        open_checkpoints(tmp_path),
    ):
        pass


TWO = {"GOLF_TORCHRUN": "--standalone --nproc-per-node=2"}


def workers(launcher: int) -> dict[str, int]:
    """Process ids of the trainers that ``launcher`` started, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            environment = dict(item.partition("=")[::2] for item in (folder / "environ").read_text().split("\0"))
        except OSError:  # ended meanwhile
            continue
        if parent == launcher and "RANK" in environment:
            found[environment["RANK"]] = int(folder.name)
    return found


def gone(pid: int) -> bool:
    """Whether a process has ended, also when nobody has asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def wait_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 100
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < deadline, "orphan processes"
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_train_as_one_though_one_and_then_the_launcher_are_killed(
    root: Path, workspace: Workspace, sections: Sections, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections["train"].update(precision="fp32", iterations=40)
    folder = workspace()
    monkeypatch.setenv("GOLF_DEVICE", "cpu")
    monkeypatch.setenv("GOLF_CKPT_DIR", str(folder / "alone"))
    assert stages.train.run(folder / "params.json", folder) == 0
    trained = folder / "artifacts/train"
    rows = [line.split("\t") for line in (trained / "history.tsv").read_text().splitlines()[1:]]
    ledger = read_json(trained / "ledger.json", made_by="test")

    sections["train"].update(checkpoint_seconds=1e-6, log_seconds=1e-6)
    workspace()
    first = torchrun(root, folder)
    after_step(first, 3, 0)
    ranks = workers(first.pid)
    os.kill(ranks["1"], signal.SIGKILL)
    out, err = first.communicate(timeout=200)
    assert first.returncode not in (0, None) and "SIGKILL" in err + out
    assert err.count("train: error:") == 1 and "process 0 of 2 lost another one" in err
    wait_gone(list(ranks.values()))

    second = torchrun(root, folder)
    after_step(second, 8, 0)
    ranks = workers(second.pid)
    second.kill()
    wait_gone(list(ranks.values()))
    second.communicate(timeout=200)

    third = torchrun(root, folder)
    out, err = third.communicate(timeout=200)
    assert third.returncode == 0, err[-3000:]
    assert out.count("plan for 40 steps:") == 1 and "2 process(es)" in out and "resuming after step" in out
    rows_two = [line.split("\t") for line in (trained / "history.tsv").read_text().splitlines()[1:]]
    ledger_two = read_json(trained / "ledger.json", made_by="test")
    for number, (one, two) in enumerate(zip(rows, rows_two, strict=True)):
        assert float(one[2]) == pytest.approx(float(two[2]), abs=1e-5 if number < 16 else 1e-3)
        assert one[:2] + one[3:] == two[:2] + two[3:]
    for key in ledger.keys() - {"distance_from_initial"}:
        assert ledger[key] == ledger_two[key], key
    assert ledger["distance_from_initial"] == pytest.approx(ledger_two["distance_from_initial"], rel=1e-2)


def test_the_number_of_processes_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert stages.train._launch({"RANK": "0", **TWO}) is None, "already under torchrun"
    launched = stages.train._launch({"GOLF_TORCHRUN": "--nnodes=2 --rdzv-endpoint=host:29400"})
    assert launched == ["-m", "torch.distributed.run", "--nnodes=2", "--rdzv-endpoint=host:29400", "-m", "stages.train"]
    for devices, wanted in ((0, None), (1, None), (8, "--nproc-per-node=8")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda devices=devices: devices)
        got = stages.train._launch({})
        assert got is None if wanted is None else got is not None and wanted in got
        assert stages.train._launch({"GOLF_DEVICE": "cpu"}) is None


def test_a_world_that_does_not_divide_the_batch_is_refused_before_anything_starts(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    folder = workspace()
    for name, value in {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=r"world size: found 3, 4 sequences a step divide over \[1, 2, 4\]"):
        stages.train.run(folder / "params.json", folder)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as caught:
        stages.train.run(folder / "params.json", folder)
    assert caught.value.code == 1 and capsys.readouterr() == ("", ""), "rank 0 has said it"
