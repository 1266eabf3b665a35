"""Scores of an artifact on held-out text."""
