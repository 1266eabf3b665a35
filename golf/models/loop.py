"""Which layer of a record stack is applied when, without torch: the model and its integer-exact form go by it."""

from __future__ import annotations

__all__ = ["applications"]


def applications(layers: int, loop: tuple[int, int], depth: int, *, untied: bool) -> list[tuple[int, int]]:
    """``(layer, block)`` of each application when ``loop``, first and last layer of it, runs ``depth`` times.

    Tied repeats share the block of their layer; untied ones have blocks of their own behind those of all ``layers``.
    """
    first, last = loop
    length = last - first + 1
    out = [(layer, layer) for layer in range(last + 1)]
    for repeat in range(1, depth):
        behind = layers + (repeat - 1) * length if untied else first
        out += [(first + i, behind + i) for i in range(length)]
    return out + [(layer, layer) for layer in range(last + 1, layers)]
