"""The cache: token streams, examples and trained tokenizers, computed once and kept with their hashes."""
