"""Attention that stays inside a document: in one pass over packed texts, and in streaming.

Shapes: ``B`` batch, ``T`` tokens, ``H`` query heads, ``K`` key/value heads, ``E`` head width, ``N`` segments, ``t``
tokens of one streaming pass. A segment begins at the first token of a row, at the first token of each document, and
after every ``context`` tokens inside a document. A token attends to its own segment, up to itself. Source:
openai/parameter-golf PR #1855; the kernel for segments of unequal length is torch's own on CUDA.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from golf.models.layers import causal_attention
from golf.models.stream import StreamState, StreamStep

__all__ = ["DocumentPass", "DocumentStep", "segment_starts"]


def segment_starts(ids: np.ndarray, bos_id: int, context: int | None = None) -> np.ndarray:
    """Where a segment begins, (B,T) bool, in ``ids`` (B,T); without ``context`` at row and document starts alone."""
    place = np.arange(ids.shape[1])
    begun = np.maximum.accumulate(np.where(ids == bos_id, place, 0), axis=1)
    inside = place - begun  # tokens since the document's first
    starts: np.ndarray = inside % context == 0 if context else inside == 0
    return starts


class DocumentPass:
    """Stands where a ``StreamStep`` does, for rows ``ids`` (B,T) that are attended to in one pass.

    Rows are laid end to end, so a segment is a run of tokens whatever row it is in. ``known`` (B,T) are the same tokens
    in the host's memory; without them they are copied there, which waits for what a GPU was given to do.
    """

    def __init__(
        self, ids: Tensor, bos_id: int, context: int | None = None, *, known: np.ndarray | None = None
    ) -> None:
        known = ids.cpu().numpy() if known is None else known
        if known.shape != ids.shape:
            raise ValueError(f"known: found shape {known.shape}, expected that of ids, {tuple(ids.shape)}")
        bounds = np.append(np.flatnonzero(segment_starts(known, bos_id, context)), known.size)
        self._lengths: list[int] = np.diff(bounds).tolist()
        on_host = torch.from_numpy(bounds.astype(np.int32))
        if ids.is_cuda:  # from pinned memory a copy does not wait
            on_host = on_host.pin_memory()
        self._bounds = on_host.to(ids.device, non_blocking=True)  # (N + 1,)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend with ``q`` (B,H,T,E) over ``k``, ``v`` (B,K,T,E). Returns (B,H,T,E)."""
        if len(self._lengths) == q.size(0):  # one segment a row
            return causal_attention(q, k, v)
        rows = q.size(0)
        q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # (B T, heads, E)
        y = self._varlen(q, k, v) if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) else self._each(q, k, v)
        return y.unflatten(0, (rows, -1)).transpose(1, 2)

    def _each(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Segment by segment, as CPUs have no kernel for all of them and a mask would compute what it hides."""
        pieces = zip(*(x.split(self._lengths) for x in (q, k, v)), strict=True)
        outs = [causal_attention(*(x.transpose(0, 1)[None] for x in piece))[0].transpose(0, 1) for piece in pieces]
        return torch.cat(outs)

    def _varlen(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn  # of CUDA alone, in 16 bits

        longest, group = max(self._lengths), q.size(1) // k.size(1)
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))  # older releases know no grouped heads here
        y = varlen_attn(q, k, v, self._bounds, self._bounds, longest, longest, window_size=(-1, 0))
        assert isinstance(y, Tensor)
        return y


class DocumentStep(StreamStep):
    """A streaming pass over ``ids`` (B,t) whose tokens see the kept keys of their own document only."""

    def __init__(self, state: StreamState, ids: Tensor, bos_id: int) -> None:
        positions = torch.arange(state.position, state.position + ids.size(1), device=ids.device)
        begun = torch.where(ids == bos_id, positions, state.first[:, None])
        self._first = begun.cummax(dim=1).values  # (B,t), earliest position that each token may attend to
        super().__init__(state, ids.size(1))

    def _block(self, begin: int, end: int) -> tuple[slice, slice, Tensor | None]:
        queries, slots, mask = super()._block(begin, end)
        state = self.state
        seen = torch.arange(slots.start, slots.stop, device=self._first.device) + (state.position - state.filled)
        others = (seen < self._first[:, begin:end, None])[:, None]  # (B,1,q,n), keys of earlier documents
        return queries, slots, (state.band.new_zeros(()) if mask is None else mask).masked_fill(others, -torch.inf)

    def finish(self) -> None:
        """Advance the state behind the tokens of this pass, the documents they began in included."""
        self.state.first, self.state.resets = self._first[:, -1], True
        super().finish()
