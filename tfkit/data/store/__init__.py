"""What is computed once and cached: token streams, examples, trained tokenizers; all with hashes."""
