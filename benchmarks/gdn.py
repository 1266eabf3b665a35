"""Speed of the gated delta rule (token loop, chunks, fla) and of attention, by context length.

    python -m benchmarks.gdn [--contexts 256,512,1024,2048] [--tokens N] [--repeats N] [--device DEVICE] [--report FILE]

Every row runs the same number of tokens (batch = tokens / context) forward and backward at 8 heads of 64 channels, the
published layer's; what is shown is the best of the repeats in microseconds per token, which on a busy machine is the
least disturbed. CPU times are of this process (all its threads); CUDA times are of the device. Attention is causal over
the whole context, and over a window of 512. On CUDA, flash-linear-attention's kernel is timed when it is installed and
agrees with ours, in bf16; all else runs in float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from golf.base.files import write_text
from golf.models.gated_delta import chunked_delta_rule, disagreement, fla_delta_rule
from golf.models.layers import causal_attention
from golf.models.sliding_attention import window_attention
from tests.support.gated_delta_naive import naive_delta_rule

HEADS, WIDTH, WINDOW = 8, 64, 512
NAIVE_MOST = 512  # tokens of context above which the token loop is left out
Loss = Callable[[list[Tensor]], Tensor]


def make_inputs(tokens: int, context: int, device: str) -> list[Tensor]:
    """q, k, v (B,H,T,E), g and beta (B,H,T), all wanting gradients."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(max(1, tokens // context), HEADS, context, *shape, generator=generator).to(device)

    q, k = (F.normalize(random(WIDTH), dim=-1) for _ in range(2))
    return [x.requires_grad_() for x in (q, k, random(WIDTH), -0.1 * random().abs(), random().sigmoid())]


def cases(device: str) -> dict[str, Loss]:
    """Name of each timed function."""
    found: dict[str, Loss] = {
        "token loop": lambda x: naive_delta_rule(*x)[0],
        "chunks of 64": lambda x: chunked_delta_rule(*x)[0],
        "chunks of 32": lambda x: chunked_delta_rule(*x, chunk=32)[0],
        "attention, whole context": lambda x: causal_attention(*x[:3]),
        f"attention, window {WINDOW}": lambda x: window_attention(x[0], x[1], x[2], WINDOW),
    }
    if device == "cuda":
        try:
            from fla.ops.gated_delta_rule import chunk_gated_delta_rule
        except ImportError as error:
            print(f"flash-linear-attention: {error}; its row is left out")
            return found
        rule = fla_delta_rule(chunk_gated_delta_rule)
        problem = disagreement(rule, WIDTH, WIDTH, device)
        print(f"flash-linear-attention against ours: {problem or 'agrees'}")
        found["flash-linear-attention, bf16"] = lambda x: rule(*x)[0]
    return found


def seconds(function: Callable[[], None], device: str) -> float:
    """One run, after the device is idle."""
    if device == "cuda":
        torch.cuda.synchronize()
        begin = time.perf_counter()
        function()
        torch.cuda.synchronize()
        return time.perf_counter() - begin
    begin = time.process_time()
    function()
    return time.process_time() - begin


def best_microseconds(case: Loss, inputs: list[Tensor], repeats: int, device: str, *, backward: bool) -> float:
    """Per token, the best of ``repeats`` runs after one to warm up."""

    def run() -> None:
        with torch.set_grad_enabled(backward):
            out = case(inputs)
            if backward:
                torch.autograd.grad(out.sum(), [x for x in inputs if x.requires_grad], allow_unused=True)

    run()
    taken = min(seconds(run, device) for _ in range(repeats))
    return 1e6 * taken / (inputs[0].size(0) * inputs[0].size(2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", default="256,512,1024,2048")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of a run: batch x context")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--report", type=Path, help="write the table here as Markdown")
    args = parser.parse_args()
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    lines = [f"{where}; {HEADS} heads of {WIDTH}; microseconds per token, forward / forward and backward", ""]
    contexts = [int(part) for part in args.contexts.split(",")]
    lines += ["| | " + " | ".join(map(str, contexts)) + " |", "|---" * (len(contexts) + 1) + "|"]
    for name, case in cases(args.device).items():
        cells = []
        for context in contexts:
            if name == "token loop" and context > NAIVE_MOST:
                cells.append("-")
                continue
            inputs = make_inputs(args.tokens, context, args.device)
            times = [best_microseconds(case, inputs, args.repeats, args.device, backward=b) for b in (False, True)]
            cells.append(f"{times[0]:.1f} / {times[1]:.1f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    print("\n".join(lines))
    if args.report:
        write_text(args.report, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
