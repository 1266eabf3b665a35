"""The writing thread: values of the moment, order, errors, and what the end waits for."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from golf.training.writer import Writer


class Jobs:
    """Jobs that begin when they may and note what they were given."""

    def __init__(self) -> None:
        self.may_begin, self.seen = threading.Event(), list[list[float]]()

    def note(self, copies: Mapping[str, Tensor]) -> None:
        assert self.may_begin.wait(60)
        self.seen.append(copies["w"].tolist())

    def fail(self, copies: Mapping[str, Tensor]) -> None:
        assert self.may_begin.wait(60)
        raise OSError("No space left on device")


def test_jobs_see_the_values_of_their_moment_in_order_and_training_goes_on() -> None:
    jobs, weights = Jobs(), torch.zeros(2, 3).T
    with Writer() as writer:
        for value in (1.0, 2.0):
            weights.fill_(value)
            writer.write(jobs.note, {"w": weights})
        weights.fill_(9.0)
        assert jobs.seen == []
        jobs.may_begin.set()
    assert jobs.seen == [[[1.0, 1.0]] * 3, [[2.0, 2.0]] * 3]


def test_after_an_error_no_job_runs_and_the_next_call_tells_it() -> None:
    jobs, weights = Jobs(), {"w": torch.zeros(1)}
    with pytest.raises(OSError, match="No space"), Writer() as writer:
        writer.write(jobs.fail, weights)
        writer.write(jobs.note, weights)
        jobs.may_begin.set()
        with pytest.raises(OSError, match="No space"):
            writer.wait()
        with pytest.raises(OSError, match="No space"):
            writer.write(jobs.note, weights)
        writer.check()
    assert jobs.seen == []


def test_another_error_waits_for_the_jobs_and_stays_what_it_was() -> None:
    jobs = Jobs()
    jobs.may_begin.set()
    with pytest.raises(ValueError, match="diverged"), Writer() as writer:
        writer.write(jobs.note, {"w": torch.zeros(1)})
        writer.write(jobs.fail, {"w": torch.zeros(1)})
        raise ValueError("diverged")
    assert jobs.seen == [[0.0]]


def test_an_exit_at_once_waits_for_nothing() -> None:
    jobs = Jobs()
    with pytest.raises(SystemExit), Writer() as writer:
        writer.write(jobs.note, {"w": torch.zeros(1)})
        raise SystemExit(143)
    assert jobs.seen == []
    jobs.may_begin.set()
