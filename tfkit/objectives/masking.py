"""The masks of BERT: which tokens of a row are predicted, and their replacements, as a function of (seed, epoch, row) alone.

As in create_pretraining_data.py, round(rate * n) of a row's n tokens are chosen, [CLS] and [SEP] being counted but never chosen. 80 % of
them become [MASK], 10 % a random entry of the vocabulary, and 10 % are unchanged. Whole words are added one by one while they fit.
"""

import json

import numpy as np
from numpy.typing import NDArray

from tfkit.errors import ModelError
from tfkit.recipe.schema.objective_sections import MaskedLMSection
from tfkit.tokenizer import Tokenizer

_MASKS = 2  # distinguishes these draws from other draws by seed, epoch and row number


class Masking:
    """Masks rows. Raises ModelError if the tokenizer has no [MASK] or, for whole words, is not WordPiece."""

    def __init__(self, section: MaskedLMSection, tokenizer: Tokenizer, seed: int):
        if tokenizer.mask_id is None:
            raise ModelError("the tokenizer has no [MASK] to put in a token's place; use one of kind wordpiece, or a BERT's")
        self.section, self.seed = section, seed
        self.mask_id, self.size = tokenizer.mask_id, tokenizer.size
        special = (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, tokenizer.mask_id)
        self._is_special = np.isin(np.arange(tokenizer.size), [token for token in special if token is not None])
        self._continues = _continues(tokenizer) if section.whole_words else None

    def draw(
        self, ids: NDArray[np.int64], epoch: int, number: int, token_counts: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the positions of a row that are predicted, in order, and the ids that replace them."""
        bits = np.random.PCG64([self.seed, 0 if self.section.masking == "static" else epoch, number, _MASKS])
        raw = bits.random_raw(3 * len(ids)).reshape(3, -1)
        positions = self._choose(ids, raw[0], token_counts)
        uniforms, random_ids = _unit(raw[1][positions]), ((raw[2][positions] >> 32) * self.size >> 32).astype(np.int64)
        masked, random, _ = self.section.split
        return positions, np.where(uniforms < masked, self.mask_id, np.where(uniforms < masked + random, random_ids, ids[positions]))

    def _choose(self, ids: NDArray[np.int64], raw: NDArray[np.uint64], token_counts: NDArray[np.int64] | None) -> NDArray[np.int64]:
        candidates = np.flatnonzero(~self._is_special[ids])
        count = max(1, round(self.section.rate * len(ids)))
        if self._continues is not None:
            return self._words(candidates, self._continues[ids], raw, count)
        keys = raw[candidates]
        if self.section.rarity:
            # The smallest -log(u) / weight: weighted sampling without replacement (Efraimidis & Spirakis 2006).
            assert token_counts is not None
            keys = -np.log(_unit(keys) + 2.0**-54) * token_counts[ids[candidates]] ** self.section.rarity
        return np.sort(candidates[np.argsort(keys, kind="stable")[:count]])

    def _words(self, candidates: NDArray[np.int64], continues: NDArray[np.bool_], raw: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
        """Choose words in random order, each that still fits; if all are too long, the first, so that each row has a target."""
        is_continued = continues[candidates] & (np.diff(candidates, prepend=-2) == 1)
        words = np.split(candidates, np.flatnonzero(~is_continued))[1:]
        order = [words[i] for i in np.argsort(raw[[word[0] for word in words]], kind="stable")]
        chosen: list[NDArray[np.int64]] = []
        for word in order:
            if len(word) <= count:
                chosen.append(word)
                count -= len(word)
        return np.sort(np.concatenate(chosen or order[:1] or [candidates]))


def _unit(raw: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Convert random bits to numbers in [0, 1)."""
    return (raw >> 11).astype(np.float64) * 2.0**-53


def _continues(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """Return whether each vocabulary entry continues a word, as WordPiece's ##ing: (V,)."""
    model = json.loads(tokenizer.tokenizer_json)["model"]
    if model.get("type") != "WordPiece":
        raise ModelError("objective.whole_words: only WordPiece tokenizers show which pieces form a word; set it to false")
    prefix = model["continuing_subword_prefix"]
    return np.array([(tokenizer.backend.id_to_token(i) or "").startswith(prefix) for i in range(tokenizer.size)])
