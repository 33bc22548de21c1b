"""The cache: token streams, example sets, trained tokenizers, and the records of streamed data sets and of the standard library's
tasks, each built once and stored with hashes that detect damage.
"""
