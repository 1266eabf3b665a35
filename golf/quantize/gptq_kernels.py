"""Compiled loops of GPTQ: error-compensated rounding, alone or with a trellis, and the triangular factors it needs.

Rows of a matrix are independent, so every kernel runs rows (or strips of columns) in parallel and each number is
computed by one thread in one fixed order. No fused multiply-add and no re-association is allowed: the result is the
same for any thread count and equals a plain column-by-column loop to the last bit. Ŵ is computed as the decoder does:
(value * row step) * column step in float32.

Shapes: R rows, C columns, S trellis states. ``feedback`` is U / diag(U) above the diagonal (C, C) float32,
``importance`` is 1 / diag(U) (C,) float32, where H^-1 = U^T U. float32 suffices: a rounding error of 1e-7 against
quantization errors of 1e-1; costs are summed in float64.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from golf.base.jit import kernel, step

__all__ = ["cholesky_upper", "gptq_rows", "gptq_trellis_rows", "invert_upper"]

BLOCK = 32
"""Columns whose errors are applied to the rest of the row together; changes speed, never results."""

_TILE = 128
_STRIP = 32
_ROWS = 4  # rows of a trellis search that go through the feedback together: it is memory that is waited for
_LIMIT = 32000.0  # |integer| beyond which a row is reported as overflowing int16
_PANEL = 32


@kernel
def _apply_errors(  # pragma: no cover - compiled
    target: np.ndarray, start: int, errors: np.ndarray, feedback: np.ndarray, first: int, stride: int, width: int
) -> None:
    """target[start + c] -= errors[j] * feedback[first + j * stride + c] for c < ``width``, j in order; flat arrays.

    Four j at a time in the same order of operations, with unsigned indices: signed ones may be negative to the
    compiler, and it then does not vectorize.
    """
    begin, base, step, n = np.uint64(start), np.uint64(first), np.uint64(stride), np.uint64(width)
    count = errors.shape[0]
    quads = count // 4
    for quad in range(quads):
        e0, e1, e2, e3 = errors[4 * quad], errors[4 * quad + 1], errors[4 * quad + 2], errors[4 * quad + 3]
        f0 = base + np.uint64(4 * quad) * step
        f1 = f0 + step
        f2 = f1 + step
        f3 = f2 + step
        for c in range(n):
            value = target[begin + c] - e0 * feedback[f0 + c]
            value -= e1 * feedback[f1 + c]
            value -= e2 * feedback[f2 + c]
            target[begin + c] = value - e3 * feedback[f3 + c]
    for j in range(4 * quads, count):
        f0 = base + np.uint64(j) * step
        for c in range(n):
            target[begin + c] -= errors[j] * feedback[f0 + c]


@kernel(parallel=True)
def cholesky_upper(a: np.ndarray) -> bool:  # pragma: no cover - compiled
    """In place: the upper triangle of symmetric ``a`` (C, C) float64 becomes V with V^T V = a. False: not positive."""
    n = a.shape[0]
    flat = a.reshape(-1)
    for k0 in range(0, n, _PANEL):
        k1 = min(n, k0 + _PANEL)
        for k in range(k0, k1):
            _apply_errors(flat, k * n + k, a[k0:k, k].copy(), flat, k0 * n + k, n, n - k)
            if not a[k, k] > 0.0:
                return False
            root = np.sqrt(a[k, k])
            for c in range(k, n):
                a[k, c] /= root
        for i in prange(k1, n):
            _apply_errors(flat, i * n + i, a[k0:k1, i].copy(), flat, k0 * n + i, n, n - i)
    return True


@kernel(parallel=True)
def invert_upper(r: np.ndarray, out: np.ndarray) -> None:  # pragma: no cover - compiled
    """``out`` (C, C) float64 becomes the inverse of upper triangular ``r``; strips of columns run in parallel."""
    n = r.shape[0]
    for strip in prange((n + _STRIP - 1) // _STRIP):
        c0 = strip * _STRIP
        c1 = min(n, c0 + _STRIP)
        width = c1 - c0
        own = np.zeros(c1 * width)  # side by side: rows of ``out`` may fall on the same lines of the cache
        for i in range(c1 - 1, -1, -1):
            if i >= c0:
                own[i * width + i - c0] = 1.0
            _apply_errors(own, i * width, r[i, i + 1 : c1], own, (i + 1) * width, width, width)
            for c in range(width):
                own[i * width + c] /= r[i, i]
        for i in range(n):
            for c in range(width):
                out[i, c0 + c] = own[i * width + c] if i < c1 else 0.0


@kernel
def _move_on(  # pragma: no cover - compiled
    target: np.ndarray, to: int, source: np.ndarray, start: int, error: np.float32, feedback: np.ndarray, first: int,
    width: int,
) -> None:  # fmt: skip
    """target[to + c] = source[start + c] - error * feedback[first + c] for c < ``width``; flat arrays."""
    t, s, f = np.uint64(to), np.uint64(start), np.uint64(first)
    for c in range(np.uint64(width)):
        target[t + c] = source[s + c] - error * feedback[f + c]


@kernel(parallel=True)
def gptq_rows(  # pragma: no cover - compiled
    work: np.ndarray,
    feedback: np.ndarray,
    importance: np.ndarray,
    row_steps: np.ndarray,
    column_steps: np.ndarray,
    values: np.ndarray,
    losses: np.ndarray,
    overflow: np.ndarray,
) -> None:
    """Round ``work`` (R, C) float32 column by column, pushing each error right; ``work`` is used up.

    Writes ``values`` int16 (R, C), ``losses`` float64 (R,) = row of W-Ŵ in the norm of H, ``overflow`` bool (R,).
    """
    num_rows, num_columns = work.shape
    flat = feedback.reshape(-1)
    for r in prange(num_rows):
        row = work[r]
        error = np.empty(BLOCK, np.float32)
        loss = 0.0
        for b0 in range(0, num_columns, BLOCK):
            b1 = min(num_columns, b0 + BLOCK)
            for j in range(b0, b1):
                step = row_steps[r] * column_steps[j]
                q = np.rint(row[j] / step)
                if not abs(q) <= np.float32(_LIMIT):
                    overflow[r] = True
                    q = np.float32(0.0)
                values[r, j] = np.int16(q)
                e = row[j] - q * row_steps[r] * column_steps[j]
                error[j - b0] = e
                scaled = e * importance[j]
                loss += np.float64(scaled) * np.float64(scaled)
                _move_on(row, j + 1, row, j + 1, e, flat, j * num_columns + j + 1, b1 - j - 1)
            rest = num_columns - b1
            _apply_errors(row, b1, error[: b1 - b0], flat, b0 * num_columns + b1, num_columns, rest)
        losses[r] = loss


@step
def _nearest(x: np.float32, offset: int) -> np.float32:  # pragma: no cover - compiled
    """The whole number congruent to ``offset`` modulo 4 that is nearest to ``x``, as float32."""
    shift = np.float32(offset)
    return np.float32(4.0) * np.rint((x - shift) * np.float32(0.25)) + shift


@kernel
def _choose(  # pragma: no cover - compiled
    local: np.ndarray, j: int, metric: np.ndarray, fresh: np.ndarray, parents: np.ndarray, half: np.float32,
    column_step: np.float32, weight: np.float32, branches: np.ndarray, origin: np.ndarray, numerator: np.ndarray,
    error: np.ndarray,
) -> None:  # fmt: skip
    """One trellis step: for each state the cheaper of its two parents; parent p's weight is local[p * BLOCK + j].

    ``branches`` (3, 2 S) is scratch: cost, numerator and error of state p with k & 1 = bit at 2 p + bit.
    """
    num_states = parents.shape[0]
    for p in range(num_states):
        w = local[p * BLOCK + j]
        x = w / (half * column_step)
        for bit in range(2):
            m = _nearest(x, 2 * bit + (p & 1))
            e = w - m * half * column_step
            scaled = e * weight
            branches[0, 2 * p + bit] = metric[p] + np.float64(scaled) * np.float64(scaled)
            branches[1, 2 * p + bit] = m
            branches[2, 2 * p + bit] = e
    for s in range(num_states):
        pick = 2 * parents[s, 0, 0] + parents[s, 0, 1]
        other = 2 * parents[s, 1, 0] + parents[s, 1, 1]
        if branches[0, other] < branches[0, pick]:
            pick = other
        fresh[s] = branches[0, pick]
        origin[s] = pick >> 1
        numerator[s] = np.float32(branches[1, pick])
        error[s] = np.float32(branches[2, pick])


@kernel
def _search_block(  # pragma: no cover - compiled
    rest: np.ndarray, b0: int, width: int, num_columns: int, half: np.float32, column_steps: np.ndarray,
    importance: np.ndarray, feedback: np.ndarray, parents: np.ndarray, metric: np.ndarray, scratch: np.ndarray,
    branches: np.ndarray, origin: np.ndarray, numerator: np.ndarray, error: np.ndarray,
) -> None:  # fmt: skip
    """Run the survivors through one block of ``width`` columns; ``metric`` (2, S) keeps its result in row 0.

    ``rest`` and ``feedback`` are flat; ``scratch`` (2, S * BLOCK) holds the survivors' rests within the block.
    """
    num_states = parents.shape[0]
    local, spare = scratch[0], scratch[1]
    now, fresh = metric[0], metric[1]
    for s in range(num_states):
        for c in range(width):
            local[s * BLOCK + c] = rest[s * num_columns + b0 + c]
    for j in range(width):
        column = b0 + j
        _choose(
            local, j, now, fresh, parents, half, column_steps[column], importance[column], branches, origin[column],
            numerator[column], error[j],
        )  # fmt: skip
        first = column * num_columns + column + 1
        for s in range(num_states):
            to, start = s * BLOCK + j + 1, origin[column, s] * BLOCK + j + 1
            _move_on(spare, to, local, start, error[j, s], feedback, first, width - j - 1)
        local, spare = spare, local
        now, fresh = fresh, now
    for s in range(num_states):
        metric[0, s] = now[s]


@kernel
def _read_errors(  # pragma: no cover - compiled
    b0: int, width: int, origin: np.ndarray, error: np.ndarray, paths: np.ndarray, ancestors: np.ndarray
) -> None:
    """The errors (S, BLOCK) on the path of each survivor through a block, and where it was at its begin."""
    for s in range(paths.shape[0]):
        ancestors[s] = s
        for j in range(width - 1, -1, -1):
            paths[s, j] = error[j, ancestors[s]]
            ancestors[s] = origin[b0 + j, ancestors[s]]


@kernel
def _push_errors(  # pragma: no cover - compiled
    rests: np.ndarray, moved: np.ndarray, b0: int, width: int, num_columns: int, feedback: np.ndarray,
    paths: np.ndarray, ancestors: np.ndarray, rows: int,
) -> None:  # fmt: skip
    """At the end of a block: ``moved`` = each survivor's rest beyond it, taken from its ancestor, errors applied."""
    for t0 in range(b0 + width, num_columns, _TILE):
        tile = min(num_columns, t0 + _TILE) - t0
        first = b0 * num_columns + t0
        for i in range(rows):
            for s in range(paths.shape[1]):
                start, source = s * num_columns + t0, ancestors[i, s] * num_columns + t0
                _move_on(moved[i], start, rests[i], source, paths[i, s, 0], feedback, first, tile)
                _apply_errors(moved[i], start, paths[i, s, 1:width], feedback, first + num_columns, num_columns, tile)


@kernel
def _read_path(  # pragma: no cover - compiled
    state: int, origin: np.ndarray, numerator: np.ndarray, values: np.ndarray
) -> bool:
    """Write the integers (C,) of the path that ends in ``state``; True when one does not fit int16."""
    overflow = False
    for j in range(len(values) - 1, -1, -1):
        parent = origin[j, state]
        k = (numerator[j, state] - np.float32(parent & 1)) * np.float32(0.5)
        if not abs(k) <= np.float32(_LIMIT):
            overflow = True
            k = np.float32(0.0)
        values[j] = np.int16(k)
        state = parent
    return overflow


@kernel(parallel=True)
def gptq_trellis_rows(  # pragma: no cover - compiled
    weights: np.ndarray,
    feedback: np.ndarray,
    importance: np.ndarray,
    row_steps: np.ndarray,
    column_steps: np.ndarray,
    parents: np.ndarray,
    values: np.ndarray,
    losses: np.ndarray,
    overflow: np.ndarray,
) -> None:
    """Trellis search inside GPTQ: every survivor carries its own error-compensated rest of the row.

    Within a block the S rests are moved on at each column; at the end of a block the errors on each survivor's path
    are read back through the parents and applied to the rest of its row in column order. A few rows share each tile of
    ``feedback`` while it is in the cache.
    """
    num_rows, num_columns = weights.shape
    num_states = parents.shape[0]
    flat = feedback.reshape(-1)
    for group in prange((num_rows + _ROWS - 1) // _ROWS):
        r0 = group * _ROWS
        rows = min(num_rows, r0 + _ROWS) - r0
        rests = np.empty((_ROWS, num_states * num_columns), np.float32)
        moved = np.empty((_ROWS, num_states * num_columns), np.float32)
        scratch = np.empty((2, num_states * BLOCK), np.float32)
        origin = np.empty((_ROWS, num_columns, num_states), np.uint8)
        numerator = np.empty((_ROWS, num_columns, num_states), np.float32)
        error = np.empty((BLOCK, num_states), np.float32)
        paths = np.empty((_ROWS, num_states, BLOCK), np.float32)
        ancestors = np.empty((_ROWS, num_states), np.int64)
        branches = np.empty((3, 2 * num_states))
        metric = np.full((_ROWS, 2, num_states), np.inf)
        metric[:, 0, 0] = 0.0
        for i in range(rows):
            for s in range(num_states):
                for c in range(num_columns):
                    rests[i, s * num_columns + c] = weights[r0 + i, c]
        for b0 in range(0, num_columns, BLOCK):
            width = min(num_columns, b0 + BLOCK) - b0
            for i in range(rows):
                _search_block(
                    rests[i], b0, width, num_columns, row_steps[r0 + i] * np.float32(0.5), column_steps, importance,
                    flat, parents, metric[i], scratch, branches, origin[i], numerator[i], error,
                )  # fmt: skip
                _read_errors(b0, width, origin[i], error, paths[i], ancestors[i])
            _push_errors(rests, moved, b0, width, num_columns, flat, paths, ancestors, rows)
            rests, moved = moved, rests
        for i in range(rows):
            state = int(np.argmin(metric[i, 0]))
            losses[r0 + i] = metric[i, 0, state]
            overflow[r0 + i] = _read_path(state, origin[i], numerator[i], values[r0 + i])
