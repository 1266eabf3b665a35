"""Attention in segments against a block mask, and what the kernel of CUDA is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from golf.models.document_attention import DocumentPass, segment_starts
from golf.models.layers import causal_attention


def _ids(rows: int, tokens: int, *, starts: tuple[int, ...] = (9, 10, 17)) -> Tensor:
    """Random tokens with documents that begin at ``starts`` in the first row and in the middle of the second."""
    ids = torch.randint(2, 50, (rows, tokens), generator=torch.Generator().manual_seed(1))
    ids[0, list(starts)] = 1
    ids[1, tokens // 2] = 1
    return ids


def test_segments_begin_at_rows_documents_and_every_context() -> None:
    ids = np.array([[5, 5, 5, 1, 5, 5, 5, 5, 5], [1, 5, 1, 1, 5, 5, 5, 5, 5]])
    assert np.argwhere(segment_starts(ids, 1)).tolist() == [[0, 0], [0, 3], [1, 0], [1, 2], [1, 3]]
    cut = segment_starts(ids, 1, 2)
    assert [np.flatnonzero(row).tolist() for row in cut] == [[0, 2, 3, 5, 7]] * 2


@pytest.mark.parametrize("context", [None, 1, 5, 100])
def test_attention_in_segments_equals_a_block_mask(context: int | None) -> None:
    ids = _ids(3, 31, starts=(0, 4, 11, 30))
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(3, heads, 31, 8, generator=generator, requires_grad=True) for heads in (4, 2, 2))
    segment = torch.from_numpy(segment_starts(ids.numpy(), 1, context)).cumsum(1)
    mask = (segment[:, None, :, None] == segment[:, None, None, :]) & torch.ones(31, 31, dtype=torch.bool).tril()
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    found = DocumentPass(ids, 1, context).attend(q, k, v)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    weights = torch.randn(found.shape, generator=generator)
    gradients = (torch.autograd.grad((y * weights).sum(), (q, k, v)) for y in (found, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_rows_without_a_document_start_take_one_batched_call() -> None:
    q = torch.randn(2, 2, 9, 4)
    assert torch.equal(DocumentPass(torch.full((2, 9), 5), 1).attend(q, q, q), causal_attention(q, q, q))


def test_on_cuda_segments_go_to_the_variable_length_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel itself is CUDA's; here its arguments, with a stand-in that knows its contract."""
    import torch.nn.attention.varlen as varlen

    def stand_in(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, *longest: int, **options: Any) -> Tensor:
        assert options == {"window_size": (-1, 0)} and cu_q.dtype == torch.int32 and torch.equal(cu_q, cu_k)
        assert int(cu_q.diff().max()) == longest[0] == longest[1] and q.shape == k.shape == v.shape
        pieces = [slice(a, b) for a, b in zip(cu_q.tolist(), cu_q.tolist()[1:], strict=False)]
        heads_first = [[x[piece].transpose(0, 1)[None] for x in (q, k, v)] for piece in pieces]
        return torch.cat([causal_attention(*one)[0].transpose(0, 1) for one in heads_first])

    monkeypatch.setattr(varlen, "varlen_attn", stand_in)
    ids = _ids(3, 20)
    q, k, v = (torch.randn(3, heads, 20, 8) for heads in (4, 2, 2))
    documents = DocumentPass(ids, 1, 7)
    flat = documents._varlen(*(x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)))
    torch.testing.assert_close(flat.unflatten(0, (3, 20)).transpose(1, 2), documents.attend(q, k, v))
