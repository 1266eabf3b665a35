"""Configurations of the model families, without torch."""
