"""The cache: token streams, example sets and trained tokenizers, each built once and stored with hashes that detect damage."""
