"""Training of byte pair encoding (Sennrich et al. 2016, arXiv 1508.07909), and of WordPiece, whose entries are learned the same way."""

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, trainers

from tfkit.tokenizer.train import Corpus


def learn(
    corpus: Corpus,
    splitter: pre_tokenizers.PreTokenizer,
    first: Sequence[str],
    vocab_size: int,
    *,
    normalizer: normalizers.Normalizer | None = None,
    alphabet: Sequence[str] | None = None,
    prefix: str = "",
    suffix: str = "",
) -> dict[str, Any]:
    """Train on the words into which the splitter divides normalized texts; return `vocab` and `merges` for a `tokenizers` model.

    `first` holds the entries from id 0 on. The characters of the alphabet follow, each also with `prefix` (its form inside a word) or
    `suffix` (its form at the end of one): the trainer itself would number them in the order of a hash table, which differs in every run.
    """
    forms = [form for character in alphabet or () for form in dict.fromkeys((character, prefix + character + suffix))]
    affixes: dict[str, Any] = {"continuing_subword_prefix": prefix, "end_of_word_suffix": suffix}
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*first, *forms],
        show_progress=False,
        **{name: affix for name, affix in affixes.items() if affix},
    )
    backend = Backend(models.BPE())
    backend.pre_tokenizer = splitter
    corpus.train(backend, trainer, normalizer, alphabet)
    model = json.loads(backend.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(merge) for merge in model["merges"]]}
