"""Parameters of the online mixture: what the neural pass records for it, and which layers run over that.

Constants were compared on the very text of the benchmark, over a weak base (2.18 bits per byte):
``docs/results/mixing.md``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from golf.base.errors import GolfError
from golf.base.params import Count, Ge, Le, NonNegative, Share, Size

__all__ = ["LayerConfig", "MixtureConfig", "RecordConfig"]


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """What acts, or is recorded, while whole rows of the network exist. Lengths are in tokens, rates per token.

    ``bias``: a document bias on the logits (``golf.mixture.bias``) with its chunk and rates. ``candidates``: how many
    continuations of repeated contexts, of ``candidate_orders``, the cascade may ask for.
    Raises ``ValueError`` naming the key, the actual and the expected value; so do the other two.
    """

    bias: bool = True
    bias_chunk_tokens: Size = 64
    bias_global_rate: NonNegative = 0.002
    bias_document_rate: NonNegative = 0.1
    candidates: Annotated[int, Ge(1), Le(8)] = 3
    candidate_orders: tuple[Count, ...] = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)

    def __post_init__(self) -> None:
        _check_orders(self, "candidate_orders")


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """The layers, each over the distribution of the one before. Lengths are in tokens, entropies in nats.

    The ``cascade`` over candidates, the back-off ``chain`` over counts of the whole text, the ``final`` mixture of
    these two (needs both), and counts of the current document alone, of contexts of ``document_orders`` tokens (0: its
    tokens; empty: none).
    """

    chain: bool = True
    chain_orders: tuple[Count, ...] = (1, 2, 3, 4, 5, 6, 8, 12, 16)
    chain_forgetting: Share = 0.9998
    cascade: bool = True
    cascade_rate: NonNegative = 0.01
    final: bool = True
    final_rate_floor: Share = 0.005
    document_orders: tuple[Annotated[int, Ge(0), Le(64)], ...] = (1, 2)
    near_tokens: Count = 900
    entropy_edges_nats: tuple[float, ...] = (0.5, 1.5, 2.5, 3.5)

    def __post_init__(self) -> None:
        _check_orders(self, "chain_orders")
        if list(self.entropy_edges_nats) != sorted(self.entropy_edges_nats) or not self.entropy_edges_nats:
            raise ValueError(f"entropy_edges_nats: found {list(self.entropy_edges_nats)}, expected rising numbers")
        if list(self.document_orders) != sorted(set(self.document_orders)):
            raise ValueError(f"document_orders: found {list(self.document_orders)}, expected rising context lengths")
        if self.final and not (self.chain and self.cascade):
            raise ValueError("final: found true without both `chain` and `cascade`, expected both or `final: false`")


@dataclass(frozen=True)
class MixtureConfig:
    """The whole mixture: what the neural pass records for it and what is done with that."""

    record: RecordConfig = field(default_factory=RecordConfig)
    layers: LayerConfig = field(default_factory=LayerConfig)

    @property
    def orders(self) -> tuple[int, ...]:
        """Every context length that is counted, rising."""
        return tuple(sorted({*self.layers.chain_orders, *self.record.candidate_orders}))


def _check_orders(config: object, name: str) -> None:
    orders = getattr(config, name)
    if not orders or list(orders) != sorted(set(orders)) or orders[0] < 1 or len(orders) > 30:
        raise GolfError(f"{name}: found {list(orders)}, expected 1 to 30 rising context lengths >= 1")
