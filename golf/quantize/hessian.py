"""Second moments of layer inputs: accumulation, damping, the factor GPTQ needs, and their file.

For a linear layer y = W x the squared output error of Ŵ is tr((W-Ŵ) H (W-Ŵ)^T) with H = mean of x x^T (Frantar et
al., GPTQ, arXiv 2210.17323). A weight used several times (tied, or a block run again at each depth) has one H: the sum
over all its uses, which ``HessianSums`` does by name.

Shapes: N samples (token positions), C input channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from golf.base import files
from golf.base.errors import GolfError

__all__ = [
    "Factor", "HessianError", "HessianSums", "StoredHessians", "factorize", "identity_factor", "importance_of",
    "load_hessians", "save_hessians",
]  # fmt: skip


class HessianError(GolfError):
    """A Hessian is missing, damaged or not positive; the message names it and the remedy."""


class HessianSums:
    """Sums of x x^T per weight name over all samples and all uses, float64."""

    def __init__(self) -> None:
        self._sums: dict[str, np.ndarray] = {}
        self._samples: dict[str, int] = {}

    def add(self, name: str, inputs: np.ndarray, *, chunk: int = 4096) -> None:
        """Add ``inputs`` (..., C), the input activations of weight ``name``.

        Chunks of ``chunk`` samples are multiplied in float32 and summed in float64: the rounding of one product is
        far below the sampling error of H, the sum over millions of samples stays exact. Raises ``HessianError`` for
        another C than before or for NaN and infinity.
        """
        flat = np.asarray(inputs, dtype=np.float32)
        flat = flat.reshape(-1, flat.shape[-1])
        total = self._sums.setdefault(name, np.zeros((flat.shape[1], flat.shape[1])))
        if total.shape[0] != flat.shape[1]:
            raise HessianError(f"{name}: found {flat.shape[1]} input channels, expected {total.shape[0]} as before")
        for start in range(0, len(flat), chunk):
            part = flat[start : start + chunk]
            self.add_product(name, part.T @ part)
        self.count(name, len(flat))

    def add_product(self, name: str, product: np.ndarray) -> None:
        """Add ``product`` (C, C), a sum of x x^T that was formed elsewhere; its samples go to ``count``."""
        if not np.isfinite(product).all():
            raise HessianError(f"{name}: its input activations hold NaN or infinity; the model is damaged")
        self._sums.setdefault(name, np.zeros(product.shape))
        self._sums[name] += product

    def count(self, name: str, samples: int) -> None:
        """``samples`` more inputs of ``name`` are in its sum."""
        self._samples[name] = self._samples.get(name, 0) + samples

    def means(self) -> dict[str, np.ndarray]:
        """H = sum / samples per name, float32 (C, C)."""
        found = {}
        for name, total in self._sums.items():  # divided in float64, in pieces that numpy chooses
            found[name] = np.empty(total.shape, np.float32)
            np.divide(total, max(1, self._samples[name]), out=found[name], dtype=np.float64, casting="same_kind")
        return found

    def samples(self) -> dict[str, int]:
        """Samples seen per name, all uses counted."""
        return dict(self._samples)


@dataclass(frozen=True)
class Factor:
    """What GPTQ needs of a damped Hessian, in processing order: H^-1 = U^T U with U upper triangular."""

    feedback: np.ndarray
    """float32 (C, C): U / diagonal of U, strictly above the diagonal; row j says where the error of column j goes."""
    importance: np.ndarray
    """float32 (C,): 1 / diagonal of U; the loss is the sum of (error * importance) ** 2."""
    order: np.ndarray
    """int64 (C,): ``order[i]`` is the column processed i-th."""
    dead: np.ndarray
    """bool (C,), in storage order: input channels that never were non-zero; their weights are set to 0."""

    def importance_in_storage_order(self) -> np.ndarray:
        """``importance`` (C,) put back to the order of the weight's columns, for ``column_steps``."""
        out = np.empty_like(self.importance)
        out[self.order] = self.importance
        return out


def factorize(hessian: np.ndarray, *, damping: float = 0.01, act_order: bool = False, name: str = "hessian") -> Factor:
    """Factor H + damping * mean(diag H) * I; with ``act_order`` the columns of largest H_jj are processed first.

    Computed in float64 by one fixed order of operations, so the same bits for any thread count. Raises
    ``HessianError`` (naming ``name``) when H is no square matrix, not finite, all zero, or not positive after damping.
    """
    from golf.quantize import gptq_kernels

    r, order, dead = _triangle(hessian, damping, act_order, name)
    upper = np.empty_like(r)
    gptq_kernels.invert_upper(r, upper)
    scale = np.diag(upper).copy()
    feedback = np.triu(upper / scale[:, None], 1).astype(np.float32)
    return Factor(feedback, (1.0 / scale).astype(np.float32), order.astype(np.int64), dead)


def importance_of(
    hessian: np.ndarray, *, damping: float = 0.01, act_order: bool = False, name: str = "hessian"
) -> np.ndarray:
    """``factorize(...).importance_in_storage_order()``, the same bits, without inverting anything: float32 (C,)."""
    r, order, _ = _triangle(hessian, damping, act_order, name)
    out = np.empty(len(r), np.float32)
    out[order] = 1.0 / (1.0 / np.diag(r))
    return out


def _triangle(hessian: np.ndarray, damping: float, act_order: bool, name: str) -> tuple[np.ndarray, ...]:
    """Upper R with R R^T = H, damped and in processing order, float64; the order; the dead channels."""
    from golf.quantize import gptq_kernels

    h = np.array(hessian, dtype=np.float64)
    if h.ndim != 2 or h.shape[0] != h.shape[1] or not h.size:
        raise HessianError(f"{name}: found shape {h.shape}, expected a square matrix (C, C)")
    if not np.isfinite(h).all():
        raise HessianError(f"{name}: holds NaN or infinity; re-run calibrate")
    if damping < 0:
        raise HessianError(f"damping: found {damping}, expected >= 0 (0.01 is usual)")
    diagonal = np.diag(h).copy()
    dead = diagonal <= 0
    if dead.all():
        raise HessianError(f"{name}: no input channel was ever active; re-run calibrate on text")
    h[dead, :] = 0.0
    h[:, dead] = 0.0
    extra = damping * float(diagonal[~dead].mean())
    h[np.arange(len(h)), np.arange(len(h))] += extra + np.where(dead, float(diagonal[~dead].mean()), 0.0)
    order = np.argsort(-diagonal, kind="stable") if act_order else np.arange(len(h))
    flipped = np.ascontiguousarray(h[np.ix_(order, order)][::-1, ::-1])
    if not gptq_kernels.cholesky_upper(flipped):
        raise HessianError(f"{name}: not positive definite; raise the damping (0.01 is usual) or use more text")
    return np.ascontiguousarray(np.triu(flipped).T[::-1, ::-1]), order, dead


def identity_factor(columns: int, *, damping: float = 0.01) -> Factor:
    """``factorize`` of the identity (C, C), for a lookup table, without its C^3 operations: the same bits."""
    scale = 1.0 / np.sqrt(1.0 + damping)
    shape = (columns, columns)
    importance = np.full(columns, 1.0 / scale).astype(np.float32)
    return Factor(np.zeros(shape, np.float32), importance, np.arange(columns), np.zeros(columns, np.bool_))


def save_hessians(path: str | Path, hessians: Mapping[str, np.ndarray], meta: Mapping[str, object]) -> None:
    """Save {weight name: H (C, C)} as float32 safetensors with ``meta`` (say: source of the text, samples)."""
    for name, h in hessians.items():
        if h.ndim != 2 or h.shape[0] != h.shape[1]:
            raise HessianError(f"{name}: found shape {h.shape}, expected a square matrix (C, C)")
    files.save_numpy(path, {name: h.astype(np.float32) for name, h in hessians.items()}, meta)


def load_hessians(
    path: str | Path, *, made_by: str = "stage calibrate"
) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Load what ``save_hessians`` wrote; ``FileError`` when missing or damaged, ``HessianError`` when not square."""
    hessians, meta = files.load_numpy(path, made_by=made_by)
    for name, h in hessians.items():
        if h.dtype != np.float32 or h.ndim != 2 or h.shape[0] != h.shape[1]:
            raise HessianError(f"{path}: {name}: found {h.dtype} {h.shape}, expected square float32; re-run {made_by}")
        if not np.isfinite(h).all():
            raise HessianError(f"{path}: {name}: holds NaN or infinity; re-run {made_by}")
    return hessians, meta


class StoredHessians(Mapping[str, "NDArray[np.float32] | None"]):
    """Hessians of a file, each H (C, C) read when it is asked for; ``None`` for a name of ``without``.

    ``leaders`` says under which name a Hessian is stored that several names share. Raises ``HessianError`` for an H
    that is missing, not square or not finite.
    """

    def __init__(self, path: Path, *, without: Mapping[str, str], leaders: Mapping[str, str], made_by: str) -> None:
        files.read_meta(path, made_by=made_by)  # the file is there and whole
        self._path, self._made_by, self._without, self._leaders = path, made_by, without, leaders
        with files.open_tensors(path, "numpy", made_by) as file:
            self._stored = set(file.keys())

    def leader(self, name: str) -> str:
        """The name that the Hessian of ``name`` is stored under."""
        return self._leaders.get(name, name)

    def __getitem__(self, name: str) -> NDArray[np.float32] | None:
        if name in self._without:
            return None
        if self.leader(name) not in self._stored:
            raise KeyError(name)
        # mapped no longer than one H is read: what was read of a file stays in memory meanwhile
        with files.open_tensors(self._path, "numpy", self._made_by) as file:
            h: NDArray[np.float32] = file.get_tensor(self.leader(name))
        if h.dtype != np.float32 or h.ndim != 2 or h.shape[0] != h.shape[1] or not np.isfinite(h).all():
            found = f"{h.dtype} {h.shape} or numbers that are not finite"
            raise HessianError(f"{self._path}: {name}: found {found}, expected square float32; re-run {self._made_by}")
        return h

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._stored | set(self._leaders) | set(self._without)))

    def __len__(self) -> int:
        return len(self._stored | set(self._leaders) | set(self._without))
