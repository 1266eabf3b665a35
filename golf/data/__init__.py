"""From text to batches of tokens: corpora, split by document hash, tokenizers, shards."""
