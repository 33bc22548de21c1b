"""The cache: token streams, example sets, trained tokenizers and the rows of some sources, each built once and stored with hashes that
detect damage.
"""
