"""Language models that fit in 16,000,000 bytes: the library behind the stages and the `golf` command."""
