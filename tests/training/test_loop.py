"""The training loop in process: what it computes, counts and refuses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from golf.base.distributed import Ranks
from golf.base.files import FileError
from golf.base.params import from_dict
from golf.models.registry import build_model, config_from_dict
from golf.training import checkpoint
from golf.training.checkpoint import CheckpointFolder, open_checkpoints
from golf.training.config import TrainConfig
from golf.training.ledger import LedgerError, check_ledger
from golf.training.loop import DivergedError, Trainer
from golf.training.plan import plan
from golf.training.signals import StopFlag, TrainingInterrupted
from tiny import record

QAT = {"below": 0.5, "clip": 12.85, "levels": {"embedding": 31, "attention": 31, "mlp": 31}}


class Stream:
    """A learnable random stream of 64 symbols in memory."""

    num_tokens = 3000

    def __init__(self) -> None:
        self.tokens = (np.cumsum(np.random.default_rng(0).integers(0, 3, self.num_tokens)) % 64).astype(np.uint16)

    def read(self, start: int, length: int) -> np.ndarray:
        return self.tokens[start : start + length]


@pytest.fixture
def checkpoints(tmp_path: Path) -> Iterator[CheckpointFolder]:
    with open_checkpoints(tmp_path / "run") as folder:
        yield folder


@pytest.fixture
def trainer(sections: dict[str, dict[str, Any]], checkpoints: CheckpointFolder) -> Callable[..., Trainer]:
    def make(stop: StopFlag | None = None, model: dict | None = None, **train: Any) -> Trainer:
        config = from_dict(TrainConfig, {**sections["train"], **train})
        torch.manual_seed(config.seed)
        values = model if model and "family" in model else {**sections["model"], **(model or {})}
        built = build_model(config_from_dict(values), 64)
        return Trainer(
            built, config, source=Stream(), checkpoints=checkpoints, base_meta={}, stop=stop, log=lambda line: None
        )

    return make


def test_the_loss_falls_and_the_ledger_equals_the_plan(trainer: Callable[..., Trainer]) -> None:
    run = trainer()
    result = run.run()
    rows = result.state.events.history
    assert rows[0][2] == pytest.approx(math.log(64), abs=0.1)
    assert result.final_loss < rows[0][2] - 1.0
    assert [row[0] for row in rows] == list(range(1, 25))
    assert [row[4] for row in rows] == [1] * 12 + [2] * 12
    assert rows[-1][5] == 24 * 64
    check_ledger(result.ledger, plan(run.schedule), timed=False)
    assert result.ledger["snapshot_steps"] == list(plan(run.schedule).cases[0].snapshot_steps)
    groups = result.ledger["parameter_groups"]
    assert groups["blocks.0.mlp.input.weight"] == "muon"
    assert groups["token_embedding"] == "embedding"
    assert groups["loop_vectors"] == "control"


def test_gradient_accumulation_changes_nothing_but_rounding(trainer: Callable[..., Trainer]) -> None:
    whole = trainer(precision="fp32", iterations=6, snapshot_below=0.0, ema_decay=0.0)
    parts = trainer(precision="fp32", iterations=6, snapshot_below=0.0, ema_decay=0.0, micro_batch_tokens=16)
    assert (whole.accumulate, parts.accumulate) == (1, 4)
    losses = [[row[2] for row in run.run().state.events.history] for run in (whole, _fresh(parts))]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def _fresh(run: Trainer) -> Trainer:
    run.checkpoints.remove()
    run.checkpoints.path.mkdir()
    return run


def test_moving_average_is_the_weighted_mean_of_the_weights_after_each_step(trainer: Callable[..., Trainer]) -> None:
    run = trainer()
    seen: list[torch.Tensor] = []
    update = run.state.update_ema

    def spy() -> None:
        seen.append(run.state.weights["token_embedding"].double().clone())
        update()

    run.state.update_ema = spy  # type: ignore[method-assign]
    run.run()
    shares = torch.tensor([0.1 * 0.9 ** (len(seen) - 1 - i) for i in range(len(seen))], dtype=torch.float64)
    want = (torch.stack(seen) * (shares / shares.sum())[:, None, None]).sum(0)
    assert torch.allclose(run.state.ema["token_embedding"].double(), want, atol=1e-6)


def test_the_last_snapshot_is_the_final_weights(trainer: Callable[..., Trainer]) -> None:
    from golf.base.files import load_torch

    run = trainer()
    result = run.run()
    last = len(result.state.events.snapshot_steps) - 1
    tensors, meta = load_torch(run.checkpoints.snapshot_path(last), made_by="test")
    assert meta["step"] == 24 and meta["progress"] == 1.0
    assert all(torch.equal(tensors[name], value) for name, value in result.state.weights.items())


def test_a_signal_saves_and_the_continued_run_is_bit_exact(trainer: Callable[..., Trainer]) -> None:
    whole = trainer().run()
    wanted = {name: value.clone() for name, value in whole.state.weights.items()}
    stop = StopFlag()
    first = _fresh(trainer(stop=stop))
    step = first._step

    def stop_after_seven(windows: np.ndarray, rows: np.ndarray) -> None:
        stop.signum = 15 if first.state.events.step == 6 else 0  # arrives during update 7
        step(windows, rows)

    first._step = stop_after_seven  # type: ignore[method-assign]
    with pytest.raises(TrainingInterrupted, match="SIGTERM after step 7: checkpoint saved") as caught:
        first.run()
    assert caught.value.exit_code == 143
    second = trainer().run()
    assert all(torch.equal(value, wanted[name]) for name, value in second.state.weights.items())
    assert all(torch.equal(value, whole.state.ema[name]) for name, value in second.state.ema.items())
    assert second.ledger == whole.ledger
    assert second.state.events.history == whole.state.events.history


def test_files_written_beside_training_have_the_bytes_of_those_it_waits_for(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for waits in (False, True):
        clock = itertools.count(0.0, 0.02)  # its seconds go into the states
        monkeypatch.setattr("golf.training.loop.time", SimpleNamespace(monotonic=clock.__next__))
        run = trainer(checkpoint_seconds=0.1)
        write, wait = run.writer.write, run.writer.wait
        if waits:
            monkeypatch.setattr(run.writer, "write", lambda *job, write=write, wait=wait: (write(*job), wait()))
        run.run()
        files = sorted(run.checkpoints.path.glob("*.safetensors"))
        found.append({path.name: path.read_bytes() for path in files})
        for path in files:
            path.unlink()
    assert found[0] == found[1] and len(found[0]) > 4


def test_a_timed_run_ends_with_its_budget_and_finishes_its_warmdown(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0.0, 0.02)  # seconds from one look to the next, on a machine of any speed
    monkeypatch.setattr("golf.training.loop.time", SimpleNamespace(monotonic=clock.__next__))
    run = trainer(iterations=100_000, budget_seconds=1.5, momentum_warmup_steps=2)
    result = run.run()
    assert result.state.events.progress == 1.0 and 3 < result.ledger["steps"] < 100_000
    assert result.state.events.elapsed >= 1.5
    assert [depth for _, depth in result.ledger["depth_phases"]] == [1, 2]
    assert result.ledger["lr_multiplier_last"] < 0.5


def test_seconds_of_earlier_sessions_count(trainer: Callable[..., Trainer]) -> None:
    run = trainer(iterations=100_000, budget_seconds=1000.0)
    run.state.events.elapsed = 999.9
    tensors, meta = run.state.to_checkpoint()
    run.optimizers.load_state_tensors({})
    run.checkpoints.save(0, tensors, meta)
    again = trainer(iterations=100_000, budget_seconds=1000.0).run()
    assert again.ledger["steps"] < 1000 and again.state.events.progress == 1.0


@pytest.mark.parametrize("bad", [math.nan, 1e9])
def test_a_lost_run_names_its_step_and_the_last_good_checkpoint(trainer: Callable[..., Trainer], bad: float) -> None:
    run = trainer(checkpoint_seconds=1e-9)
    gradients = run._gradients

    def spoiled(rows: np.ndarray) -> torch.Tensor:
        loss = gradients(rows)
        return loss * bad if run.state.events.step == 9 else loss

    run._gradients = spoiled  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match=r"at step 10, expected .* last good checkpoint: .*_00000009.*matrix_lr"):
        run.run()


def test_a_micro_batch_beyond_the_memory_names_its_key(trainer: Callable[..., Trainer]) -> None:
    run = trainer(micro_batch_tokens=32)

    def full(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    run.loss_fn = full
    with pytest.raises(ValueError, match="out of memory on cpu: 32 tokens in one forward pass; lower train.micro_"):
        run.run()


def test_an_infinite_gradient_is_a_lost_run_though_its_loss_is_fine(trainer: Callable[..., Trainer]) -> None:
    run = trainer(grad_clip=0.0)
    gradients = run._gradients

    def spoiled(rows: np.ndarray) -> torch.Tensor:
        loss = gradients(rows)
        run.parameters[0].grad[0, 0] = math.inf  # type: ignore[index]
        return loss

    run._gradients = spoiled  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match="loss is nan nats per token at step 1"):
        run.run()


def test_a_machine_that_does_not_see_the_checkpoint_is_told_so(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer()
    run.group = Ranks(1, 2)
    monkeypatch.setattr(Ranks, "decide", lambda self, values: [7.0, values[1]])  # process 0 resumes after step 7
    with pytest.raises(ValueError, match="process 1 continues from step 0 .* process 0 from step 7 .*GOLF_CKPT_DIR"):
        run.run()


def test_parameters_unused_at_a_shallow_depth_resume(trainer: Callable[..., Trainer]) -> None:
    # cross_repeat_scales has no gradient at depth 1; its optimizer state must exist all the same
    run = trainer(stop=StopFlag())
    run.stop.signum = 0
    step = run._step

    def stop_after_two(windows: np.ndarray, rows: np.ndarray) -> None:
        step(windows, rows)
        run.stop.signum = 2

    run._step = stop_after_two  # type: ignore[method-assign]
    with pytest.raises(TrainingInterrupted):
        run.run()
    assert trainer().run().state.events.step == 24


def test_a_ledger_that_differs_from_the_plan_names_every_mismatch(trainer: Callable[..., Trainer]) -> None:
    run = trainer()
    ledger = run.run().ledger
    planned = plan(run.schedule)
    broken = {**ledger, "snapshot_steps": [], "ema_updates": 0, "depth_phases": [[1, 2]]}
    broken["distance_from_initial"] = {**ledger["distance_from_initial"], "loop_vectors": 0.0}
    with pytest.raises(LedgerError) as caught:
        check_ledger(broken, planned, timed=False)
    for text in ("snapshot_steps: planned", "0 updates in 24 steps", "depth_phases", "never moved: loop_vectors"):
        assert text in str(caught.value)
    with pytest.raises(LedgerError, match=r"depths: planned \[1, 2\], happened \[2\]"):
        check_ledger(broken, planned, timed=True)


def test_a_flat_model_trains_and_leaves_no_tensor_unmoved(trainer: Callable[..., Trainer]) -> None:
    run = trainer(model={"repeats": 1, "xsa_last": 0}, depth_phases=[])
    check_ledger(run.run().ledger, plan(run.schedule), timed=False)


def test_a_step_reads_nothing_back_from_the_device_unless_a_row_is_due(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    run = trainer(qat={**QAT, "below": 0.9}, warmdown=0.9, snapshot_below=0.0)
    run.row_every = 8
    step, reads, at = run._step, list[str](), list[int]()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
                reads.append(str(func))
            return func(*args, **(kwargs or {}))

    def tolist(tensor: torch.Tensor) -> Any:
        reads.append("tolist")
        return original(tensor)

    def watched(windows: np.ndarray, rows: torch.Tensor) -> None:
        reads.clear()
        with Watch():
            step(windows, rows)
        at.extend([run.state.events.step] if reads else [])

    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", tolist)
    monkeypatch.setattr(run, "_step", watched)
    ledger = run.run().ledger
    assert at == [8, 16, 24] and ledger["ema_updates"] == 24 and ledger["qat"]["first_step"] < 8


def test_tokens_are_pinned_in_the_context_of_their_own_gpu(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.cuda._utils import _get_device_index

    chosen, pinned, run = list[int](), list[int](), trainer()
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(_get_device_index(device)))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(1) or tensor)
    for name in ("cpu", "cuda", "cuda:1"):  # `cuda` alone has no index, and set_device refuses it
        run.device = torch.device(name)
        assert run._to_host_tensor(np.arange(3)).tolist() == [0, 1, 2]
    assert chosen == [1] and len(pinned) == 2


def test_failed_compilation_on_a_cpu_falls_back_to_eager_with_one_warning(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(function: Any, *, disable: bool = False, **kwargs: Any) -> Any:
        if disable:
            return function

        def call(*inner: Any) -> Any:
            raise RuntimeError("No working C++ compiler found\nmore")

        return call

    monkeypatch.setattr(torch, "compile", no_compiler)
    run = trainer(compile=True)
    lines: list[str] = []
    run.log = lines.append
    assert run.run().state.events.step == 24
    warnings = [line for line in lines if line.startswith("warning")]
    assert len(warnings) == 1 and "(No working C++ compiler found); training runs slower" in warnings[0]


def test_late_qat_runs_as_planned_on_every_tensor_that_will_be_quantized(trainer: Callable[..., Trainer]) -> None:
    run = trainer(qat=QAT)
    ledger = run.run().ledger
    planned = plan(run.schedule)
    check_ledger(ledger, planned, timed=False)
    case = planned.cases[0]
    assert (case.qat_start, case.qat_steps) == (20, 5)  # multiplier 1 - (step - 13) / 12 below 0.5
    assert ledger["qat"]["first_step"] == 20 and ledger["qat"]["share_of_quantized_weights"] == 1.0
    assert ledger["qat"]["fake_quantizations"] == dict.fromkeys(run.model.quantizable_names(), 5)
    skipped = {**ledger["qat"], "fake_quantizations": {**ledger["qat"]["fake_quantizations"], "token_embedding": 0}}
    with pytest.raises(LedgerError, match="QAT: 5 updates expected, not so for token_embedding"):
        check_ledger({**ledger, "qat": skipped}, planned, timed=True)
    with pytest.raises(LedgerError, match="QAT: planned, never happened"):
        check_ledger({key: value for key, value in ledger.items() if key != "qat"}, planned, timed=True)


_OFF: dict[str, Any] = {"warmdown": 0.0, "snapshot_below": 0.0, "ema_decay": 0.0}


@pytest.mark.parametrize(
    "on",
    [
        {},
        {"warmdown": 0.5},
        {"ema_decay": 0.9},
        {"warmdown": 0.5, "snapshot_below": 0.6},
        {"warmdown": 0.5, "qat": QAT},
    ],
    ids=["nothing", "warmdown", "EMA", "SWA", "QAT"],
)
def test_each_system_acts_alone(trainer: Callable[..., Trainer], on: dict[str, Any]) -> None:
    run = trainer(**{**_OFF, "iterations": 12, "momentum_warmup_steps": 2, **on})
    ledger = run.run().ledger
    check_ledger(ledger, plan(run.schedule), timed=False)
    assert (ledger["warmdown_start_step"] is not None) == ("warmdown" in on)
    assert bool(ledger["ema_updates"]) == bool(run.state.ema) == ("ema_decay" in on)
    assert bool(ledger["snapshot_steps"]) == ("snapshot_below" in on) and ("qat" in ledger) == ("qat" in on)


def test_a_disk_that_fills_up_stops_the_run_and_freed_it_ends_with_the_same_weights(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {name: value.clone() for name, value in trainer().run().state.weights.items()}
    saves = itertools.count(1)
    real = checkpoint.save_torch

    def full(path: Path, tensors: Any, meta: Any) -> None:
        if next(saves) == 9:
            raise FileError(f"{path}: could not be written (No space left on device)")
        real(path, tensors, meta)

    run = _fresh(trainer(checkpoint_seconds=1e-9))
    monkeypatch.setattr(checkpoint, "save_torch", full)
    with pytest.raises(checkpoint.CheckpointError, match=r"No space left on device.*the previous .* is whole"):
        run.run()
    again = trainer(checkpoint_seconds=1e-9)
    lines: list[str] = []
    again.log = lines.append
    weights = again.run().state.weights
    assert lines[0].startswith("resuming after step 8,")
    assert all(torch.equal(value, whole[name]) for name, value in weights.items())


def test_bug_f25_a_run_that_lost_a_snapshot_stops_before_it_trains(trainer: Callable[..., Trainer]) -> None:
    """It trained to its end and only then failed, with a traceback."""
    stop = StopFlag()
    run = trainer(stop, checkpoint_seconds=1e-9)
    snapshot = run._snapshot

    def then_stop() -> None:
        snapshot()
        stop.signum = 15

    run._snapshot = then_stop  # type: ignore[method-assign]
    with pytest.raises(TrainingInterrupted):
        run.run()
    run.checkpoints.snapshot_path(0).unlink()
    again = trainer(checkpoint_seconds=1e-9)
    again._step = lambda *batch: pytest.fail("trained")  # type: ignore[method-assign]
    with pytest.raises(
        checkpoint.CheckpointError, match=r"snapshot_000.safetensors: missing; (no state is|the last) good"
    ):
        again.run()


def test_points_reach_dvclive(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    from golf.training.outputs import live_sink

    with live_sink(tmp_path / "off", enabled=False) as sink:
        sink(1, {"loss": 1.0})
    assert not (tmp_path / "off").exists()
    run = trainer(iterations=8, momentum_warmup_steps=2, snapshot_below=0.0)
    with live_sink(tmp_path / "live", enabled=True) as sink:
        run.sink = sink
        history = run.run().state.events.history
    lines = (tmp_path / "live/plots/metrics/loss.tsv").read_text().splitlines()
    assert lines[0] == "step\tloss" and [int(line.split("\t")[0]) for line in lines[1:]] == list(range(1, 9))
    assert float(lines[-1].split("\t")[1]) == pytest.approx(history[-1][2])


def test_depth_and_context_move_with_progress(trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    phases = {"depth_phases": [[0.5, 1], [1.0, 2]], "context_phases": [[0.25, 4], [0.75, 8], [1.0, 16]]}
    built = trainer(model=record(), iterations=8, momentum_warmup_steps=2, **phases)
    model: Any = built.model
    seen, hidden = [], model.hidden

    def watched(ids: torch.Tensor) -> torch.Tensor:
        seen.append((model.depth, model.context))
        return hidden(ids)

    monkeypatch.setattr(model, "hidden", watched)
    built.loss_fn = model.loss
    built.run()
    assert seen == [(1, 4)] * 2 + [(1, 8)] * 2 + [(2, 8)] * 2 + [(2, 16)] * 2


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([[0.5, 8]], r"context_phases: found ends \[0.5\], expected rising fractions of progress that end at 1.0"),
        ([[1.0, 32]], "context_phases: found 32 tokens, expected sequence_length or less"),
    ],
)
def test_wrong_contexts_are_refused(trainer: Callable[..., Trainer], phases: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(context_phases=phases)
