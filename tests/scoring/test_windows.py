"""Window plans: every target exactly once, with the context the plan promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.scoring.network import WindowPlan, plan_roundtrip, plan_sliding
from golf.scoring.text import ScoringError


def scored_targets(plan: WindowPlan) -> np.ndarray:
    spans = zip(plan.starts, plan.score_from, plan.lengths, strict=True)
    return np.concatenate([np.arange(start + first, start + length) for start, first, length in spans])


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, int]:
    targets = draw(st.integers(1, 400))
    window = draw(st.integers(1, targets))
    return targets, window, draw(st.integers(1, window))


@given(sizes())
def test_sliding_scores_every_target_once_and_in_order(size: tuple[int, int, int]) -> None:
    targets, window, stride = size
    plan = plan_sliding(targets, window, stride)
    np.testing.assert_array_equal(scored_targets(plan), np.arange(targets))
    assert plan.score_from[0] == 0
    assert plan.lengths[0] == window
    assert (plan.score_from[1:] == window - stride).all(), "every later target has at least window - stride of context"
    assert (plan.lengths[:-1] == window).all(), "only the last window may be short"
    assert (plan.lengths > plan.score_from).all(), "no window scores nothing"
    assert (plan.starts + plan.lengths <= targets).all()


@given(sizes())
def test_roundtrip_scores_every_target_once_without_overlap(size: tuple[int, int, int]) -> None:
    targets, window, _ = size
    plan = plan_roundtrip(targets, window)
    np.testing.assert_array_equal(scored_targets(plan), np.arange(targets))
    assert (plan.score_from == 0).all()
    assert len(plan) == -(-targets // window)


def test_published_window_count_rescored_768_targets() -> None:
    targets, window, stride = 62_021_632, 1024, 256
    published = np.arange(0, targets, stride)  # one window at every start below the end, the tail cut short
    assert len(published) == 242_272
    lengths = np.minimum(window, targets - published)
    scored = np.where(published == 0, lengths, np.minimum(stride, lengths))
    assert int(scored.sum()) - targets == 768
    ours = plan_sliding(targets, window, stride)
    assert len(ours) == 242_269
    assert int((ours.lengths - ours.score_from).sum()) == targets
    np.testing.assert_array_equal(ours.starts, published[:-3])


@pytest.mark.parametrize("window", [0, 11])
def test_window_longer_than_the_stream_is_refused(window: int) -> None:
    with pytest.raises(ScoringError, match=rf"window is {window} tokens, the validation stream has 10 targets"):
        plan_sliding(10, window, 1)


@pytest.mark.parametrize("stride", [0, 9])
def test_stride_that_would_drop_targets_is_refused(stride: int) -> None:
    with pytest.raises(ScoringError, match=rf"stride is {stride}, expected 1 to 8"):
        plan_sliding(10, 8, stride)
