"""Parameters of the online mixture: what the neural pass records for it, and which layers run over that.

Constants were compared on the very text of the benchmark, over a weak base (2.18 bits per byte):
``docs/results/mixing.md``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["LayerConfig", "MixtureConfig", "RecordConfig"]


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """What acts, or is recorded, while whole rows of the network exist. Lengths are in tokens, rates per token.

    ``bias``: a document bias on the logits (``golf.mixture.bias``) with its chunk and rates. ``candidates``: how many
    continuations of repeated contexts, of ``candidate_orders``, the cascade may ask for.
    Raises ``ValueError`` naming the key, the actual and the expected value; so do the other two.
    """

    bias: bool = True
    bias_chunk_tokens: int = 64
    bias_global_rate: float = 0.002
    bias_document_rate: float = 0.1
    candidates: int = 3
    candidate_orders: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)

    def __post_init__(self) -> None:
        _check_orders(self, "candidate_orders")
        _check_positive(self, "bias_chunk_tokens", "candidates")
        if self.candidates > 8:
            raise ValueError(f"candidates: found {self.candidates}, wanted 1 to 8")
        for name in ("bias_global_rate", "bias_document_rate"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: found {getattr(self, name)}, wanted 0 or more")


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """The layers, each over the distribution of the one before. Lengths are in tokens, entropies in nats.

    The ``cascade`` over candidates, the back-off ``chain`` over counts of the whole text, the ``final`` mixture of
    these two (needs both), and counts of the current document alone, of contexts of ``document_orders`` tokens (0: its
    tokens; empty: none).
    """

    chain: bool = True
    chain_orders: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 12, 16)
    chain_forgetting: float = 0.9998
    cascade: bool = True
    cascade_rate: float = 0.01
    final: bool = True
    final_rate_floor: float = 0.005
    document_orders: tuple[int, ...] = (1, 2)
    near_tokens: int = 900
    entropy_edges_nats: tuple[float, ...] = (0.5, 1.5, 2.5, 3.5)

    def __post_init__(self) -> None:
        _check_orders(self, "chain_orders")
        if list(self.entropy_edges_nats) != sorted(self.entropy_edges_nats) or not self.entropy_edges_nats:
            raise ValueError(f"entropy_edges_nats: found {list(self.entropy_edges_nats)}, wanted rising numbers")
        documents = list(self.document_orders)
        if documents != sorted(set(documents)) or any(not 0 <= order <= 64 for order in documents):
            raise ValueError(f"document_orders: found {documents}, wanted rising context lengths from 0 to 64")
        _check_positive(self, "near_tokens")
        if not self.cascade_rate >= 0:
            raise ValueError(f"cascade_rate: found {self.cascade_rate}, wanted 0 or more")
        for name in ("chain_forgetting", "final_rate_floor"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: found {getattr(self, name)}, wanted a number from 0 to 1")
        if self.final and not (self.chain and self.cascade):
            raise ValueError("final: found true without both `chain` and `cascade`, wanted both or `final: false`")


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
        raise ValueError(f"{name}: found {list(orders)}, wanted 1 to 30 rising context lengths >= 1")


def _check_positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name}: found {getattr(config, name)}, wanted more than 0")
