"""The tokens of a row that are to be predicted, and what replaces them: BERT's masks, a function of (seed, epoch, row) alone.

As create_pretraining_data.py: round(rate * n) of a row's n tokens, [CLS] and [SEP] counted but never chosen; 80 % of these become [MASK],
10 % any entry of the vocabulary, and 10 % stay. Whole words are taken one by one, while they fit.
"""

import json

import numpy as np
from numpy.typing import NDArray

from tfkit.errors import ModelError
from tfkit.recipe.schema.objective_sections import MaskedLMSection
from tfkit.tokenizer import Tokenizer

_MASKS = 2  # distinguishes these draws from others that begin with the same seed, epoch and number


class Masking:
    """How a recipe masks the rows of a tokenizer. Raises ModelError if the tokenizer has no [MASK], or no pieces of words."""

    def __init__(self, section: MaskedLMSection, tokenizer: Tokenizer, seed: int):
        if tokenizer.mask_id is None:
            raise ModelError("the tokenizer has no [MASK] to put in a token's place; use one of kind wordpiece, or a BERT's")
        self.section, self.seed = section, seed
        self.mask_id, self.size = tokenizer.mask_id, tokenizer.size
        special = (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, tokenizer.mask_id)
        self._never = np.isin(np.arange(tokenizer.size), [one for one in special if one is not None])
        self._continues = _continues(tokenizer) if section.whole_words else None

    def draw(
        self, ids: NDArray[np.int64], epoch: int, number: int, token_counts: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the places in a row that are to be predicted, in order, and the ids that replace them."""
        bits = np.random.PCG64([self.seed, 0 if self.section.masking == "static" else epoch, number, _MASKS])
        raw = bits.random_raw(3 * len(ids)).reshape(3, -1)
        places = self._choose(ids, raw[0], token_counts)
        share, any_id = _unit(raw[1][places]), ((raw[2][places] >> 32) * self.size >> 32).astype(np.int64)
        masked, random, _ = self.section.split
        return places, np.where(share < masked, self.mask_id, np.where(share < masked + random, any_id, ids[places]))

    def _choose(self, ids: NDArray[np.int64], raw: NDArray[np.uint64], token_counts: NDArray[np.int64] | None) -> NDArray[np.int64]:
        candidates = np.flatnonzero(~self._never[ids])
        count = max(1, round(self.section.rate * len(ids)))
        if self._continues is not None:
            return self._words(candidates, self._continues[ids], raw, count)
        keys = raw[candidates]
        if self.section.rarity:
            # The least of -log(u) / weight, drawn without putting back by weight (Efraimidis & Spirakis 2006).
            assert token_counts is not None
            keys = -np.log(_unit(keys) + 2.0**-54) * token_counts[ids[candidates]] ** self.section.rarity
        return np.sort(candidates[np.argsort(keys, kind="stable")[:count]])

    def _words(self, candidates: NDArray[np.int64], continues: NDArray[np.bool_], raw: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
        """Words in a random order, each that still fits. If all are too long, the first one: else the row would teach nothing."""
        joined = continues[candidates] & (np.diff(candidates, prepend=-2) == 1)  # to the piece before it
        words = np.split(candidates, np.flatnonzero(~joined))[1:]
        order = [words[i] for i in np.argsort(raw[[word[0] for word in words]], kind="stable")]
        chosen: list[NDArray[np.int64]] = []
        for word in order:
            if len(word) <= count:
                chosen.append(word)
                count -= len(word)
        return np.sort(np.concatenate(chosen or order[:1] or [candidates]))


def _unit(raw: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Raw bits as numbers from 0 to below 1."""
    return (raw >> 11).astype(np.float64) * 2.0**-53


def _continues(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """(V,): whether an entry continues a word, as WordPiece's ##ing."""
    model = json.loads(tokenizer.tokenizer_json)["model"]
    if model.get("type") != "WordPiece":
        raise ModelError("objective.whole_words: only WordPiece tokenizers show which pieces form a word; set it to false")
    prefix = model["continuing_subword_prefix"]
    return np.array([(tokenizer.backend.id_to_token(i) or "").startswith(prefix) for i in range(tokenizer.size)])
