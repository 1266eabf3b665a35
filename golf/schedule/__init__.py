"""Schedules as pure functions of progress, and the plan made of them."""
