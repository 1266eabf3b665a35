"""What every expert of the mixture is: a state, ``perceive`` and ``predict``; and the walk over all of them.

An expert is a layer: from the distributions of the layers below it, the first of which is the network, it makes
another. Its file has

- ``new(config, vocab_size) -> state``: a ``NamedTuple`` of arrays, of a class of its own, updated in place;
- ``perceive(state, at, target, below) -> float``: the probability of the target, from the probabilities ``below`` (a
  tuple of i) that the layers below gave it; then what the state learns from the target;
- ``predict(state, at, followers, below, row)``: the same for all tokens, from the rows ``below`` (i, V) into ``row``
  (V,), learning nothing; where the rows below sum to 1, so must ``row``;
- ``EXPERT = Expert(name, new, perceive, predict)``, which ``golf.mixture.mixture`` lists in ``EXPERTS``.

``at``, ``target`` and ``followers`` are those of ``golf.mixture.position``. Both kernels are compiled by
``golf.base.jit.step``: they allocate nothing, and learn only when the probability stands.
Shapes: i layers below, L layers, V vocabulary.
Source: the two calls of a model, Predict and Perceive, are those of cmix (Knoll).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numba.extending import overload

from golf.base.errors import GolfError
from golf.base.jit import INLINED
from golf.mixture.config import MixtureConfig

__all__ = ["Expert", "new_states", "perceive_all", "predict_all"]


class Expert(NamedTuple):
    """One layer, see above. ``enabled(config)``: whether it runs; else its layer is that below it."""

    name: str
    new: Callable[[MixtureConfig, int], Any]
    perceive: Callable[..., float]
    predict: Callable[..., None]
    enabled: Callable[[MixtureConfig], bool] = lambda config: True


_EXPERTS: dict[type, Expert] = {}  # by the class of the state, by which the compiled walks know whose state it is


def new_states(experts: tuple[Expert, ...], config: MixtureConfig, vocab_size: int) -> tuple[Any, ...]:
    """The state of every expert before any token."""
    states = tuple(expert.new(config, vocab_size) for expert in experts)
    for expert, state in zip(experts, states, strict=True):
        if _EXPERTS.setdefault(type(state), expert).perceive is not expert.perceive:
            raise GolfError(f"expert {expert.name}: its state is a {type(state).__name__}, as that of expert "
                             f"{_EXPERTS[type(state)].name}; expected a class of its own")
    return states


def perceive_all(states, enabled, at, target, neural, out, t):  # type: ignore[no-untyped-def]
    """The target's probability by layer, from ``neural``, that of the network, into column ``t`` of ``out`` (L, .); all
    learn. Compiled, it returns a tuple of the network's and all of them."""
    raise NotImplementedError("for compiled callers")


def predict_all(states, enabled, at, followers, rows):  # type: ignore[no-untyped-def]
    """Fill ``rows`` (L + 1, V), the distribution of each layer, from that of the network in front."""
    raise NotImplementedError("for compiled callers")


# The states are of different types, so the loop over them is unrolled while it is compiled: the last after the rest.
@overload(perceive_all, jit_options=INLINED)
def _unroll_perceive(states, enabled, at, target, neural, out, t):  # type: ignore[no-untyped-def]
    if len(states) == 0:
        return lambda states, enabled, at, target, neural, out, t: (neural,)
    last = len(states) - 1
    perceive = _EXPERTS[states[last].instance_class].perceive

    def walk(states, enabled, at, target, neural, out, t):  # type: ignore[no-untyped-def]
        below = perceive_all(states[:last], enabled, at, target, neural, out, t)
        value = perceive(states[last], at, target, below) if enabled[last] else below[last]
        out[last, t] = value
        return (*below, value)

    return walk


@overload(predict_all, jit_options=INLINED)
def _unroll_predict(states, enabled, at, followers, rows):  # type: ignore[no-untyped-def]
    if len(states) == 0:
        return lambda states, enabled, at, followers, rows: None
    last = len(states) - 1
    predict = _EXPERTS[states[last].instance_class].predict

    def walk(states, enabled, at, followers, rows):  # type: ignore[no-untyped-def]
        predict_all(states[:last], enabled, at, followers, rows)
        if enabled[last]:
            predict(states[last], at, followers, rows[: last + 1], rows[last + 1])
        else:
            for v in range(rows.shape[1]):
                rows[last + 1, v] = rows[last, v]

    return walk
