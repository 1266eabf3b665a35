"""Faults that a GPU would find, each put into the running code, so that a check of `probe.py` can be seen to fail."""

from __future__ import annotations

import contextlib
import functools
from typing import Any
from unittest import mock


def _read() -> Any:
    """The norm of the gradients is read in every step."""
    import torch

    clip = torch.nn.utils.clip_grad_norm_

    def read(parameters: Any, limit: float) -> Any:
        norm = clip(parameters, limit)
        assert float(norm) < 1e9
        return norm

    return mock.patch.object(torch.nn.utils, "clip_grad_norm_", read)


def _host() -> Any:
    """Rotary tables are made on the host."""
    from golf.models import block

    tables = block.rope_tables
    return mock.patch.object(block, "rope_tables", lambda positions, *args: tables(positions.cpu(), *args))


def _padding() -> Any:
    """What pads the last ranks of Muon lies on the host."""
    import torch

    from golf.training import muon

    zeros = torch.zeros_like

    def padded_on_host(like: Any, dtype: Any = None, **more: Any) -> Any:
        return zeros(like, dtype=dtype, **more).cpu() if dtype is torch.bfloat16 else zeros(like, dtype=dtype, **more)

    return mock.patch.object(muon.torch, "zeros_like", padded_on_host)


def _kept() -> Any:
    """A norm keeps more than it needs for backward."""
    from golf.models import block

    norm = block.rms_norm

    def kept_twice(x: Any, eps: float) -> Any:
        return norm(x.float(), eps).to(x.dtype) * x.new_ones(x.shape)  # the ones are kept for backward

    return mock.patch.object(block, "rms_norm", kept_twice)


def _segments() -> Any:
    """The host does not know where the documents of a batch begin."""
    from golf.models import record

    return mock.patch.object(record.Record, "knowing", lambda model, ids: contextlib.nullcontext())


def _messages() -> Any:
    """Every gradient is sent by itself."""
    from golf.training import loop

    one = functools.partial(loop.GradientMean, bucket_bytes=1)
    return mock.patch.object(loop, "GradientMean", lambda parameters, group, **more: one(parameters, group))


def _break() -> Any:
    """A layer cannot be traced."""
    import torch

    from golf.models import block

    norm = block.rms_norm

    def breaking(x: Any, eps: float) -> Any:
        torch._dynamo.graph_break()
        return norm(x, eps)

    return mock.patch.object(block, "rms_norm", breaking)


def _depths() -> Any:
    """Only the first depth is prepared before the clock."""
    from golf.training import loop

    prepare = loop.prepare_loss

    def first(model: Any, depths: Any, *args: Any, **more: Any) -> Any:
        return prepare(model, depths[:1], *args, **more)

    return mock.patch.object(loop, "prepare_loss", first)


def _snapshot() -> Any:
    """A snapshot is copied at once."""
    from golf.training import writer

    def copied(tensors: Any) -> Any:
        return {name: tensor.detach().cpu() for name, tensor in tensors.items()}, lambda: None

    return mock.patch.object(writer, "on_host", copied)


def _rows() -> Any:
    """The nats of every row are fetched by themselves."""
    import numpy as np

    from golf.scoring import network

    def row_by_row(rows: Any) -> Any:
        return np.array([float(logits.logsumexp(0)) for logits in rows.logits])

    return mock.patch.object(network, "target_nats", row_by_row)


def _batches() -> Any:
    """The held-out loss is read for every batch."""
    from golf.models import base

    loss = base.LanguageModel.loss

    def read(model: Any, ids: Any, targets: Any) -> Any:
        found = loss(model, ids, targets)
        assert float(found) < 1e9
        return found

    return mock.patch.object(base.LanguageModel, "loss", read)


def _activations() -> Any:
    """`calibrate` fetches the inputs of every matrix, and multiplies on the host."""
    import torch

    register = torch.nn.Linear.register_forward_pre_hook

    def fetching(module: Any, hook: Any) -> Any:
        return register(module, lambda module, inputs: hook(module, (inputs[0].cpu(),)))

    return mock.patch.object(torch.nn.Linear, "register_forward_pre_hook", fetching)


FAULTS = {
    "read": _read, "host": _host, "padding": _padding, "kept": _kept, "segments": _segments, "messages": _messages,
    "break": _break, "depths": _depths, "snapshot": _snapshot, "rows": _rows, "batches": _batches,
    "activations": _activations,
}  # fmt: skip
