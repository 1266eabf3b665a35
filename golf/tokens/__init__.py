"""Tokenizer, token shards and the byte ledger."""
