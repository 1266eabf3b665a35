"""Precision and compilation of the loss: one graph per depth, all made before the clock starts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from golf.base.errors import GolfError
from golf.models.base import LanguageModel

__all__ = ["NotCompiledError", "autocast", "deterministic", "has_bf16", "prepare_loss"]

LossFn = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products are native (Ampere or later; AVX-512 BF16 or AMX on CPUs), not emulated."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    probes = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(probe is not None and probe() for probe in probes)


def autocast(precision: Literal["bf16", "fp32"], device: torch.device) -> torch.autocast:
    """Autocast to bf16 when asked for and native, else a context that changes nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" and has_bf16(device))


class NotCompiledError(GolfError):
    """The compiler cannot make a graph of the loss here."""


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """On CPUs, only algorithms whose sums have a fixed order (compiled scatter-adds race otherwise).

    GPU runs are reproducible to rounding only; demanding more costs speed and an environment variable of cuBLAS.
    """
    before = torch.are_deterministic_algorithms_enabled()
    flags: Any = torch.utils.deterministic
    fill = flags.fill_uninitialized_memory
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        flags.fill_uninitialized_memory = False  # costs a pass over every new tensor
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        flags.fill_uninitialized_memory = fill


def prepare_loss(
    model: LanguageModel,
    depths: tuple[int, ...],
    example: tuple[torch.Tensor, torch.Tensor],
    context: torch.autocast,
    *,
    whole: bool | None = None,
    **options: Any,
) -> LossFn:
    """``model.loss`` compiled and run once per depth on ``example`` (ids, targets).

    ``whole``: one graph per depth, else one per kind of layer, shared by all depths. By default whole on GPUs, for
    models that can be traced so; not on CPUs, where the unrolled graphs take minutes to compile and run no faster.
    ``options`` go to ``torch.compile``. Weights and gradients are left as they were. Raises ``NotCompiledError`` with
    the compiler's reason, after which ``model.loss`` runs eagerly again.
    """
    ids, targets = example[0], example[1].clone()  # one tensor in both places would be part of the graph's guards
    loss_fn: LossFn = model.loss
    if example[0].is_cuda and model.whole_graph if whole is None else whole:
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * len(depths) + 8)
        loss_fn = torch.compile(model.loss, dynamic=False, fullgraph=True, **options)
    else:
        model.compile_layers(**options)
    try:
        for depth in depths:
            model.set_depth(depth)
            with context:
                loss = loss_fn(ids, targets)
            loss.backward()
    except torch.OutOfMemoryError:  # no fault of the compiler
        raise
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        model.compile_layers(disable=True)
        raise NotCompiledError(f"torch.compile is not possible here ({first})") from error
    finally:
        model.zero_grad(set_to_none=True)
    return loss_fn
