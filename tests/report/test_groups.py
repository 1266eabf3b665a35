"""Statistics of seeds against textbook figures, and what may be called a gain."""

from __future__ import annotations

import math

import pytest

from golf.report.groups import Difference, Group, compare_groups, groups_markdown, judged, less_is_better


def test_welch_and_pairs_are_those_of_the_textbook() -> None:
    """Two samples of six with t = 1.959, 7.031 degrees of freedom, two-sided p = 0.09077 (Wikipedia)."""
    first = [30.02, 29.99, 30.11, 29.97, 30.01, 29.99]
    second = [29.89, 29.93, 29.72, 29.98, 30.02, 29.98]
    found = compare_groups(first, second)
    assert found.mean == pytest.approx(-0.095) and found.welch_p == pytest.approx(0.09077 / 2, abs=1e-5)
    assert compare_groups(second, first).welch_p == pytest.approx(1 - 0.09077 / 2, abs=1e-5)
    # pairs by hand: differences -0.13 -0.06 -0.39 0.01 0.01 -0.01, whose squared deviations add up to 0.11875
    assert found.error == pytest.approx(math.sqrt(0.11875 / 5 / 6))
    angle = math.atan(0.095 / found.error / math.sqrt(5))  # the closed form for five degrees of freedom
    below = (angle + math.sin(angle) * (math.cos(angle) + 2 / 3 * math.cos(angle) ** 3)) / math.pi
    assert found.paired_p == pytest.approx(0.5 - below)


def test_three_pairs_by_closed_form() -> None:
    """Student's t with two degrees of freedom has P(T < -t) = 1/2 - t / (2 sqrt(2 + t^2))."""
    found = compare_groups([2.0, 2.1, 2.3], [1.9, 2.05, 2.15])
    t = -found.mean / found.error
    assert found.paired_p == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)))


def test_nothing_is_claimed_of_figures_that_do_not_vary() -> None:
    same = compare_groups([5.0, 5.0], [4.0, 4.0])
    assert math.isnan(same.welch_p) and math.isnan(same.paired_p) and same.error == 0.0
    assert judged(same, less=True) == "every seed alike"
    assert judged(compare_groups([5.0, 6.0], [5.0, 6.0]), less=True) == "the same"


@pytest.mark.parametrize(
    ("mean", "error", "welch", "paired", "less", "said"),
    [
        (-0.01, 0.02, 0.001, 0.001, True, "not shown: below its standard error"),
        (-0.01, 0.002, 0.01, 0.01, True, "gain"),
        (-0.01, 0.002, 0.2, 0.01, True, "gain, by pairs alone"),
        (-0.01, 0.009, 0.2, 0.2, True, "not shown"),
        (0.01, 0.002, 0.99, 0.99, True, "loss"),
        (0.01, 0.002, 0.99, 0.99, False, "more"),
        (0.0, 0.0, math.nan, math.nan, True, "the same"),
    ],
)
def test_what_may_be_called_a_gain(
    mean: float, error: float, welch: float, paired: float, less: bool, said: str
) -> None:
    assert judged(Difference(mean, error, welch, paired), less=less) == said


def test_units_say_which_way_is_better() -> None:
    assert less_is_better("hedge_bits_per_byte") and less_is_better("total_bytes")
    assert not less_is_better("train_tokens_per_second") and not less_is_better("verify_pass_checks")


def test_the_page_has_every_run_and_the_comparison() -> None:
    one = Group("as it is", {"hedge_bits_per_byte": [2.0, 2.1], "total_bytes": [100, 100]})
    two = Group("clip=9", {"hedge_bits_per_byte": [1.9, 2.05], "total_bytes": [90, 90]})
    page = groups_markdown("Seeds", "Two runs.", [7, 8], [one, two])
    assert "| hedge_bits_per_byte | 2.0500 | 0.0707 | 1.975 | 0.106 |" in page
    assert "| hedge_bits_per_byte | difference | -0.1 | -0.05 |" in page and "seed 7 | seed 8" in page
    assert "| total_bytes | -10 | 0 | - | - | every seed alike |" in page
    alone = groups_markdown("Seeds", "Two runs.", [7, 8], [one])
    assert "## Difference" not in alone and "| total_bytes | 100 | 0 |" in alone
