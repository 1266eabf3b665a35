"""Training speed of our models beside the challenge's naive baseline, in one process on one machine.

    python -m benchmarks.train_speed --peer PATH/train_gpt.py            # GPU: 9 x 512, 524,288 tokens a step, bf16
    python -m benchmarks.train_speed --peer PATH/train_gpt.py --small    # CPU: 4 x 192, fp32

The peer is openai/parameter-golf's train_gpt.py, given by path; its GPT, Muon and Adam groups are built as its own main
does and driven by the loop below, on the same tokens as ours (random, or text with ``--text artifacts/tokens``). Per
run: milliseconds of forward and backward and of a whole update, tokens per second, share of the bf16 peak (MFU, GPU
only), peak memory, and the losses of the steps. On CPUs the models take turns step by step and milliseconds are of
processor time (one thread), so that other jobs on the machine hit all alike. Newton-Schulz is in bf16 in both.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from golf.cli.params import compose
from golf.data.batches import Batches
from golf.data.shards import open_split
from golf.models.base import LanguageModel
from golf.models.registry import build_model, config_from_dict
from golf.training.compiling import autocast, prepare_loss
from golf.training.optimizers import OptimizerConfig, Optimizers
from golf.training.plan import PEAK_FLOPS, flops_per_token

VOCAB = 1024
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def load_peer(path: Path) -> Any:
    """The peer's script as a module; its ``main`` is not run."""
    spec = importlib.util.spec_from_file_location("peer_train_gpt", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"{path}: no Python file; --peer wants openai/parameter-golf's train_gpt.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def build_peer(peer: Any, shape: dict[str, Any], device: str, compiled: bool) -> tuple[Loss, Callable[[], None], Any]:
    """Loss function, update and model of the peer, as its main builds them (fp32 on CPUs)."""
    args = peer.Hyperparameters()
    model = peer.GPT(
        VOCAB, shape["layers"], shape["width"], shape["heads"], shape["kv_heads"], int(shape["mlp_ratio"]),
        True, args.tied_embed_init_std, args.logit_softcap, args.rope_base, args.qk_gain_init,
    ).to(device)  # fmt: skip
    if device == "cuda":
        model = model.bfloat16()
        for module in model.modules():
            if isinstance(module, peer.CastedLinear):
                module.float()
        peer.restore_low_dim_params_to_fp32(model)
        peer.zeropower_via_newtonschulz5 = torch.compile(peer.zeropower_via_newtonschulz5)
    named = list(model.blocks.named_parameters())
    control = peer.CONTROL_TENSOR_NAME_PATTERNS
    matrices = [p for name, p in named if p.ndim == 2 and not any(part in name for part in control)]
    scalars = [p for name, p in named if p.ndim < 2 or any(part in name for part in control)] + [model.skip_weights]
    muon = peer.Muon(matrices, lr=args.matrix_lr, momentum=args.muon_momentum, backend_steps=args.muon_backend_steps)
    adam = torch.optim.Adam(
        [{"params": [model.tok_emb.weight], "lr": args.tied_embed_lr}, {"params": scalars, "lr": args.scalar_lr}],
        betas=(args.beta1, args.beta2), eps=args.adam_eps, fused=True,
    )  # fmt: skip
    loss: Loss = torch.compile(model, dynamic=False, fullgraph=True) if compiled else model

    def update() -> None:
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return loss, update, model


def build_ours(
    shape: dict[str, Any], depth: int, example: torch.Tensor, context: torch.autocast, compiled: bool
) -> tuple[Loss, Callable[[], None], LanguageModel]:
    """Loss function, update and model of ours at one depth, with the peer's learning rates."""
    model = build_model(config_from_dict(shape), VOCAB).to(example.device)
    rates = OptimizerConfig(0.04, 0.05, 0.04, weight_decay=0.0, newton_schulz_precision="bf16")
    optimizers = Optimizers(model, rates)
    loss: Loss = model.loss
    if compiled:
        loss = prepare_loss(model, (depth,), (example, example), context)
    model.set_depth(depth)

    def update() -> None:
        optimizers.step()
        optimizers.zero_grad()

    return loss, update, model


@dataclass
class Run:
    """One model being measured: how it steps, and what was seen so far."""

    name: str
    loss: Loss
    update: Callable[[], None]
    losses: list[float] = field(default_factory=list)  # nats per token
    passes: list[float] = field(default_factory=list)  # milliseconds of forward and backward
    steps: list[float] = field(default_factory=list)  # milliseconds of a whole update
    peak_mib: float | None = None  # device memory

    def step(self, batch: torch.Tensor, micro: int, context: Any) -> None:
        """One update on ``batch`` (sequences, L + 1) in pieces of ``micro`` sequences."""
        cuda = batch.device.type == "cuda"
        clock = time.perf_counter if cuda else time.process_time
        wait = torch.cuda.synchronize if cuda else lambda: None
        begin, total = clock(), torch.zeros((), device=batch.device)
        pieces = batch.split(micro)
        for piece in pieces:
            with context:
                value = self.loss(piece[:, :-1].contiguous(), piece[:, 1:].contiguous())
            (value / len(pieces)).backward()
            total += value.detach() / len(pieces)
        wait()
        middle = clock()
        self.update()
        wait()
        self.passes.append(1000 * (middle - begin))
        self.steps.append(1000 * (clock() - begin))
        self.losses.append(float(total))

    def row(self, tokens: int) -> dict[str, Any]:
        """Medians of the updates after the first two, of ``tokens`` each, and all losses."""
        step = statistics.median(self.steps[2:])
        return {
            "model": self.name,
            "tokens_per_second": 1000 * tokens / step,
            "step_ms": step,
            "forward_backward_ms": statistics.median(self.passes[2:]),
            "peak_memory_mib": self.peak_mib,
            "losses_nats": [round(value, 5) for value in self.losses],
        }


def measure(runs: list[Run], batches: torch.Tensor, micro: int, context: Any) -> list[dict[str, Any]]:
    """All of ``runs`` over ``batches`` (steps, sequences, L + 1), taking turns; a run alone has its own peak memory."""
    if batches.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    for batch in batches:
        for run in runs:
            run.step(batch, micro, context)
    for run in runs:
        run.peak_mib = torch.cuda.max_memory_allocated() / 2**20 if batches.is_cuda else None
    return [run.row(batches[0].size(0) * (batches[0].size(1) - 1)) for run in runs]


def make_batches(args: argparse.Namespace, sequences: int, length: int) -> torch.Tensor:
    """Tokens (steps, sequences, length + 1): those that our trainer would draw from ``--text``, else random ones."""
    if args.text is None:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(VOCAB, (args.steps, sequences, length + 1), generator=generator)
    batches = Batches(open_split(args.text / "train"), length, sequences, 0, VOCAB)
    return torch.stack([torch.from_numpy(batches.share(step)[1]) for step in range(args.steps)])


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="openai/parameter-golf's train_gpt.py (else ours alone)")
    parser.add_argument("--small", action="store_true", help="CPU shapes in fp32")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tokens", type=int, help="tokens a step (524,288; small: 2,048)")
    parser.add_argument("--text", type=Path, help="artifacts/tokens to draw batches from (else random tokens)")
    parser.add_argument("--flat-only", action="store_true", help="leave the recurrent model out")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--conf", type=Path, default=Path("conf"))
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    return parser.parse_args()


def main() -> None:
    """Measure the peer, our transformer of the same shape, and the recurrent model at each depth."""
    args = arguments()
    device, length = ("cpu", 256) if args.small else ("cuda", 1024)
    tokens = args.tokens or (2048 if args.small else 524_288)
    sequences, micro = tokens // length, min(tokens, 65_536) // length
    size = ("small", "small") if args.small else ("512", "832")
    flat, deep = f"transformer_{size[0]}", f"depth_recurrent_{size[1]}"
    flat_shape, deep_shape = (dict(compose(args.conf, model=name)["model"]) for name in (flat, deep))
    if args.small:
        flat_shape["mlp_ratio"] = 2.0  # the peer takes whole numbers
    batches = make_batches(args, sequences, length).to(device)
    context = autocast("fp32" if args.small else "bf16", torch.device(device))
    example, compiled, runs = batches[0, :micro, :-1].contiguous(), not args.no_compile, list[Run]()
    rows: list[dict[str, Any]] = []

    def finish(depth: int = 0, model: LanguageModel | None = None) -> None:
        """Measure what has gathered; the GPU measures each model alone, the CPU all in turns."""
        found = measure(runs, batches, micro, context)
        if model is not None and not args.small:
            share = flops_per_token(cast(Any, model.config), model.vocab_size, depth, length) / PEAK_FLOPS
            found[-1]["mfu"] = found[-1]["tokens_per_second"] * share
        rows.extend(found)
        runs.clear()

    if args.peer is not None:
        torch.manual_seed(args.seed)
        loss, update, _ = build_peer(load_peer(args.peer), flat_shape, device, compiled)
        runs.append(Run("peer", loss, update))
        if not args.small:
            finish()
    for name, shape in ((flat, flat_shape), (deep, deep_shape))[: 1 if args.flat_only else 2]:
        for depth in range(1, shape.get("repeats", 1) + 1):
            torch.manual_seed(args.seed)
            loss, update, model = build_ours(shape, depth, example, context, compiled)
            runs.append(Run(f"{name} depth {depth}", loss, update))
            if not args.small:
                finish(depth, model)
    if args.small:
        finish()
    print(f"losses, nats per token: {json.dumps({row['model']: row['losses_nats'] for row in rows})}")
    for row in rows:
        ratio = f"  {row['tokens_per_second'] / rows[0]['tokens_per_second']:.3f} x peer" if args.peer else ""
        mfu = f"  MFU {row['mfu']:.1%}" if "mfu" in row else ""
        times = f"{row['step_ms']:.1f} ms a step ({row['forward_backward_ms']:.1f} forward and backward)"
        print(f"{row['model']:<34} {row['tokens_per_second']:>12,.0f} tokens/s  {times}{mfu}{ratio}")
    if args.out:
        page = {"torch": torch.__version__, "device": device, "rows": rows}
        args.out.write_text(json.dumps(page, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
