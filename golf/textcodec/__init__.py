"""Text to coded bytes and back with an artifact: the proof that a score is a file size."""
