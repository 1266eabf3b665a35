"""Muon and the parameter groups."""
