"""Benchmarks, run by hand as ``python -m benchmarks.NAME``."""

import os

from golf.base.threads import bound_spin

bound_spin(os.environ)  # before any of them imports torch
