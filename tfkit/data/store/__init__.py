"""The cache: token streams, example sets, trained tokenizers, and the rows of streamed and standard library sources, each built once and
stored with hashes that detect damage.
"""
