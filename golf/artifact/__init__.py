"""The `golf` artifact: one file that holds a quantized model, its config and its tokenizer.

Layout (docs/format.md has every field): a 64-byte prefix with lengths and SHA-256, six compressed blocks (index, low
and high byte planes of float arrays, scale codes, coder side data, tokenizer), then the coded integers.
Nothing is allocated on the word of a field that has not been checked; ``validate`` runs on writing and on reading.

``layout`` holds what both sides share, ``read`` is ``unpack``, ``write`` is ``pack``.
"""
