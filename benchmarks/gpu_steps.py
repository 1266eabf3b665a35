"""Training steps of the GPU presets on one GPU: milliseconds, memory, and what they are spent on.

    python -m benchmarks.gpu_steps --preset h100x8_10min --preset record_h100x8_10min
    python -m benchmarks.gpu_steps --preset record_h100x8_10min --depth 3 --profile model.exclusive=false
    python -m benchmarks.gpu_steps --preset h100x8_10min --depth 4 --sdpa flash

The step is `Trainer`'s own, compiled and warmed up as by `stages.train`: the share of one of 8 GPUs (micro batches,
clip, optimizers, moving average), without the messages between them. Tokens are random, documents of 700 on average.
Each depth is measured at the longest context that the preset has there, beside what `make cuda-kernels` predicted of
the preset without overrides. `--sdpa` is of dense attention: the record's segments have a kernel of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from golf.base.params import from_dict
from golf.cli.params import compose
from golf.models.registry import build_model, config_from_dict
from golf.training.checkpoint import CheckpointFolder
from golf.training.config import TrainConfig, context_at
from golf.training.loop import Trainer
from golf.training.plan import PEAK_FLOPS, flops_per_token
from golf.training.ready import prepare
from tests.cuda.kernels import PRESETS, milliseconds_of

GPUS, DOCUMENT, PREDICTED = 8, 700, Path("docs/results/cuda_predicted.md")
BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
KINDS = {
    "attention": "flash|fmha|sdpa|cudnn_generated",
    "matrix products": "gemm|nvjet|cutlass|cublas|xmma|matmul",
    "compiled, elementwise and reductions": "triton",
    "optimizer and copies": "multi_tensor|foreach|Memcpy|Memset|copy",
}


class RandomText:
    """A training split of random tokens."""

    num_tokens = 1 << 24
    bos_id = 1

    def __init__(self, vocab: int) -> None:
        rng = np.random.default_rng(0)
        self._tokens = rng.integers(2, vocab, self.num_tokens).astype(np.uint16)
        self._tokens[rng.random(self.num_tokens) < 1 / DOCUMENT] = self.bos_id

    def read(self, start: int, length: int) -> np.ndarray:
        """``length`` tokens from ``start``."""
        return self._tokens[start : start + length]


@contextlib.contextmanager
def attention_by(name: str | None) -> Iterator[None]:
    """Only the backend ``name`` for dense attention, in graphs made meanwhile too; None: torch's own choice.

    The caches of graphs are off: their keys hold no backend, so they would bring back a graph of another one.
    """
    if name is None:
        yield
        return
    without_caches = torch.compiler.config.patch(force_disable_caches=True)  # type: ignore[attr-defined]
    with sdpa_kernel(BACKENDS[name]), without_caches:
        yield


def trainer_at(values: dict[str, Any], depth: int, folder: Path) -> Trainer:
    """One process of eight at ``depth`` throughout, its graphs made."""
    train, vocab = from_dict(TrainConfig, values["train"]), values["tokenize"]["vocab_size"]
    until = next((until for until, at in train.depth_phases if at == depth), 1.0)
    context = context_at(until - 1e-6, train.context_phases)
    values["train"] |= {
        "depth_phases": [[1.0, depth]] if train.depth_phases else [], "budget_seconds": 0.0, "iterations": 10**6,
        "context_phases": [[1.0, context]] if context else [], "tokens_per_step": train.tokens_per_step // GPUS,
        "snapshot_below": 0.0, "allow_slow": True,
    }  # fmt: skip
    torch.manual_seed(0)
    model = build_model(config_from_dict(values["model"], where="model"), vocab)
    trainer = Trainer(
        model, from_dict(TrainConfig, values["train"]), source=RandomText(vocab),
        checkpoints=CheckpointFolder(folder), base_meta={}, device="cuda:0",
    )  # fmt: skip
    trainer.model.train()
    prepare(trainer)
    trainer._start, trainer._saved = time.monotonic(), 0.0
    return trainer


def seconds_of(trainer: Trainer, steps: int) -> list[tuple[float, float]]:
    """Of each of so many steps, by the clock, the GPU idle before and after: forward and backward, and all."""
    out, apply, middle = [], trainer._apply, 0.0

    def watched(loss: torch.Tensor) -> torch.Tensor:
        nonlocal middle
        torch.cuda.synchronize()
        middle = time.perf_counter()
        return apply(loss)

    with mock.patch.object(trainer, "_apply", watched):
        for step in range(steps):
            windows, rows = trainer.batches.share(step)
            tokens = trainer._to_host_tensor(rows)
            torch.cuda.synchronize()
            begin = time.perf_counter()
            trainer._step(windows, tokens)
            torch.cuda.synchronize()
            out.append((middle - begin, time.perf_counter() - begin))
    return out


def profiled(trainer: Trainer, steps: int) -> str:
    """Milliseconds a step by kind of kernel, and of the 25 kernels that take most."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        seconds_of(trainer, steps)
    found = [(row.key, row.self_device_time_total / 1e3 / steps, row.count / steps) for row in profiler.key_averages()]
    found = sorted((row for row in found if row[1] > 0), key=lambda row: -row[1])
    kinds = dict.fromkeys([*KINDS, "other"], 0.0)
    for name, ms, _ in found:
        kinds[next((kind for kind, words in KINDS.items() if re.search(words, name)), "other")] += ms
    lines = [f"{ms:9.2f} ms  {kind}" for kind, ms in kinds.items()]
    return "\n".join(lines + [f"{ms:9.3f} ms {count:7.1f} x  {name[:100]}" for name, ms, count in found[:25]])


def told(name: str, trainer: Trainer, times: list[tuple[float, float]], predicted: str) -> str:
    """One line of what was measured."""
    passes, ms = (1e3 * statistics.median(part) for part in zip(*times, strict=True))
    model, tokens, contexts = trainer.model, trainer.config.tokens_per_step, trainer.config.context_phases
    length = contexts[0][1] if contexts else trainer.config.sequence_length
    flops = flops_per_token(cast(Any, model.config), model.vocab_size, model.depth, length) * tokens
    return (
        f"{name}: {ms:.1f} ms a step of {tokens:,} tokens (predicted {predicted} for one of 8), forward and backward "
        f"{passes:.1f}, {flops / ms * 1e3 / PEAK_FLOPS:.1%} of the peak, "
        f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    )


def measure(preset: str, depth: int, args: argparse.Namespace, predicted: str) -> None:
    """Print one line of ``preset`` at ``depth``, and its kernels where ``args`` say so."""
    torch.cuda.empty_cache()
    torch.compiler.reset()
    torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, attention_by(args.sdpa):
        values = compose(Path("conf"), preset=preset, overrides=args.overrides)
        trainer = trainer_at(values, depth, Path(folder))
        ready = time.monotonic() - began
        times = seconds_of(trainer, args.steps + 3)[3:]
        attention = [f"{args.sdpa} attention"] if args.sdpa else []
        name = ", ".join([f"{preset} depth {depth}", *attention, *args.overrides])
        print(f"{told(name, trainer, times, predicted)}, ready in {ready:.0f} s", flush=True)
        if args.profile:
            print(profiled(trainer, 3), flush=True)


def main() -> None:
    """One line for each preset and depth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", choices=PRESETS, help="may be repeated (default: all)")
    parser.add_argument("--depth", type=int, default=0, help="one depth alone (default: all of the preset)")
    parser.add_argument("--steps", type=int, default=12, help="measured, after 3 more")
    parser.add_argument("--profile", action="store_true", help="say what kernels take")
    parser.add_argument("--sdpa", choices=BACKENDS, help="the one backend of dense attention (default: torch chooses)")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE, as of `golf params`")
    args = parser.parse_args()
    predicted = {} if args.overrides else milliseconds_of(PREDICTED.read_text(encoding="utf-8"))
    for preset in args.preset or PRESETS:
        phases = compose(Path("conf"), preset=preset, overrides=args.overrides)["train"]["depth_phases"]
        for depth in sorted({depth for _, depth in phases} or {1}):
            if args.depth in (0, depth):
                measure(preset, depth, args, predicted.get((preset, depth), "-"))


if __name__ == "__main__":
    main()
