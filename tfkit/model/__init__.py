"""The Transformer, and the modules that it is made of. Whatever differs between the systems is data in `config`.

One legend for the shapes that stand at the end of lines: B batch, T target positions, S source positions, D dim, H query heads,
K key and value heads, E head_dim, F hidden_dim, V vocabulary.
"""
