"""Masked language modelling: predict masked tokens and, optionally, whether a second text follows the first (BERT).

The loss is the mean cross-entropy over masked tokens plus, with next-sentence prediction, that over rows (Devlin et al. 2018, A.2).
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tfkit.data import Frame, FramedBatch, FramedRows, Rows, SentencePairRows
from tfkit.errors import ModelError
from tfkit.model.head import vocabulary_head
from tfkit.model.transformer import Output, Transformer
from tfkit.objectives.context import RowOrder, Stored, streams_of
from tfkit.objectives.log_probs import label_log_probs, token_scores
from tfkit.objectives.objective import IGNORED, Batch, Distillable, Sum, perplexity, weighted_loss
from tfkit.recipe.schema.objective_sections import MaskedLMSection
from tfkit.tokenizer import Tokenizer

_MASKS = 2  # distinguishes the random numbers of masks from others that are drawn by seed, epoch and row index


class MaskedLM(Distillable):
    """Cross-entropy of masked tokens and, with `section.next_sentence`, of whether the second text of a row follows the first."""

    def __init__(self, section: MaskedLMSection, tokenizer: Tokenizer, seed: int):
        """Raises ModelError if the tokenizer's template is not BERT's, or its tokens do not suit `Masking`."""
        self.section, self.frame = section, Frame.of(tokenizer)
        self.masking = Masking(section, tokenizer, seed)
        self.reads_sentences = self.reads_second_output = section.next_sentence
        self.terms: Mapping[str, float] = {"mlm": 1.0} | ({"next_sentence": 1.0} if section.next_sentence else {})

    def open_rows(self, stored: Sequence[tuple[Stored, float]], order: RowOrder) -> Rows:
        """Return rows of texts between special tokens or, with next-sentence prediction, of pairs of texts."""
        streams, length, seed, counted = streams_of(stored), order.length, order.seed, self.section.rarity > 0
        if not self.section.next_sentence:
            return FramedRows(streams, length, seed, self.frame, count_tokens=counted)
        static = self.section.masking == "static"  # whether the texts of a row, like its masks, are the same in every epoch
        return SentencePairRows(streams, length, seed, self.frame, short=self.section.short_rows, static=static, count_tokens=counted)

    def collate(self, rows: FramedBatch) -> Batch:
        """Return masked rows, with labels at masked positions. A pair's two texts are segments; without pairs, each text is a document."""
        ids, labels = rows.ids.copy(), np.full_like(rows.ids, IGNORED)
        for row, (length, epoch, number) in enumerate(zip(rows.lengths, rows.epochs.tolist(), rows.numbers.tolist(), strict=True)):
            positions, replacements = self.masking.draw(rows.ids[row, :length], epoch, number, rows.token_counts)
            labels[row, positions] = rows.ids[row, positions]
            ids[row, positions] = replacements
        real = np.arange(ids.shape[1]) < rows.lengths[:, None]  # (B, T)
        pairs = rows.unrelated is not None
        return Batch(
            torch.from_numpy(ids),
            torch.from_numpy(labels),
            document_ids=torch.from_numpy(rows.texts) if not pairs and rows.texts.any() else None,
            padding_mask=None if real.all() else torch.from_numpy(real),
            segment_ids=torch.from_numpy(np.where(real, rows.texts, 0)) if pairs else None,
            extras={} if rows.unrelated is None else {"next_sentence": torch.from_numpy(rows.unrelated)},
        )

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of masked tokens and, with next-sentence prediction, that of rows."""
        counts = {"mlm": int((batch.labels != IGNORED).sum()), "next_sentence": len(batch.labels)}
        return {term: counts[term] for term in self.terms}

    def losses(self, model: Transformer, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Return the sums of -log p over masked tokens (`mlm`) and, with next-sentence prediction, over rows, in nats."""
        losses = {"mlm": -label_log_probs(model, output.hidden, batch.labels).sum()}
        if self.section.next_sentence:
            losses["next_sentence"] = F.cross_entropy(output.extra_logits.float(), batch.extras["next_sentence"], reduction="sum")
        return losses

    def measure(self, model: Transformer, batch: Batch) -> dict[str, Sum]:
        """Return the losses, and the numbers of right predictions."""
        output, is_masked = model(**batch.inputs()), batch.labels != IGNORED
        scores = token_scores(vocabulary_head(model.head), output.hidden[is_masked], batch.labels[is_masked])
        count = len(scores.right)
        sums = {"mlm": Sum(-float(scores.log_probs.cpu().double().sum()), count), "accuracy": Sum(float(scores.right.sum()), count)}
        if self.section.next_sentence:
            logits, follows = output.extra_logits.float(), batch.extras["next_sentence"]
            sums["next_sentence"] = Sum(float(F.cross_entropy(logits, follows, reduction="sum")), len(follows))
            sums["next_sentence_accuracy"] = Sum(float((logits.argmax(-1) == follows).sum()), len(follows))
        return sums

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        """Return `loss`, masked tokens' `perplexity` and `accuracy`; for next-sentence prediction also its accuracy and both losses."""
        mlm_loss = sums["mlm"].mean
        metrics = {"loss": weighted_loss(self.terms, sums), "perplexity": perplexity(mlm_loss), "accuracy": sums["accuracy"].mean}
        if self.section.next_sentence:
            metrics |= {"mlm_loss": mlm_loss, "next_sentence_loss": sums["next_sentence"].mean}
            metrics["next_sentence_accuracy"] = sums["next_sentence_accuracy"].mean
        return metrics


class Masking:
    """The masks of BERT: which tokens of a row are predicted, and what replaces them.

    They are drawn by (seed, epoch, row number), static ones by (seed, row number). As in BERT's create_pretraining_data.py, round(rate * n)
    of a row's n tokens are chosen, at least one; n includes [CLS] and [SEP], which are never chosen. By default 80 % of the chosen tokens
    become [MASK], 10 % a random vocabulary entry, and 10 % stay unchanged. With `whole_words`, words are chosen in random order, except
    those that would exceed this number of tokens. Raises ModelError if the tokenizer has no [MASK] or, for whole words, is not WordPiece.
    """

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
        """Return the positions of the tokens to predict in a row, sorted, and the ids that replace these tokens.

        `token_counts` (largest id + 1,): how often each id occurs in the sources; needed if `rarity` is not 0.
        """
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
            # Sampling without replacement by weight = count^-rarity (Efraimidis & Spirakis 2006): the least -log(u) / weight win.
            assert token_counts is not None
            keys = -np.log(_unit(keys) + 2.0**-54) * token_counts[ids[candidates]] ** self.section.rarity
        return np.sort(candidates[np.argsort(keys, kind="stable")[:count]])

    def _words(self, candidates: NDArray[np.int64], continues: NDArray[np.bool_], raw: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
        """Return the sorted positions of whole words, at most `count` positions: words are taken in random order, each if it still fits.

        If every word is longer than `count`, the first in this order is taken nevertheless, so that each row has a target.
        """
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
    """Return whether each vocabulary entry continues a word, as ##ing does: (V,)."""
    model = json.loads(tokenizer.tokenizer_json)["model"]
    if model.get("type") != "WordPiece":
        raise ModelError("objective.whole_words: only WordPiece tokenizers show which pieces form a word; set it to false")
    prefix = model["continuing_subword_prefix"]
    return np.array([(tokenizer.backend.id_to_token(i) or "").startswith(prefix) for i in range(tokenizer.size)])
