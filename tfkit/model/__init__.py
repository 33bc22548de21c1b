"""The Transformer and its modules. Everything that differs between model families is data in the package `config`.

Shapes in comments: B batch, T target positions (the queries), S source positions (the keys), D dim, H query heads, K key and value heads,
E head_dim, F hidden_dim, V vocabulary.
"""
