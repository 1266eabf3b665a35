"""The second process of `verify`: how long it waits for the first, and that it never outlives it."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from golf.base.params import from_dict
from golf.models.registry import build_model, config_from_dict
from golf.scoring.record_stream import StreamingConfig
from golf.verify import checks, run, two_processes
from golf.verify.scorers import mode_scorer
from shipped import shipped
from tiny import recurrent


def test_the_second_process_waits_for_hours_of_other_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It once gave up after 120 s, in which the first had not finished the checks of one mode: `verify` crashed."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **options: seen.update(options))
    two_processes._meet(tmp_path, 1)
    assert seen["rank"] == 1 and seen["timeout"] >= datetime.timedelta(hours=6)


def test_the_second_process_ends_when_the_first_has_died_before_they_met(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        two_processes._wait_for(tmp_path / "go", parent=os.getpid())  # never this process's parent
    assert caught.value.code == 1
    (tmp_path / "go").touch()
    two_processes._wait_for(tmp_path / "go", parent=os.getppid())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_half_the_chunk_is_compared_in_fp32(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The H100 presets score in bf16, whose rounding moved scores by 0.02 nats at half the chunk: `verify` failed."""
    seen: list[tuple[str, set[str]]] = []
    for name in [name for name in checks.__all__ if name.startswith("check_")]:
        monkeypatch.setattr(checks, name, lambda *values, **options: None)
    monkeypatch.setattr(checks, "check_same_score", lambda scorer, variants, tokens: remember(scorer, variants))

    def remember(scorer: Any, variants: dict[str, Any]) -> list[Any]:
        seen.append((scorer.config.precision, set(variants)))
        return []

    values = shipped()["evaluate"]["streaming"] | {"window": 8, "chunk": 4, "precision": precision}
    config, model = from_dict(StreamingConfig, values), build_model(config_from_dict(recurrent(width=32, blocks=1)), 40)
    scorer = mode_scorer("streaming", model, config, vocab_size=40, bos_id=1)
    settings = run.VerifyConfig(("streaming",), targets=40, flips=1, choices=4)
    list(run._scorer_checks(scorer, np.arange(40) % 7, settings, mock.Mock()))
    assert [kind for kind, names in seen if "half_the_chunk" in names] == ["fp32"]
    assert [kind for kind, names in seen if "streams_1" in names] == [precision]
