"""The published step-based schedules: one fired, three never did."""

from __future__ import annotations

import pytest

from golf.training.plan import plan_steps, plan_timed_warmdown


def test_the_repaired_schedule_fires() -> None:
    got = plan_steps(2200, 400, 2200)
    assert got.refusals == ()
    assert got.warmdown_start == 1800
    assert got.snapshot_steps == (2100, 2150, 2200)
    assert (got.qat_start, got.qat_steps) == (2099, 102)
    assert got.final_multiplier == pytest.approx(0.0, abs=1e-12)


def test_the_ported_schedule_never_fires_and_all_three_systems_are_named() -> None:
    got = plan_steps(9999, 3000, 2119)
    assert got.warmdown_start == 6999 and got.qat_start == 9240 and got.qat_steps == 0
    assert len(got.refusals) == 3
    for system, refusal in zip(("warmdown", "averaging", "QAT"), got.refusals, strict=True):
        assert refusal.startswith(system) and "set iterations to the 2119 steps" in refusal


def test_a_shorter_warmdown_does_not_help() -> None:
    got = plan_steps(9999, 1000, 2227)
    assert got.warmdown_start == 8999 and len(got.refusals) == 3


def test_the_repair_fails_on_the_slower_machine() -> None:
    got = plan_steps(2200, 400, 1857)
    assert got.final_multiplier == pytest.approx(0.951, abs=5e-4)
    assert "the final multiplier is 0.951" in got.refusals[0]
    assert got.snapshot_steps == () and got.qat_steps == 0 and len(got.refusals) == 3


def test_linear_shape_reaches_thresholds_at_one_minus_theta() -> None:
    got = plan_steps(1000, 500, 1000, shape="linear", snapshot_below=0.4, qat_below=0.2, snapshot_every=100)
    assert got.snapshot_steps == (800, 900, 1000) and got.qat_start == 900 and got.refusals == ()


def test_timed_warmdown_longer_than_the_budget_is_refused() -> None:
    with pytest.raises(ValueError, match=r"first multiplier would be 0.257; set warmdown to at most 450 steps"):
        plan_timed_warmdown(590.0, 3500, 590.0 / 900)
    assert plan_timed_warmdown(590.0, 300, 590.0 / 900) == 1.0


def test_bad_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="all must be at least 1 and warmdown at most iterations"):
        plan_steps(100, 101, 50)
