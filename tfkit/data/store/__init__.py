"""The cache: token streams, example sets and trained tokenizers, built once and stored with their hashes."""
