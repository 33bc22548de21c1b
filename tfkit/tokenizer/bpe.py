"""Training of byte pair encoding (Sennrich et al. 2016, arXiv 1508.07909), and of WordPiece, which learns its entries the same way."""

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
    """Train on the words that the splitter makes of normalized texts; return a `tokenizers` model's `vocab` and `merges`.

    `first` holds the entries from id 0 on. The alphabet follows in both forms (with `prefix` the form inside a word, with `suffix` the one
    at its end), since a trainer would number them in the random order of a hash table, another one in every training.
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
