"""The Transformer and its modules. Everything that differs between model families is a field of the config (package `config`).

Letters of shapes in comments: B batch, T positions of queries, S positions of keys, H query heads, K key and value heads, V vocabulary,
N experts; D, E and F are the config's dim (width of the residual stream), head_dim and hidden_dim (width inside the MLP).
"""
