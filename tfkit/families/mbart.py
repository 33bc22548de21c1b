"""mBART (Liu et al. 2020, arXiv 2001.08210; mBART-50: Tang et al. 2020, arXiv 2008.00401).

New compared with BART: text of 25 or 50 languages, whose names are tokens; norms before the sublayers and after each stack, and embeddings
times sqrt(dim). In the decoder, a text begins with `decoder_start_token_id`: of mBART-25, the name of its language; of mBART-50, </s>.
"""

from tfkit.families import bart

# The vocabularies are as released: 250,000 SentencePiece entries, <pad>, 25 or 52 names of languages, and <mask>.
_BASE = bart.LARGE | {"embedding": {"norm": True, "scale": True}, "norm": {"kind": "layer", "eps": 1e-5, "placement": "pre"}}
PRESETS = {"mbart-large-cc25": _BASE | {"vocab_size": 250027}, "mbart-large-50": _BASE | {"vocab_size": 250054}}

FAMILY = bart.family("mbart", "MBart", PRESETS, "pre")
