"""The range of credible machines holds the published step times, and scales as it must."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from golf.cli.params import compose
from golf.models.base import LanguageModel
from golf.models.registry import build_model, config_from_dict
from golf.training.plan import credible_machines, flops_per_token, steady_machine


@pytest.fixture
def four_hours(root: Path) -> LanguageModel:
    with torch.device("meta"):
        return build_model(config_from_dict(compose(root / "conf", preset="h100x8_4h")["model"]), 1024)


def test_the_published_step_times_lie_inside(four_hours: LanguageModel) -> None:
    slow, fast = credible_machines(four_hours, (2, 3, 4, 5), tokens_per_step=524_288, sequence_length=1024, world=8)
    for depth, published in {2: 0.0724, 3: 0.106, 4: 0.1398, 5: 0.1733}.items():  # PR #895, 8 x H100
        assert fast.step_seconds[depth] < published < slow.step_seconds[depth]
    (half, _) = credible_machines(four_hours, (2,), tokens_per_step=524_288, sequence_length=1024, world=4)
    assert half.step_seconds[2] == pytest.approx(2 * slow.step_seconds[2])


def test_operations_counted_by_hand(four_hours: LanguageModel) -> None:
    width, key = 832, 416
    block = 2 * width * width + 2 * width * key + 4 * width * width
    wanted = 6 * (3 * 2 * block + 1024 * width + 6 * 1024 * width)
    assert flops_per_token(four_hours, 2, 1024) == wanted
    assert four_hours.depth == 5, "the depth in use is left alone"


def test_a_steady_machine() -> None:
    assert steady_machine(4.0, (1, 2)).step_seconds == {1: 0.25, 2: 0.25}
    with pytest.raises(ValueError, match="steps per second: found 0.0"):
        steady_machine(0.0, (1,))
