"""The integer-exact network: the same logits to the last bit for any batch, chunk, thread count or order of sums."""
