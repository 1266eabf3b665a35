"""Models that others trained: read, judged and written back under their own names."""
