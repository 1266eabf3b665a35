"""Moved to `golf.guard`; kept for the import of stages until they follow."""

from golf.guard import main_guard

__all__ = ["main_guard"]
