"""The step scale that makes an artifact end just below a number of bytes."""
