"""The record stack: a transformer whose middle layers are applied several times, and whose last ones run in two lanes.

Shapes: ``B`` batch, ``T`` tokens, ``D`` width, ``H`` query heads, ``K`` key/value heads, ``E`` head width, ``V``
vocabulary. Source: openai/parameter-golf PR #1855 and its lineage.

One pass is a list of applications of layers: 0 to the last of the loop, the loop again for every further repeat, then
the rest. The first half of the list is the encoder, whose outputs come back last-in first-out in the decoder through a
gated mix. From the first decoder application of layer ``lanes_from`` on the stream is two lanes: attention reads one,
the MLP the other, and learned scalars say how much of both goes to each. With ``hash_rows`` the embedding knows the
bigram and the trigram that end at its token. Attention and the embedding stop at the first token of a document, so no
document knows what stood before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.models.attention_state import AttentionState
from golf.models.base import LanguageModel
from golf.models.configs.record import RecordConfig
from golf.models.document_attention import DocumentPass, DocumentStep
from golf.models.layers import activation_dtype, rms_norm, rope_tables
from golf.models.ngrams import NO_TOKEN, HashEmbedding, previous_tokens
from golf.models.record_block import (
    Heads,
    RecordBlock,
    SmearGate,
    attention_inputs,
    lanes_layer,
    mixed_skip,
    sequential_layer,
)
from golf.models.stream import StreamState, StreamStep

__all__ = ["Record", "RecordState"]


@dataclass
class RecordState(AttentionState):
    """What the model remembers of the tokens before: keys and values of every application, and the last two tokens."""

    last: Tensor  # (B,2) int64, -1 is none

    def reset(self, streams: Tensor) -> None:
        """Start a new text in the streams where ``streams`` (B,) bool is true: they forget all tokens so far."""
        self.attention.reset(streams)
        self.last = self.last.masked_fill(streams[:, None], NO_TOKEN)

    def num_bytes(self) -> int:
        """Bytes of all that is kept."""
        return self.attention.num_bytes() + self.last.numel() * self.last.element_size()


class Record(LanguageModel):
    """The stack with float32 masters, tied head and as many repeats of the loop as the depth says."""

    whole_graph = False  # attention runs between the compiled parts: its segments differ from batch to batch

    def __init__(self, config: RecordConfig, vocab_size: int) -> None:
        super().__init__(softcap=config.softcap, max_depth=config.repeats)
        self.config = config
        self.context: int | None = None  # tokens of a segment of attention at most; none: the whole document
        self._known: np.ndarray | None = None  # the tokens of the pass, where the host has them
        width, layers, full = config.width, config.layers, config.applications(config.repeats)
        skips = len(full) // 2 if config.skips else 0
        self.token_embedding = nn.Parameter(torch.randn(vocab_size, width) * 0.005)
        self.smear = SmearGate(config.smear_width) if config.smear_width else None
        self.hashes = HashEmbedding(config.hash_rows, config.hash_width, width) if config.hash_rows else None
        self.skip_scales = nn.Parameter(torch.ones(skips, width)) if skips else None
        self.skip_gates = nn.Parameter(torch.zeros(skips, width)) if skips else None
        lanes = config.lanes_from < layers
        self.lane_carry = nn.Parameter(torch.full((layers, 2), 1.1)) if lanes else None
        self.lane_shares = nn.Parameter(torch.ones(layers, 2, 2)) if lanes else None  # of attention and MLP, to each
        heads = Heads(width, config.heads, config.kv_heads, config.qk_gain, config.gate_width, config.exclusive)
        self.blocks = nn.ModuleList(
            RecordBlock(heads, config.mlp_width, config.negative_slope, config.norm_eps)
            for _ in range(1 + max(block for _, block in full))
        )
        scales = torch.arange(1, layers + 1, dtype=torch.float32).rsqrt() if config.layer_scale else torch.ones(layers)
        self.layer_scales = nn.Buffer(scales, persistent=False)

    def set_context(self, tokens: int | None) -> None:
        """From now on ``hidden`` cuts attention after every ``tokens`` tokens of a document; ``None``: never."""
        self.context = tokens

    @contextmanager
    def knowing(self, ids: np.ndarray) -> Iterator[None]:
        """Around ``hidden`` or ``loss`` of ``ids`` (B,T), which then are not read back from a GPU."""
        self._known = ids
        try:
            yield
        finally:
            self._known = None

    def kernel(self, device: torch.device) -> tuple[bool, str]:
        return True, "attention of segments by torch's variable-length flash attention"

    def hidden(self, ids: Tensor) -> Tensor:
        before = ids.new_full((ids.size(0), 2), NO_TOKEN)
        places = torch.arange(ids.size(1), device=ids.device)
        return self._run(ids, before, places, DocumentPass(ids, self.config.bos_id, self.context, known=self._known))

    def new_state(self, batch: int, window: int, chunk: int = 256) -> RecordState:
        config, table = self.config, self.token_embedding
        layers, head_dim = config.attention_layers(self.depth), config.width // config.heads
        size = (layers, batch, config.kv_heads, head_dim, window, chunk)
        attention = StreamState.empty(*size, activation_dtype(table), table.device)
        return RecordState(attention, torch.full((batch, 2), NO_TOKEN, dtype=torch.int64, device=table.device))

    def _step(self, ids: Tensor, state: RecordState) -> Tensor:
        stream = DocumentStep(state.attention, ids, self.config.bos_id)
        out = self._run(ids, state.last, stream.positions, stream)
        stream.finish()
        state.last = torch.cat((state.last, ids), dim=1)[:, -2:]
        return out

    def _embed(self, ids: Tensor, before: Tensor, dtype: torch.dtype) -> Tensor:
        """Normed embeddings (B,T,D) of ``ids`` (B,T), smeared, with those of the bigram and the trigram that end there.

        ``before`` (B,2) are the two tokens ahead of them.
        """
        e = F.embedding(ids, self.token_embedding).to(dtype)
        one, two = previous_tokens(ids, before, self.config.bos_id)
        if self.smear is not None:
            first = F.embedding(before[:, 1:].clamp_min(0), self.token_embedding).to(dtype)
            e = self.smear(e, torch.cat((first, e[:, :-1]), dim=1), one != NO_TOKEN)
        if self.hashes is not None:
            e = e + self.hashes(ids, one, two, dtype)
        return rms_norm(e, self.config.norm_eps)

    def _skipped(self, x: Tensor, place: int, kept: list[Tensor]) -> Tensor:
        """``x`` (B,T,D) mixed with the last of the ``kept`` outputs, which is used up, at ``place`` of the decoder."""
        if self.skip_scales is None or self.skip_gates is None or place < 0 or not kept:
            return x
        return self.layer_function(mixed_skip)(x, kept.pop(), self.skip_scales[place], self.skip_gates[place])

    def _run(self, ids: Tensor, before: Tensor, places: Tensor, source: DocumentPass | StreamStep) -> Tensor:
        """``ids`` (B,T) at ``places`` (T,) -> (B,T,D), attention over the keys of ``source``."""
        config, dtype = self.config, activation_dtype(self.token_embedding)
        rope = rope_tables(places, config.rope_dims, config.rope_base, dtype)
        applications = config.applications(self.depth)
        encoder = len(applications) // 2
        first_half: Any = self.layer_function(cast(Any, attention_inputs))  # returns a tuple, as the third
        one_lane = self.layer_function(sequential_layer)
        two_lanes: Any = self.layer_function(cast(Any, lanes_layer))
        x0 = x = self._embed(ids, before, dtype)
        mlp_lane: Tensor | None = None
        kept: list[Tensor] = []
        for index, (layer, block_index) in enumerate(applications):
            block, scale = self.blocks[block_index], self.layer_scales[layer]
            if mlp_lane is None and index >= encoder and layer >= config.lanes_from:
                mlp_lane = x
            x = self._skipped(x, index - encoder, kept)
            mixed, q, k, v, gate = first_half(block, x, x0, scale, rope)
            y = source.attend(q, k, v)
            if mlp_lane is None:
                x = one_lane(block, mixed, y, v, gate, scale)
            else:
                assert self.lane_carry is not None and self.lane_shares is not None
                carry, shares = self.lane_carry[layer], self.lane_shares[layer]
                x, mlp_lane = two_lanes(block, x, mlp_lane, y, v, gate, scale, carry, shares)
            if index < encoder:
                kept.append(x)
        return rms_norm(x if mlp_lane is None else (x + mlp_lane) / 2, config.norm_eps)
