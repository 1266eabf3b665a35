"""Signals become a flag, a process that waits for a lost one ends all the same, and no trainer outlives its parent."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from golf.training.signals import end_with_parent, stop_on_signals


@pytest.mark.parametrize(("grace", "armed"), [(0, False), (50, True)])
def test_a_signal_sets_the_flag_and_the_alarm_of_a_group(grace: int, armed: bool) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals(grace_seconds=grace) as stop:
        assert stop.signum == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
        left = signal.alarm(50)  # seconds until the alarm that was set
        assert (left > 0) == armed
        with pytest.raises(SystemExit) as caught:
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 1)  # the handler runs at the latest here
        assert caught.value.code == 128 + signal.SIGINT
    assert signal.alarm(0) == 0 and signal.getsignal(signal.SIGTERM) is before


def test_a_trainer_whose_parent_is_gone_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []
    library = SimpleNamespace(prctl=lambda *numbers: asked.append(numbers))
    monkeypatch.setattr("golf.training.signals.ctypes.CDLL", lambda name, use_errno: library)
    end_with_parent(os.getppid())
    assert asked == [(1, signal.SIGTERM, 0, 0, 0)]
    with pytest.raises(SystemExit) as caught:
        end_with_parent(os.getppid() + 1)
    assert caught.value.code == 128 + signal.SIGTERM
