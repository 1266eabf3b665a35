"""``python -m stages.train`` and ``stages.average`` as processes: killed, stopped, repeated, and their messages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import stages.average
import stages.train
from golf.files import read_json, read_meta, sha256_file

Workspace = Callable[[], Path]
Sections = dict[str, dict[str, Any]]


def start(root: Path, stage: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"stages.{stage}", "--params", str(folder / "params.json"), "--root", str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GOLF_DEVICE": "cpu", "GOLF_CKPT_DIR": str(folder / "ckpt")}
    return subprocess.Popen(command, cwd=root, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(root: Path, stage: str, folder: Path) -> tuple[int, str, str]:
    process = start(root, stage, folder)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def after_step(process: subprocess.Popen[str], step: int, signum: int) -> None:
    """Send ``signum`` once the run log has shown ``step`` or a later one."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step ") and int(line.split()[1].split("/")[0]) >= step:
            process.send_signal(signum)
            return
    raise AssertionError(f"ended before step {step}: {process.stderr.read() if process.stderr else ''}")


def hashes(folder: Path) -> dict[str, str]:
    paths = [*(folder / "artifacts/train").iterdir(), folder / "metrics/train.json"]
    return {path.name: sha256_file(path) for path in paths}


def test_killed_and_stopped_runs_end_with_the_bytes_of_an_uninterrupted_one(
    root: Path, workspace: Workspace, sections: Sections
) -> None:
    sections["train"].update(iterations=60, momentum_warmup_steps=10)
    folder = workspace()
    code, out, err = finish(root, "train", folder)
    assert code == 0, err
    assert "plan for 60 steps:" in out and "depth 2 from step 31" in out and "trained 60 steps" in out
    wanted = hashes(folder)
    assert {"final.safetensors", "ema.safetensors", "history.tsv", "ledger.json", "train.json"} <= set(wanted)
    assert not any((folder / "ckpt").iterdir()), "the checkpoint is removed after success"

    sections["train"].update(checkpoint_seconds=1e-6, log_seconds=1e-6)  # neither belongs to the run's identity
    workspace()
    (folder / "artifacts/train/final.safetensors").unlink()
    process = start(root, "train", folder)
    after_step(process, 12, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process = start(root, "train", folder)
    after_step(process, 40, signal.SIGTERM)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 143 and "SIGTERM after step" in out
    code, out, err = finish(root, "train", folder)
    assert code == 0, err
    assert "resuming after step" in out
    assert hashes(folder) == wanted

    code, out, err = finish(root, "average", folder)
    assert code == 0, err
    metrics = read_json(folder / "metrics/average.json", made_by="test")
    assert {f"heldout_{kind}_nats_per_token" for kind in ("raw", "mean", "ema")} <= set(metrics)
    meta = read_meta(folder / "artifacts/average/model.safetensors", made_by="test")
    assert meta["model"]["family"] == "depth_recurrent" and meta["vocab_size"] == 64


def test_messages_of_bad_input(root: Path, workspace: Workspace, sections: Sections) -> None:
    sections["train"]["iteration"] = sections["train"].pop("iterations")
    code, _, err = finish(root, "train", workspace())
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



def test_two_processes_train_as_one(root: Path, workspace: Workspace, sections: Sections) -> None:
    sections["train"].update(precision="fp32", iterations=16)
    folder = workspace()
    trained = folder / "artifacts/train"
    code, _, err = finish(root, "train", folder)
    assert code == 0, err
    rows = [line.split("\t") for line in (trained / "history.tsv").read_text().splitlines()[1:]]
    ledger = read_json(trained / "ledger.json", made_by="test")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GOLF_DEVICE": "cpu", "GOLF_CKPT_DIR": str(folder / "ckpt")}
    done = subprocess.run(
        [*command, "-m", "stages.train", "--params", str(folder / "params.json"), "--root", str(folder)],
        cwd=root, env=env, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("plan for 16 steps:") == 1 and "2 process(es)" in done.stdout
    rows_two = [line.split("\t") for line in (trained / "history.tsv").read_text().splitlines()[1:]]
    ledger_two = read_json(trained / "ledger.json", made_by="test")
    for one, two in zip(rows, rows_two, strict=True):
        assert float(one[2]) == pytest.approx(float(two[2]), abs=1e-5)
        assert one[:2] + one[3:] == two[:2] + two[3:]
    for key in ledger.keys() - {"distance_from_initial"}:
        assert ledger[key] == ledger_two[key], key
    assert ledger["distance_from_initial"] == pytest.approx(ledger_two["distance_from_initial"], rel=1e-3)
