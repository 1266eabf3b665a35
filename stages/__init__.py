"""One thin script per pipeline stage."""
