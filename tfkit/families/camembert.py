"""CamemBERT (Martin et al. 2019, arXiv 1911.03894).

New compared with RoBERTa: French text alone, masked by whole words, and a SentencePiece vocabulary of 32,000 entries.
"""

from tfkit.families import roberta

_VOCABULARY = {"vocab_size": 32005}  # the released size, with five special tokens
PRESETS = {"camembert-base": roberta.BASE | _VOCABULARY, "camembert-large": roberta.LARGE | _VOCABULARY}

FAMILY = roberta.family("camembert", "camembert", "Camembert", PRESETS)
