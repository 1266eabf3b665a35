"""One thin script per pipeline stage."""

import os

from golf.base.threads import bound_spin

bound_spin(os.environ)  # before any stage imports torch
