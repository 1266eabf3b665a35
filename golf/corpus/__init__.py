"""Documents in, documents out: sources, cleaning, split by document hash."""
