"""Parameters of the online mixture: which parts run, their context orders, buckets and rates.

Source of formulas and constants: the project's evaluation study (online EM gates, PAQ-style logistic cascade,
exponentiated gradient). ``chain_base``, ``chain_forgetting`` and bucket edges are this project's; the first two were
compared on the very text of the benchmark, over a weak base (2.18 bits per byte): see ``benchmarks/mixing.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Kind", "MixtureConfig"]

Kind = Literal["skip", "document", "match"]  # of experts of part E, golf.mixing.extra_counts


@dataclass(frozen=True)
class MixtureConfig:
    """Knobs of the mixture. Lengths are in tokens, entropies in nats, rates per update; no unit means a plain number.

    ``bias``, ``chain``, ``cascade`` and ``final`` switch parts A, B, C and D; ``final`` mixes B and C and needs both,
    without it the chain is the last word where it runs. ``chain_base`` is what the chain backs off to: the cascade's
    distribution (where that runs; better by 0.007 bits per byte over a base of 2.18) or, as published, the neural one.
    Options: ``cascade_sse`` corrects the decisions of C by a table of what came of them (secondary estimation);
    ``skip_orders``, ``document_orders``, ``match_tokens`` (0: none) are the experts of part E, ``golf.mixing.extra``.
    Raises ``ValueError`` naming the key, what was found and what was wanted.
    """

    bias: bool = True
    bias_chunk_tokens: int = 64
    bias_global_rate: float = 0.002
    bias_document_rate: float = 0.1
    chain: bool = True
    chain_orders: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 12, 16)
    chain_base: Literal["cascade", "neural"] = "cascade"
    chain_prior_use: float = 0.3
    chain_prior_skip: float = 6.0
    chain_forgetting: float = 0.9998
    cascade: bool = True
    cascade_orders: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
    cascade_candidates: int = 3
    cascade_rate: float = 0.01
    cascade_rate_decay: float = 1e-5
    cascade_rate_floor: float = 0.15
    cascade_min_tail: float = 1e-4
    cascade_sse: bool = False
    cascade_sse_rate: float = 0.02
    final: bool = True
    final_rate_floor: float = 0.005
    skip_orders: tuple[int, ...] = ()
    document_orders: tuple[int, ...] = (1, 2)
    match_tokens: int = 0
    near_tokens: int = 900
    entropy_edges_nats: tuple[float, ...] = (0.5, 1.5, 2.5, 3.5)
    check_positions: int = 64

    def __post_init__(self) -> None:
        for name in ("chain_orders", "cascade_orders"):
            orders = getattr(self, name)
            if not orders or list(orders) != sorted(set(orders)) or orders[0] < 1 or len(orders) > 30:
                raise ValueError(f"{name}: found {list(orders)}, wanted 1 to 30 rising context lengths >= 1")
        if list(self.entropy_edges_nats) != sorted(self.entropy_edges_nats) or not self.entropy_edges_nats:
            raise ValueError(f"entropy_edges_nats: found {list(self.entropy_edges_nats)}, wanted rising numbers")
        for name in ("skip_orders", "document_orders"):
            orders, least = getattr(self, name), 1 if name == "skip_orders" else 0
            if list(orders) != sorted(set(orders)) or any(not least <= order <= 64 for order in orders):
                raise ValueError(f"{name}: found {list(orders)}, wanted rising context lengths from {least} to 64")
        if not 0 <= self.match_tokens <= 256:
            raise ValueError(f"match_tokens: found {self.match_tokens}, wanted 0 (none) to 256")
        positive = ("bias_chunk_tokens", "chain_prior_use", "chain_prior_skip", "cascade_candidates", "near_tokens")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: found {getattr(self, name)}, wanted more than 0")
        for name in ("bias_global_rate", "bias_document_rate", "cascade_rate", "cascade_rate_decay", "check_positions"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: found {getattr(self, name)}, wanted 0 or more")
        for name in ("chain_forgetting", "cascade_rate_floor", "cascade_sse_rate", "final_rate_floor"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: found {getattr(self, name)}, wanted a number from 0 to 1")
        if not 0.0 < self.cascade_min_tail < 0.5:
            raise ValueError(f"cascade_min_tail: found {self.cascade_min_tail}, wanted more than 0 and less than 0.5")
        if self.cascade_candidates > 8:
            raise ValueError(f"cascade_candidates: found {self.cascade_candidates}, wanted 1 to 8")
        if self.chain_base not in ("cascade", "neural"):
            raise ValueError(f"chain_base: found {self.chain_base!r}, wanted cascade or neural")
        if self.cascade_sse and not self.cascade:
            raise ValueError("cascade_sse: found true without `cascade`, wanted both or `cascade_sse: false`")
        if self.final and not (self.chain and self.cascade):
            raise ValueError("final: found true without both `chain` and `cascade`, wanted both or `final: false`")

    @property
    def orders(self) -> tuple[int, ...]:
        """Every context length that is counted, rising."""
        return tuple(sorted({*self.chain_orders, *self.cascade_orders}))

    @property
    def extras(self) -> tuple[tuple[Kind, int], ...]:
        """Experts of part E, lowest first: (kind, context length in tokens)."""
        skip: list[tuple[Kind, int]] = [("skip", order) for order in self.skip_orders]
        document: list[tuple[Kind, int]] = [("document", order) for order in self.document_orders]
        match: list[tuple[Kind, int]] = [("match", self.match_tokens)] if self.match_tokens else []
        return (*skip, *document, *match)
