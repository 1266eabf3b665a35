"""Every kernel of the GPU presets assembled for an H100, on a machine without one: `make cuda-kernels` (an hour).

    python tests/cuda/kernels.py [--preset NAME] [--depth N] [--sequences N] [--layers] [--out FILE.md] [KEY=VALUE ...]

The loss of a preset is compiled at each depth as `stages.train` does it (with ``--layers`` one graph for each kind of
layer, in a fraction of the time), on a pretended GPU, by Inductor and by the Triton of PyPI, whose assembler makes code
for sm_90. Nothing runs. Each kernel states the bytes that it moves, the graphs state the products; both, times how
often a pass calls the graph, over what an H100 was seen to do, give the milliseconds of a step. A kernel that does not
assemble ends it. The page stands beside what the last one said.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import re
import shlex
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import pretend  # noqa: E402
import probe  # noqa: E402

PRESETS = ("h100x8_10min", "h100x8_4h", "gdn_hybrid_h100x8_10min", "record_h100x8_10min", "record12_h100x8_10min")
# what an H100 kept of bf16 products, bytes of elementwise kernels and attention (docs/results/gpu_h100.md), and what
# else a step of 8 GPUs takes
TERAFLOPS, TERABYTES, ATTENTION_TERAFLOPS, OTHER_MS = 570.0, 2.7, 240.0, 2.5
PROPERTIES = types.SimpleNamespace(
    name="NVIDIA H100", multi_processor_count=132, major=9, minor=0, warp_size=32, regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048, max_threads_per_block=1024, shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448, shared_memory_per_multiprocessor=233472, total_memory=80 << 30,
    gcnArchName="", L2_cache_size=50 << 20, integrated=False,
)  # fmt: skip


@dataclass
class Graph:
    """Forward or backward of a compiled function: kernels by name with their bytes and launches, operations."""

    kernels: dict[str, int] = field(default_factory=dict)  # name: bytes of a launch
    launches: Counter[str] = field(default_factory=Counter)
    product_flops: float = 0.0
    attention_flops: float = 0.0
    calls: int = 0  # in one pass


@dataclass
class Seen:
    """What one depth's graphs hold, and operations of the attention between them."""

    graphs: list[Graph] = field(default_factory=list)
    configurations: int = 0  # assembled
    wide: list[str] = field(default_factory=list)  # kernels that compute in float64: their bytes do not tell their time
    attention_between: float = 0.0

    @property
    def kernel_bytes(self) -> float:
        """Bytes that all launches of one forward and backward pass move."""
        return float(sum(
            graph.calls * graph.kernels.get(name, 0) * times
            for graph in self.graphs for name, times in graph.launches.items()
        ))  # fmt: skip

    @property
    def launches(self) -> int:
        """Of one pass."""
        return sum(graph.calls * graph.launches.total() for graph in self.graphs)

    @property
    def product_flops(self) -> float:
        """Operations of the matrix products of one pass."""
        return sum(graph.calls * graph.product_flops for graph in self.graphs)

    @property
    def attention_flops(self) -> float:
        """Operations of the attention of one pass."""
        return self.attention_between + sum(graph.calls * graph.attention_flops for graph in self.graphs)

    def milliseconds(self, passes: float) -> float:
        """Predicted time of a step with so many micro batches."""
        seconds = self.product_flops / TERAFLOPS + self.attention_flops / ATTENTION_TERAFLOPS
        return passes * (seconds + self.kernel_bytes / TERABYTES) / 1e9 + OTHER_MS


@contextlib.contextmanager
def assembling(seen: Seen) -> Iterator[None]:
    """Inductor for an H100 that is not there: kernels are assembled, noted in ``seen`` and never loaded."""
    import torch
    from torch._dynamo import device_interface
    from torch._inductor import config as inductor
    from torch._inductor import graph as lowering
    from torch._inductor.runtime import triton_heuristics
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia import driver as nvidia
    from triton.runtime import driver

    def noted(tuner: Any) -> None:
        gigabytes = tuner.inductor_meta.get("kernel_num_gb") or 0.0
        seen.graphs[-1].kernels[tuner.inductor_meta.get("kernel_name", tuner.fn.__name__)] = round(gigabytes * 1e9)
        seen.configurations += len(tuner.compile_results)
        tuner.launchers = [lambda *args, **more: None] * len(tuner.compile_results)

    def written(code: str) -> None:
        sources = re.findall(r"async_compile\.triton\('(\w+)', '''(.*?)'''", code, re.DOTALL)
        seen.wide += [name for name, source in sources if "tl.float64" in source]
        seen.graphs[-1].launches.update(re.findall(r"^\s+(triton_\w+)\.run\(", code, re.MULTILINE))

    class Driver(nvidia.CudaDriver):
        def __init__(self) -> None:  # the parent's looks for libcuda
            self.utils = types.SimpleNamespace(get_device_properties=lambda device: {"max_shared_mem": 232448})
            self.get_current_device = self.get_current_stream = lambda *args: 0

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", 90, 32)

    cuda, interface = torch.cuda, device_interface.CudaInterface
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(nvidia.CudaDriver, "__init__", lambda self: None))
        driver.set_active(Driver())
        for owner in (cuda, interface, interface.Worker):
            stack.enter_context(mock.patch.object(owner, "get_device_properties", lambda *args: PROPERTIES))
        for owner, prefix in ((cuda, "_"), (interface, "")):
            for name in ("exchange_device", "maybe_exchange_device"):
                stack.enter_context(mock.patch.object(owner, prefix + name, lambda *args: 0))
        for name, value in (("current_device", 0), ("get_raw_stream", 0), ("is_available", True), ("set_device", None)):
            stack.enter_context(mock.patch.object(interface, name, lambda *args, _value=value: _value))
        stack.enter_context(mock.patch.object(torch._C, "_cuda_getCurrentRawStream", lambda *args: 0, create=True))
        stack.enter_context(mock.patch.object(torch.version, "cuda", "13.0"))
        stack.enter_context(mock.patch.object(triton_heuristics.CachingAutotuner, "_make_launchers", noted))
        stack.enter_context(mock.patch.object(lowering.GraphLowering, "save_output_code", staticmethod(written)))
        stack.enter_context(inductor.patch(
            compile_threads=1, use_static_cuda_launcher=False, profile_bandwidth=True, fx_graph_cache=False,
        ))  # fmt: skip
        yield


def backend(seen: Seen) -> Any:
    """A backend that lowers and assembles forward and backward, counts their products, and lets neither run."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table

    def lowered(module: Any, inputs: Any) -> Any:
        graph = Graph()
        seen.graphs.append(graph)
        count_products(module, graph)
        compile_fx_inner(copy.deepcopy(module), inputs)

        def run(*args: Any) -> Any:
            graph.calls += 1
            return module.forward(*args)

        return run

    from torch._functorch.partitioners import min_cut_rematerialization_partition

    return aot_autograd(fw_compiler=lowered, bw_compiler=lowered, decompositions=select_decomp_table(),
                        partition_fn=min_cut_rematerialization_partition)  # fmt: skip


def count_products(module: Any, graph: Graph) -> None:
    """Adds the operations of every matrix product and attention of the ``graph`` made of ``module``."""
    import torch

    aten = torch.ops.aten
    for node in module.graph.nodes:
        packet = getattr(node.target, "_overloadpacket", None)
        if packet in (aten.mm, aten.bmm, aten.addmm, aten.baddbmm):
            left = node.args[-2].meta["val"].shape
            graph.product_flops += 2.0 * node.meta["val"].numel() * left[-1]
        elif packet is not None and "scaled_dot_product" in packet.__name__:
            backward = "backward" in packet.__name__
            q, k = (node.args[1 + i if backward else i].meta["val"].shape for i in (0, 1))
            products = 5 if backward else 2  # of T x T by the width of a head; causal: half of each
            graph.attention_flops += products * q[0] * q[1] * q[2] * k[2] * q[3]


def attend_between(seen: Seen, context: int) -> Any:
    """In place of `DocumentPass.attend`: segments of ``context`` tokens, their operations counted."""

    def attend(documents: Any, q: Any, k: Any, v: Any) -> Any:
        rows, heads, tokens, width = q.shape
        seen.attention_between += 7.0 * rows * heads * width * tokens * min(context, tokens)
        return q + 0 * (k + v).repeat_interleave(heads // k.size(1), dim=1)  # with the gradients that they have

    return attend


def of_preset(preset: str, wanted: argparse.Namespace) -> Iterator[tuple[int, tuple[Seen, float, int]]]:
    """By depth: what the loss of a micro batch compiles to, the micro batches of a step of 8 GPUs, its sequences."""
    import torch
    import torch.nn.functional as F

    from golf.models.document_attention import DocumentPass
    from golf.training.compiling import prepare_loss
    from golf.training.config import context_at

    def flash(q: Any, k: Any, v: Any, *, is_causal: bool = False, enable_gqa: bool = False, **more: Any) -> Any:
        groups = q.size(1) // k.size(1)
        k, v = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (k, v))
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, is_causal=is_causal)[0]

    values = probe.parameters(preset, *wanted.overrides)
    depths = {depth for _, depth in values["train"]["depth_phases"]} or {1}
    for depth in sorted(depths & {wanted.depth} if wanted.depth else depths):
        seen, began = Seen(), time.process_time()
        torch.compiler.reset()
        with pretend.gpu(), pretend.group(0) as (group, _), probe.stand_in_kernel(), assembling(seen):
            trainer = probe.trainer_of(values, group)
            rows = min(wanted.sequences or trainer.micro, trainer.micro)
            ids = torch.zeros(rows, trainer.config.sequence_length, dtype=torch.int64, device="cuda:0")
            until = next((until for until, at in trainer.config.depth_phases if at == depth), 1.0)
            context = context_at(until - 1e-6, trainer.config.context_phases) or trainer.config.sequence_length
            with (
                mock.patch.object(F, "scaled_dot_product_attention", flash),
                mock.patch.object(DocumentPass, "attend", attend_between(seen, context)),
            ):
                prepare_loss(trainer.model, (depth,), (ids, ids), trainer.context,
                             whole=False if wanted.layers else None, backend=backend(seen))  # fmt: skip
            micro = trainer.config.tokens_per_step / pretend.WORLD / ids.numel()
        print(f"{preset} depth {depth}: {time.process_time() - began:.0f} s", flush=True)
        if seen.wide:
            raise SystemExit(f"{preset} depth {depth}: computes in float64: {', '.join(seen.wide)}")
        yield depth, (seen, micro, rows)


_ROW = re.compile(r"^\| `(\S+)` \| (\d+) \|.*\| ([\d.]+) \|[^|]*\|$", re.MULTILINE)


def milliseconds_of(page: str) -> dict[tuple[str, int], str]:
    """The predicted milliseconds that a ``page`` states, by preset and depth."""
    return {(name, int(depth)): ms for name, depth, ms in _ROW.findall(page)}


def page(found: dict[tuple[str, int], tuple[Seen, float, int]], before: str, command: str) -> str:
    """The results as Markdown, beside the milliseconds of the page that was there ``before``."""
    last = milliseconds_of(before)
    lines = [
        "# Predicted milliseconds of a training step on 8 H100",
        "",
        "No GPU is needed. Inductor and Triton make the kernels for sm_90 on a CPU; of each, one configuration or more",
        "assembled, as many as are counted. Bytes are those that each kernel states, products and attention those of",
        "the graphs; of one micro batch, forward and backward. A step is reckoned as its micro batches at",
        f"{TERAFLOPS:g} TFLOP/s of products, {ATTENTION_TERAFLOPS:g} of attention and {TERABYTES:g} TB/s of kernels,",
        f"one after another, and {OTHER_MS:g} ms for optimizer, messages and launches.",
        "Those rates are what two presets kept on an H100 ([gpu_h100.md](gpu_h100.md)). What runs between several",
        "graphs is left out, but not attention: there over segments as long as the context at the end of that depth,",
        "which is the most. The hybrid's delta rule runs in kernels of flash-linear-attention, which are left out too.",
        f"\n    {command}\n",
        "| preset | depth | sequences | graphs | kernels | launches | configurations | GB | TFLOP | attention TFLOP "
        "| ms a step | before |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for (preset, depth), (seen, micro, rows) in found.items():
        lines.append(
            f"| `{preset}` | {depth} | {rows} | {len(seen.graphs)} "
            f"| {sum(len(graph.kernels) for graph in seen.graphs)} | {seen.launches} "
            f"| {seen.configurations} | {seen.kernel_bytes / 1e9:.2f} | {seen.product_flops / 1e12:.2f} "
            f"| {seen.attention_flops / 1e12:.2f} | {seen.milliseconds(micro):.1f} "
            f"| {last.get((preset, depth), '')} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compile, print, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", choices=PRESETS, help="may be repeated (default: all)")
    parser.add_argument("--sequences", type=int, default=0, help="of a micro batch at most (default: the preset's)")
    parser.add_argument("--depth", type=int, default=0, help="one depth alone (default: all of the preset)")
    parser.add_argument("--layers", action="store_true", help="a graph for each kind of layer, not for the whole loss")
    parser.add_argument("--out", type=Path, help="the page to write")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE, as of `golf params`")
    arguments = parser.parse_args()
    pretend.load_shim(pretend.build_shim(Path(tempfile.mkdtemp())))
    found = {}
    for preset in arguments.preset or PRESETS:
        for depth, result in of_preset(preset, arguments):
            found[preset, depth] = result
            print(page({(preset, depth): result}, "", "").splitlines()[-1], flush=True)
    if arguments.out:
        before = arguments.out.read_text(encoding="utf-8") if arguments.out.is_file() else ""
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        command = f"python tests/cuda/kernels.py {shlex.join(sys.argv[1:])}    # at {commit.stdout.strip()}"
        arguments.out.write_text(page(found, before, command), encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
