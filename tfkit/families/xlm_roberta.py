"""XLM-R (Conneau et al. 2019, arXiv 1911.02116).

New compared with RoBERTa: text of a hundred languages, and one vocabulary of 250,000 SentencePiece entries for all of them.
"""

from tfkit.families import roberta

_VOCABULARY = {"vocab_size": 250002}  # as released: 250,000 SentencePiece entries, <pad> and <mask>
PRESETS = {"xlm-roberta-base": roberta.BASE | _VOCABULARY, "xlm-roberta-large": roberta.LARGE | _VOCABULARY}

FAMILY = roberta.family("xlm_roberta", "xlm-roberta", "XLMRoberta", PRESETS)
