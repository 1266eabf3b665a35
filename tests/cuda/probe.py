"""What the real code does on a pretended GPU, measured in a process of its own: `python tests/cuda/probe.py CHECK...`.

Prints one JSON object, the result of each check by name. A check that fails gives {"error": first line}. A check is a
function here and its arguments, "step h100x8_10min 0 7"; behind "fault KIND" it runs with that fault of `faults.py`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import faults  # noqa: E402
import pretend  # noqa: E402

VOCAB = 1024


def parameters(preset: str, *overrides: str) -> dict[str, Any]:
    """The composed parameters of a preset."""
    from golf.cli.params import compose

    return compose(ROOT / "conf", preset=preset, overrides=overrides)


def build(values: dict[str, Any]) -> Any:
    """The preset's model, on the CPU as the stages make it."""
    from golf.models.registry import build_model, config_from_dict

    return build_model(config_from_dict(values["model"], where="model"), VOCAB)


class Zeros:
    """A training split of nothing but token 0."""

    num_tokens = 10**9
    bos_id = 1

    def read(self, start: int, length: int) -> Any:
        import numpy as np

        return np.zeros(length, np.uint16)


def trainer_of(values: dict[str, Any], group: Any) -> Any:
    """A `Trainer` as `stages.train` makes it on ``cuda:0``, its clock started."""
    from golf.base.params import from_dict
    from golf.training.checkpoint import CheckpointFolder
    from golf.training.config import TrainConfig
    from golf.training.loop import Trainer

    folder = CheckpointFolder(Path("nowhere"))
    config = from_dict(TrainConfig, values["train"])
    trainer = Trainer(build(values), config, source=Zeros(), checkpoints=folder, base_meta={}, device="cuda:0",
                      group=group, log=lambda line: None)  # fmt: skip
    trainer.model.train()
    trainer._start, trainer._saved = time.monotonic(), 0.0
    return trainer


def one_step(trainer: Any, progress: float) -> None:
    """The very step of the loop at ``progress``, on tokens that the host holds."""
    import numpy as np
    import torch

    config = trainer.config
    sequences = config.tokens_per_step // config.sequence_length
    tokens = np.zeros((sequences // trainer.group.world, config.sequence_length + 1), np.int64)
    tokens[:, ::700] = getattr(trainer.model.config, "bos_id", 1)  # documents, where a model knows them
    trainer.state.events.progress = progress
    trainer._step(np.arange(sequences), torch.from_numpy(tokens))


@contextlib.contextmanager
def stand_in_kernel() -> Iterator[None]:
    """In place of fla's kernel, which needs a GPU: its shapes and dtypes, forward and backward."""
    import torch

    from golf.models import gated_delta, gdn_hybrid

    class Rule(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Any, k: Any, v: Any, g: Any, beta: Any) -> Any:
            ctx.save_for_backward(q, k, v, g, beta)
            return torch.empty_like(v, dtype=torch.float32)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return tuple(torch.empty_like(x) for x in ctx.saved_tensors)

    def rule(q: Any, k: Any, v: Any, g: Any, beta: Any, state: Any = None) -> Any:
        end = torch.empty(*q.shape[:2], q.size(-1), v.size(-1), device=q.device)
        return Rule.apply(q, k, v, g, beta), end

    with contextlib.ExitStack() as stack:
        for module in (gated_delta, gdn_hybrid):
            stack.enter_context(mock.patch.object(module, "checked_kernel", lambda *args: (rule, "stand-in")))
        yield


@contextlib.contextmanager
def kept_bytes() -> Iterator[list[int]]:
    """Bytes that an eager forward pass in here keeps for backward, parameters left out; each storage once."""
    import torch

    seen: dict[int, int] = {}
    total = [0]

    def pack(tensor: Any) -> Any:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            seen[storage._cdata] = storage.nbytes()
            total[0] = sum(seen.values())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


def step(preset: str, progress: float, rank: int, *overrides: str) -> dict[str, Any]:
    """One training step at full shape as ``rank`` of 8: depth, messages sent, and waits; any read in it fails."""
    values = parameters(preset, *overrides)
    with pretend.gpu() as waits, pretend.group(rank) as (group, sent), stand_in_kernel():
        trainer = trainer_of(values, group)
        sent.clear()
        kept = [0]
        loss = trainer.loss_fn

        def watched(ids: Any, targets: Any) -> Any:
            with kept_bytes() as bytes_kept:
                out = loss(ids, targets)
            kept[0] = max(kept[0], bytes_kept[0])
            return out

        trainer.loss_fn = watched
        with waits.counted(answered=False) as counts:
            one_step(trainer, progress)
        found = {"depth": trainer.model.depth, "micro": trainer.micro, **sent, **counts}
        found["qat"] = max(trainer.state.events.fake_quantizations.values(), default=0)
        with waits.counted(answered=True) as counts:  # a row of the history, a line of the log: one read each
            trainer._read_losses()
        return found | {"reads_of_losses": counts["read"], "kept_mib": round(kept[0] / 2**20)}


def saved(preset: str, *overrides: str) -> dict[str, Any]:
    """Waits of a snapshot and of a checkpoint; ``read``: the losses. That replicas are equal is one more."""
    values = parameters(preset, *overrides)
    with pretend.gpu() as waits, pretend.group(0) as (group, _), stand_in_kernel():
        trainer = trainer_of(values, group)
        trainer.checkpoints = mock.Mock()
        one_step(trainer, 0.0)
        with mock.patch.object(type(group), "check_equal"), waits.counted(answered=True) as counts, trainer.writer:
            trainer._snapshot()
            trainer._save()
        calls = trainer.checkpoints.method_calls
        return {**counts, "tensors": sum(len(call.args[1]) for call in calls), "wrote": [call[0] for call in calls]}


def refused(preset: str, what: str, *overrides: str) -> dict[str, Any]:
    """The preparation where the compiler (`graph`) or the foreign kernel (`kernel`) fails, or (`none`) nothing does:
    what it says, and the messages of the whole step that it ends with."""
    from golf.training import loop, ready
    from golf.training.compiling import NotCompiledError

    values = parameters(preset, *overrides)
    failing = NotCompiledError("no ptxas") if what == "graph" else None
    kernel = stand_in_kernel() if what != "kernel" else contextlib.nullcontext()
    with pretend.gpu(), pretend.group(0) as (group, sent), kernel, contextlib.ExitStack() as stack:
        trainer = trainer_of(values, group)
        stack.enter_context(mock.patch.object(ready, "attention_backends", lambda *args: ["FLASH_ATTENTION"]))
        made = mock.Mock(return_value=trainer.model.loss, side_effect=failing)
        stack.enter_context(mock.patch.object(loop, "prepare_loss", made))
        sent.clear()
        try:
            ready.prepare(trainer)
        except ready.SlowRunError as error:
            return {"told": str(error)}
        return {"told": "", **sent, "step": trainer.state.events.step}


def graphs(preset: str, *overrides: str) -> dict[str, Any]:
    """Graphs that the preparation traces (a break fails it), and those that a step at every depth adds."""
    import torch

    values = parameters(preset, *overrides)
    made = [0]

    def backend(graph: Any, inputs: Any) -> Any:
        made[0] += 1
        return graph.forward

    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    with pretend.gpu(), pretend.group(0) as (group, sent), stand_in_kernel():
        trainer = trainer_of(values, group)
        trainer._compile(backend=backend)
        prepared = made[0]
        for until, _ in trainer.config.depth_phases or ((1.0, 1),):
            one_step(trainer, until - 0.01)
        one_step(trainer, 0.0)  # and back
    breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
    return {"graphs": prepared, "recompiles": made[0] - prepared, "breaks": breaks}


def text(targets: int) -> Any:
    """A validation text of documents of a thousand tokens."""
    import numpy as np

    from golf.scoring.text import ValidationText

    tokens = np.random.default_rng(0).integers(3, VOCAB, targets + 1)
    starts = np.arange(0, targets, 1000)
    tokens[starts] = 1
    return ValidationText(tokens, starts, np.full(len(starts), 2400), VOCAB)


def score(preset: str, mode: str, targets: int, *overrides: str) -> dict[str, Any]:
    """A mode of evaluation as its stage runs it; waits and launches for each million targets."""
    from golf.scoring import modes

    config = modes.load_modes(parameters_file(preset, *overrides), (mode,))[mode]
    return per_million(
        parameters(preset, *overrides), targets, lambda model: modes.run_mode(mode, model, text(targets), config)
    )


def per_million(values: dict[str, Any], targets: int, work: Callable[[Any], Any]) -> dict[str, Any]:
    """What ``work`` counts with the model of these parameters on the GPU, for each million of targets, rounded up."""
    with pretend.gpu() as waits, stand_in_kernel():
        model = build(values).to("cuda:0")
        with waits.counted(answered=True) as counts:
            work(model)
    return {kind: -(-count * 1_000_000 // targets) for kind, count in counts.items()}


def parameters_file(preset: str, *overrides: str) -> Path:
    """The composed parameters as a file."""
    path = Path(tempfile.mkdtemp()) / "params.json"
    path.write_text(json.dumps(parameters(preset, *overrides)), encoding="utf-8")
    return path


def heldout(preset: str, targets: int, *overrides: str) -> dict[str, Any]:
    """The loss on held-out text that `average` compares weights by."""
    import numpy as np

    from golf.training.average import heldout_loss

    values, tokens = parameters(preset, *overrides), np.zeros(targets + 1, np.uint16)
    length = values["train"]["sequence_length"]
    return per_million(values, targets, lambda model: heldout_loss(model, tokens, length=length))


def moments(preset: str, source: str, windows: int, *overrides: str) -> dict[str, Any]:
    """The second moments of `calibrate`, on training text or on samples; waits and launches for each million tokens."""
    from golf.base.params import from_dict
    from golf.quantize.calibrate import CalibrateConfig, calibrate, calibration_windows, sampled_windows

    values = parameters(preset, f"calibrate.source={source}", "calibrate.window=32", *overrides)
    config = from_dict(CalibrateConfig, values["calibrate"] | {"tokens": 32 * windows})

    def work(model: Any) -> None:
        if source == "samples":
            sampled_windows(model, config, bos_id=1)
        else:
            calibrate(model, calibration_windows(Zeros(), config), config)

    return per_million(values, 32 * windows, work)


def damages(preset: str, windows: int, *overrides: str) -> dict[str, Any]:
    """The gradients by which `calibrate` weighs errors in a row; waits and launches for each million tokens."""
    import numpy as np

    from golf.quantize.sensitivity import row_sensitivities

    ids = np.zeros((windows, 256), np.int64)
    return per_million(parameters(preset, *overrides), ids.size, lambda model: row_sensitivities(model, ids))


def run(name: str) -> dict[str, Any]:
    """A check by its name."""
    kind, *arguments = name.split()
    planted: Callable[[], Any] = contextlib.nullcontext
    if kind == "fault":
        planted, (kind, *arguments) = faults.FAULTS[arguments[0]], arguments[1:]
    functions: dict[str, Callable[..., dict[str, Any]]] = {
        "step": lambda preset, at, rank, *more: step(preset, float(at), int(rank), *more),
        "graphs": graphs,
        "refused": refused,
        "saved": saved,
        "score": lambda preset, mode, targets, *more: score(preset, mode, int(targets), *more),
        "heldout": lambda preset, targets, *more: heldout(preset, int(targets), *more),
        "damages": lambda preset, windows, *more: damages(preset, int(windows), *more),
        "moments": lambda preset, source, windows, *more: moments(preset, source, int(windows), *more),
    }
    began = time.process_time()
    try:
        with planted():
            found = functions[kind](*arguments)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"}
    return found | {"seconds": round(time.process_time() - began, 1)}


if __name__ == "__main__":
    pretend.load_shim(pretend.build_shim(Path(tempfile.mkdtemp())))
    warnings.simplefilter("ignore")
    print(json.dumps({name: run(name) for name in sys.argv[1:]}, indent=1))
