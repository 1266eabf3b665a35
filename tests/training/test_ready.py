"""Slow substitutes end a run on GPUs before its clock starts, and a slow machine in its first steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from golf.base.distributed import Ranks
from golf.base.params import from_dict
from golf.models.registry import build_model, config_from_dict
from golf.training import loop
from golf.training.checkpoint import open_checkpoints
from golf.training.compiling import NotCompiledError
from golf.training.config import TrainConfig
from golf.training.loop import Trainer
from golf.training.plan import Machine
from golf.training.ready import Pace, SlowRunError, attention_backends, refuse_slow, warm_up
from tiny import hybrid

SLOWEST = Machine("8 x H100 at 15% of peak", {1: 0.1, 2: 0.2})


class Stream:
    """A stream of 64 symbols in memory."""

    num_tokens = 3000

    def read(self, start: int, length: int) -> np.ndarray:
        return np.arange(start, start + length, dtype=np.uint16) % 64


@contextmanager
def trained(folder: Path, sections: dict[str, Any], **train: Any) -> Iterator[Trainer]:
    """A small run that takes itself for one on a GPU."""
    config = from_dict(TrainConfig, {**sections["train"], "iterations": 60, **train})
    torch.manual_seed(config.seed)
    model = build_model(config_from_dict(sections["model"]), 64)
    with open_checkpoints(folder) as checkpoints:
        lines: list[str] = []
        run = Trainer(model, config, source=Stream(), checkpoints=checkpoints, base_meta={}, log=lines.append)
        run.strict = not config.allow_slow
        run.lines = lines  # type: ignore[attr-defined]
        yield run


def test_bug_a2_a_graph_that_cannot_be_made_ends_the_run_before_its_clock(tmp_path: Path, sections: Any) -> None:
    """The run completed uncompiled, with a third of its steps, and only rank 0 could have said so."""
    failing = mock.patch.object(loop, "prepare_loss", side_effect=NotCompiledError("no ptxas"))
    with failing, trained(tmp_path / "a", sections, compile=True) as run:
        with pytest.raises(SlowRunError, match="several times slower: no ptxas; mend that, or set train.allow_slow"):
            run.run()
        assert run.state.events.step == 0
    with failing, trained(tmp_path / "b", sections, compile=True, allow_slow=True) as run:
        assert run.run().state.events.step == 60
        assert run.lines[0] == "warning: no ptxas; training runs slower"  # type: ignore[attr-defined]


def test_what_another_process_found_ends_this_one_too() -> None:
    class Second(Ranks):
        def first_problem(self, problem: str | None) -> str | None:
            return "process 3 of 8: no ptxas"

    with pytest.raises(SlowRunError, match="process 3 of 8: no ptxas"):
        refuse_slow(None, Second(1, 8), strict=True, log=print)
    refuse_slow(None, Ranks(), strict=True, log=print)


def test_bug_a1_a_hybrid_without_its_kernel_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its training took three to four times as long, after one Python warning."""
    from golf.models import gated_delta

    monkeypatch.setitem(__import__("sys").modules, "fla", None)
    gated_delta.checked_kernel.cache_clear()
    model = build_model(config_from_dict(hybrid()), 64)
    with pytest.warns(UserWarning, match="plain PyTorch runs slower"):
        ready, told = model.kernel(torch.device("cuda:0"))
    assert not ready and "fla is not installed (pip install golf[gdn])" in told
    gated_delta.checked_kernel.cache_clear()


def test_a4_fifty_steps_slower_than_the_slowest_machine_stop_the_run() -> None:
    def steps(seconds: float, first: float) -> list[str | None]:
        pace = Pace(SLOWEST)
        return [pace.after_step(1 if step < 30 else 2, first + seconds * (step + 1)) for step in range(60)]

    assert not any(steps(0.149, 30.0))  # the first ten do not count, nor what came before
    told = steps(0.2, 0.0)
    assert [step for step, text in enumerate(told, 1) if text] == [50]
    assert "40 steps at depth 2 took 200 ms each" in str(told[49]) and "takes 150 ms" in str(told[49])
    assert Pace(None).after_step(1, 1e9) is None


def test_a_slow_run_leaves_a_checkpoint_from_which_it_can_go_on(tmp_path: Path, sections: Any) -> None:
    with trained(tmp_path / "run", sections) as run:
        run.pace = Pace(Machine("a machine of light", {1: 1e-9, 2: 1e-9}))
        with pytest.raises(SlowRunError, match="set train.allow_slow to true to train on from step 50"):
            run.run()
    with trained(tmp_path / "run", sections, allow_slow=True) as run:
        assert run.run().state.events.step == 60
        assert "resuming after step 50" in run.lines[0]  # type: ignore[attr-defined]


def test_c1_a_warm_up_step_leaves_no_trace(tmp_path: Path, sections: Any) -> None:
    finished = []
    for warm in (False, True):
        with trained(tmp_path / str(warm), sections, iterations=30) as run:
            if warm:
                run.model.train()
                warm_up(run)
                assert run.state.events.step == 0 and not run.losses and not run.optimizers.state_tensors()
            finished.append(run.run())
    plain, warmed = (result.state for result in finished)
    assert all(torch.equal(tensor, warmed.weights[name]) for name, tensor in plain.weights.items())
    assert all(torch.equal(tensor, warmed.ema[name]) for name, tensor in plain.ema.items())
    assert finished[0].ledger == finished[1].ledger


def test_the_attention_that_torch_chooses_is_named(sections: Any) -> None:
    model = build_model(config_from_dict(sections["model"]), 64)
    assert attention_backends(model, 2, 16, torch.device("cpu")) == ["FLASH_ATTENTION"]
    assert len(attention_backends(build_model(config_from_dict(hybrid()), 64), 2, 16, torch.device("cpu"))) >= 1
