"""A GPU that is not there: the real code on tensors of `cuda:0` without memory, as one rank of a group of nobody.

``load_shim`` comes before `import torch`. Within ``gpu()`` every tensor is a ``FakeTensor``: shapes, dtypes and devices
are computed, nothing else. An operation over two devices fails as it would on a GPU, and so does every read of a number
by the host (``.item()``, ``float()``, ``bool()``), unless they are counted and answered with ones.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

WORLD = 8


def compiler() -> str | None:
    """A C++ compiler, if any."""
    return shutil.which("c++") or shutil.which("g++")


def build_shim(folder: Path) -> Path:
    """Compile the shim against the torch that is installed, without importing it (seconds)."""
    import importlib.util

    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.submodule_search_locations
    torch, library = Path(spec.submodule_search_locations[0]), folder / "libshim.so"
    command = [compiler() or "c++", "-O0", "-std=c++20", "-shared", "-fPIC", str(Path(__file__).with_name("shim.cpp"))]
    command += ["-o", str(library), f"-I{torch / 'include'}", f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu"]
    subprocess.run([*command, f"-Wl,-rpath,{torch / 'lib'}"], check=True)
    return library


def load_shim(library: Path) -> None:
    """Register the hooks; too late once torch is imported."""
    assert "torch" not in sys.modules
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


@contextmanager
def gpu() -> Iterator[Waits]:
    """Everything in here sees one H100, whose tensors have no memory; counts what makes the host wait for it."""
    import numpy as np
    import torch
    from torch import nn
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    waits = Waits(Counter())
    answers: dict[str, Any] = {
        "is_available": True, "is_bf16_supported": True, "get_device_capability": (9, 0), "current_device": 0,
        "device_count": 1, "set_device": None, "_lazy_init": None, "set_rng_state": None,
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        "is_current_stream_capturing": False, "get_device_name": "pretended",
    }  # fmt: skip

    as_numpy = torch.Tensor.numpy

    def numpy(tensor: Any, force: bool = False) -> Any:
        if tensor.device.type == "cuda":
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if not isinstance(tensor, FakeTensor):  # of the host, and with memory
            return as_numpy(tensor, force=force)
        return np.ones(tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))

    def tolist(tensor: Any) -> Any:
        waits.note("read", tensor)
        return np.ones(tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch.")).tolist()

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.cuda, "Event", mock.Mock))
        for name, value in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda *args, _value=value, **more: _value))
        stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", lambda self: self))
        stack.enter_context(mock.patch.object(torch.Tensor, "numpy", numpy))
        stack.enter_context(mock.patch.object(torch.Tensor, "tolist", tolist))
        stack.enter_context(mock.patch.object(nn.Module, "to", _moved))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield waits


class Waits:
    """``counts``: how often the host waits for the GPU, by kind. ``read``: a number (`.item()`, `float()`, `bool()`,
    `.tolist()`); ``down``: a tensor; ``size``: a result whose size depends on values (`nonzero`, `bincount`). ``up``
    counts copies to the GPU, ``behind`` those from it that are queued behind its work: both wait for nothing.
    ``launched`` counts what gives the GPU work, see ``launches``."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts

    def note(self, kind: str, tensor: Any) -> None:
        """One more, if ``tensor`` is on the GPU."""
        if tensor.device.type == "cuda":
            self.counts[kind] += 1

    @contextmanager
    def counted(self, *, answered: bool) -> Iterator[Counter[str]]:
        """The counts of what runs in here. Unless ``answered`` (with ones), a read fails and names its line."""
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode

        aten, waits = torch.ops.aten, self
        self.counts.clear()

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                packet = func._overloadpacket
                if packet in (aten._local_scalar_dense, aten.item, aten.is_nonzero) and answered:
                    waits.note("read", args[0])
                    return {torch.bool: True}.get(args[0].dtype, 1.0 if args[0].dtype.is_floating_point else 1)
                if packet is aten.bincount:
                    waits.note("size", args[0])
                    waits.note("launched", args[0])
                    return torch.empty((kwargs or {}).get("minlength", 1), dtype=torch.int64, device=args[0].device)
                if packet in (aten.nonzero, aten.masked_select, aten._unique2):
                    waits.note("size", args[0])
                out = func(*args, **(kwargs or {}))
                waits.counts["launched"] += launches(func, (args, kwargs), out)
                if packet in (aten._to_copy, aten.copy_, aten.to, aten.cpu):  # the last two without gradients
                    source = args[1] if packet is aten.copy_ else args[0]
                    if source.device != out.device:
                        queued = packet is aten.copy_ and True in args[2:]  # non_blocking, into pinned memory
                        down = "behind" if queued else "down"
                        waits.counts[down if source.device.type == "cuda" else "up"] += 1
                return out

        with Mode():
            yield self.counts


def launches(func: Any, given: Any, out: Any) -> bool:
    """Whether an operation gives the GPU work: it writes to a tensor there, a new one or one that it was ``given``.

    Copies and fills count; views, empty tensors and what hands on an input as it is do not. Each counts once, however
    many kernels it is; a copy to the host counts as what it is, not here. Without gradients some operations come whole
    (`linear`), else as what autograd makes of them. Nothing is compiled: a compiled model launches less.
    """
    import torch
    from torch.utils._pytree import tree_leaves

    before, after = (
        [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor) and leaf.device.type == "cuda"]
        for tree in (given, out)
    )
    if func._schema.is_mutable:  # one on a list of tensors returns nothing
        return bool(after if isinstance(out, torch.Tensor) else before)
    if func._overloadpacket.__name__.startswith(("empty", "new_empty")):
        return False
    old = {tensor.untyped_storage()._cdata for tensor in before}
    return any(tensor.untyped_storage()._cdata not in old for tensor in after)


def _moved(module: Any, device: Any) -> Any:
    """``Module.to``, which cannot exchange the storage of a parameter without memory: new parameters, ties kept."""
    import torch
    from torch import nn

    new: dict[int, nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                if id(parameter) not in new:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                    new[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
                owner._parameters[name] = new[id(parameter)]
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                owner._buffers[name] = buffer.to(device)
    return module


@contextmanager
def group(rank: int, world: int = WORLD) -> Iterator[tuple[Any, Counter[str]]]:
    """``rank`` of ``world`` processes whose messages arrive at once and hold nothing, and a count of what is sent."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from golf.base.distributed import Ranks

    class Alone(Ranks):
        def decide(self, values: Any) -> list[float]:
            return list(values)

        def first_problem(self, problem: str | None) -> str | None:
            return problem and f"process {rank} of {world}: {problem}"

    sent: Counter[str] = Counter()

    def counted(name: str) -> Any:
        original = getattr(dist, name)

        def call(*args: Any, **more: Any) -> Any:
            sent[name] += 1
            return original(*args, **more)

        return call

    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    names = [name for name in ("all_reduce", "all_gather_single", "broadcast", "barrier") if hasattr(dist, name)]
    try:
        with ExitStack() as stack:
            for name in names:
                stack.enter_context(mock.patch.object(dist, name, counted(name)))
            yield Alone(rank, world), sent
    finally:
        dist.destroy_process_group()
