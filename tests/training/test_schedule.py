"""Schedules against published values and their own definitions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.training.config import Schedule, context_at, depth_at, lr_multiplier, momentum_at, progress_at, snapshot_due

FOUR_HOURS = ((0.3, 2), (0.5, 3), (0.75, 4), (1.0, 5))


def test_progress_is_the_larger_of_steps_and_time() -> None:
    assert progress_at(30, 100) == 0.3
    assert progress_at(30, 100, elapsed=50.0, budget_seconds=0.0) == 0.3
    assert progress_at(30, 100, elapsed=50.0, budget_seconds=100.0) == 0.5
    assert progress_at(30, 100, elapsed=20.0, budget_seconds=100.0) == 0.3
    assert progress_at(30, 100, elapsed=200.0, budget_seconds=100.0) == 1.0


def test_warmdown_of_the_four_hour_run_hits_its_published_multipliers() -> None:
    # PR #895: 14,400 s, warmdown from 12,845 s; step time in the last phase 173.3 ms, last step 132,937
    warmdown = 1 - 12_845 / 14_400
    for step, multiplier in ((129_300, 0.394), (130_000, 0.318), (132_000, 0.100)):
        elapsed = 14_400 - (132_937 - step) * 0.1733
        assert lr_multiplier(elapsed / 14_400, warmdown) == pytest.approx(multiplier, abs=0.015)


def test_linear_and_cosine_shapes() -> None:
    assert lr_multiplier(0.5, 0.5) == 1.0
    assert lr_multiplier(0.75, 0.5) == pytest.approx(0.5)
    assert lr_multiplier(1.0, 0.5) == 0.0
    assert lr_multiplier(0.75, 0.5, "cosine") == pytest.approx(0.5)
    assert lr_multiplier(0.625, 0.5, "cosine") == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert lr_multiplier(0.999, 0.0) == 1.0


def test_a_floor_stops_the_fall_where_it_would_cross_it() -> None:
    # PR #1855: 1 until 15 % of the time, then max((1 - f) / 0.85, 0.1)
    published = {0.1: 1.0, 0.2: 0.941, 0.35: 0.765, 0.5: 0.588, 0.8: 0.235, 0.9: 0.118, 0.915: 0.1, 1.0: 0.1}
    for progress, multiplier in published.items():
        assert lr_multiplier(progress, 0.85, "linear", 0.1) == pytest.approx(multiplier, abs=5e-4)


def test_contexts_follow_progress() -> None:
    phases = ((0.1, 1024), (0.7, 2048), (1.0, 3072))
    assert [context_at(progress, phases) for progress in (0.0, 0.1, 0.69, 0.7, 1.0)] == [1024, 2048, 2048, 3072, 3072]
    assert context_at(0.5, ()) is None


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 0.99), st.sampled_from(["linear", "cosine"]))
def test_multiplier_never_rises(a: float, b: float, warmdown: float, shape: str) -> None:
    low, high = sorted((a, b))
    first, second = lr_multiplier(low, warmdown, shape), lr_multiplier(high, warmdown, shape)  # type: ignore[arg-type]
    assert 1.0 >= first >= second >= 0.0


def test_depth_of_the_four_hour_run() -> None:
    seen = [depth_at(p, FOUR_HOURS, 5) for p in (0.0, 0.299, 0.3, 0.499, 0.5, 0.74, 0.75, 0.99, 1.0)]
    assert seen == [2, 2, 3, 3, 4, 4, 5, 5, 5]
    assert depth_at(0.2, (), 5) == 5


def test_depth_switches_at_the_exact_fraction_despite_float_rounding() -> None:
    assert [depth_at(step / 10, ((0.3, 1), (1.0, 2)), 2) for step in range(5)] == [1, 1, 1, 2, 2]
    assert depth_at(0.1 + 0.2, ((0.3, 1), (1.0, 2)), 2) == 2  # 0.30000000000000004 and 0.3 are one place


def test_momentum_warm_up() -> None:
    assert momentum_at(0, 0.85, 0.95, 500) == 0.85
    assert momentum_at(250, 0.85, 0.95, 500) == pytest.approx(0.90)
    assert momentum_at(500, 0.85, 0.95, 500) == momentum_at(9999, 0.85, 0.95, 500) == 0.95
    assert momentum_at(0, 0.85, 0.95, 0) == 0.95


def taken(schedule: Schedule, steps: int) -> list[int]:
    return [n + 1 for n in range(steps) if snapshot_due(n / steps, (n + 1) / steps, schedule)]


def test_snapshots_only_at_full_depth_and_low_rate_and_always_after_the_last_step() -> None:
    phases = ((0.9, 1), (1.0, 2))
    base = {"iterations": 100, "budget_seconds": 0.0, "full_depth": 2, "snapshot_every": 0.05, "warmdown": 0.5}
    assert taken(Schedule(**base, snapshot_below=0.4), 100) == [85, 90, 95, 100]
    assert taken(Schedule(**base, snapshot_below=0.4, depth_phases=phases), 100) == [95, 100]
    assert taken(Schedule(**base, snapshot_below=0.0), 100) == []
    assert taken(Schedule(**base, snapshot_below=0.4), 97)[-1] == 97
    assert taken(Schedule(**{**base, "snapshot_every": 0.03}, snapshot_below=0.4), 100)[-1] == 100


@given(steps=st.integers(5, 400), every=st.floats(0.01, 0.2))
def test_number_of_snapshots_does_not_depend_on_the_speed_of_the_machine(steps: int, every: float) -> None:
    schedule = Schedule(1000, 0.0, 1, warmdown=0.5, snapshot_below=0.4, snapshot_every=every)
    crossings = sum(1 for k in range(1, 101) if 0.8 < k * every < 1.0)
    assert len(taken(schedule, steps)) <= crossings + 2
    assert len(taken(schedule, 4000)) >= crossings
