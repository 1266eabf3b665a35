"""Frequency tables and entropy coders: integers in, bytes out."""
