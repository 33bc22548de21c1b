"""The Transformer and its modules. Everything that differs between model families is data in `config`.

The legend for the shapes in comments at the ends of lines: B batch, T target positions, S source positions, D dim, H query heads,
K key and value heads, E head_dim, F hidden_dim, V vocabulary.
"""
