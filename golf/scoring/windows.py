"""Plans of windows that score every target exactly once.

Shapes: n targets, K windows. Target i is token i+1; a window at ``start`` of ``length`` reads tokens
``start .. start+length-1`` and scores targets ``start+score_from .. start+length-1``.

Sliding evaluation is that of openai/parameter-golf (sliding window records) without its tail quirk: there every start
below n gets a window, so windows near the end are cut short and score the last ``stride`` targets again. With
n = 62,021,632, window 1024 and stride 256 that makes 242,272 windows, of which the last three score 768 targets a
second time; the plan here has 242,269.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from golf.scoring.text import ScoringError

__all__ = ["WindowPlan", "plan_roundtrip", "plan_sliding"]


@dataclass(frozen=True)
class WindowPlan:
    """Windows in stream order: ``starts``, ``lengths`` and ``score_from``, all int64 (K,), and the full ``window``."""

    starts: np.ndarray
    lengths: np.ndarray
    score_from: np.ndarray
    window: int

    def __len__(self) -> int:
        return len(self.starts)


def plan_roundtrip(num_targets: int, window: int) -> WindowPlan:
    """Non-overlapping windows; the last one is as short as the text leaves it and is scored like the others."""
    return plan_sliding(num_targets, window, window)


def plan_sliding(num_targets: int, window: int, stride: int) -> WindowPlan:
    """Overlapping windows, ``stride`` apart.

    The first scores all its targets, every later one only the ``stride`` behind the last scored target, so that each
    sees at least ``window - stride`` tokens of context; the last scores what is left. Raises ``ScoringError`` when
    the window is longer than the text or the stride is not in 1..window.
    """
    check_window(num_targets, window)
    if not 1 <= stride <= window:
        raise ScoringError(f"stride is {stride}, wanted 1 to {window} (the window): else targets would be left out")
    later = -(-(num_targets - window) // stride)
    starts = np.arange(later + 1, dtype=np.int64) * stride
    lengths = np.minimum(window, num_targets - starts)
    score_from = np.full(later + 1, window - stride, dtype=np.int64)
    score_from[0] = 0
    return WindowPlan(starts=starts, lengths=lengths, score_from=score_from, window=window)


def check_window(num_targets: int, window: int) -> None:
    """Raise ``ScoringError`` unless one whole window fits into the text."""
    if not 1 <= window <= num_targets:
        raise ScoringError(
            f"window is {window} tokens, the validation stream has {num_targets} targets: wanted 1 to {num_targets}; "
            f"lower evaluate.*.window or give the split more text (tokenize.val_fraction, tokenize.val_max_bytes)"
        )
