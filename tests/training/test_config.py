"""Every wrong value of the section ``train`` is named with what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from golf.base.params import ParamsError, from_dict, load_section
from golf.training.config import TrainConfig
from golf.training.plan import plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 0}, "train.iterations: found 0 \\(int\\), expected int, 1 or more"),
        ({"tokens_per_step": 65}, r"tokens_per_step: found 65, expected a multiple of sequence_length \(16\)"),
        ({"micro_batch_tokens": 8}, "micro_batch_tokens: found 8, expected a multiple"),
        ({"matrix_lr": 0.0}, "matrix_lr: found 0.0 .*, expected float, more than 0 and at most"),
        ({"warmdown": 1.0}, "warmdown: found 1.0 .*, 0 or more and less than 1"),
        ({"ema_decay": -0.1}, "ema_decay: found -0.1"),
        ({"snapshot_below": 1.5}, "snapshot_below: found 1.5 .*, 0 or more and at most 1"),
        ({"grad_clip": -1.0}, "grad_clip: found -1.0 .*, 0 or more"),
        ({"depth_phases": [[0.5, 1], [0.4, 2]]}, r"depth_phases: found ends \[0.5, 0.4\], expected rising"),
        ({"depth_phases": [[0.5, 1], [0.9, 2]]}, "fractions of progress that end at 1.0"),
        ({"depth_phases": [[0.5, 0], [1.0, 2]]}, r"depth_phases\[0\]\[1\]: found 0 .*1 or more"),
        ({"depth_phases": [[0.5, 1.5], [1.0, 2]]}, r"train.depth_phases\[0\]"),
        ({"warmdown_shape": "square"}, "warmdown_shape: found 'square'.*linear, cosine"),
    ],
)
def test_bad_values(sections: dict[str, dict[str, Any]], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        from_dict(TrainConfig, {**sections["train"], **change}, where="train")


def test_the_committed_parameters_load_and_their_plan_is_accepted(root: Path) -> None:
    config = load_section(root / "params.yaml", "train", TrainConfig)
    (case,) = plan(config.schedule(config.depth_phases[-1][1] if config.depth_phases else 1)).cases
    assert case.steps == config.iterations and len(case.snapshot_steps) >= 4
