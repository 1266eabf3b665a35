"""How idle OpenMP threads wait. To be called before torch or numba load their OpenMP library.

libgomp lets a thread that waits for others spin some milliseconds before it sleeps. Beside another busy process two
threads then wait for each other's time slices: training falls to an eighth of its speed. A short spin loses neither
that nor, on an idle machine, the speed of spinning (LOG.md has the table).
"""

from __future__ import annotations

from collections.abc import MutableMapping

__all__ = ["SPIN_COUNT", "bound_spin"]

SPIN_COUNT = 1000  # rounds of libgomp's waiting loop, some microseconds


def bound_spin(environment: MutableMapping[str, str]) -> None:
    """Bound the spin of waiting threads, unless ``environment`` already says how they wait."""
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(environment):
        environment["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
