"""The second process of `verify`: how long it waits for the first, and that it never outlives it."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from golf.verify import world


def test_the_second_process_waits_for_hours_of_other_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It once gave up after 120 s, in which the first had not finished the checks of one mode: `verify` crashed."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **options: seen.update(options))
    world._meet(tmp_path, 1)
    assert seen["rank"] == 1 and seen["timeout"] >= datetime.timedelta(hours=6)


def test_the_second_process_ends_when_the_first_has_died_before_they_met(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        world._wait_for(tmp_path / "go", parent=os.getpid())  # never this process's parent
    assert caught.value.code == 1
    (tmp_path / "go").touch()
    world._wait_for(tmp_path / "go", parent=os.getppid())
