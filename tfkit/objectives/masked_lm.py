"""Masked language modelling: predict masked tokens and, optionally, whether a second text follows the first (BERT).

The loss is the mean over masked tokens plus, with next-sentence prediction, the mean over rows (Devlin et al. 2018, appendix A.2).
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tfkit.data import Frame, FramedBatch, FramedRows, Rows, SentencePairRows
from tfkit.model.head import vocabulary_head
from tfkit.model.transformer import Output, Transformer
from tfkit.objectives.causal_lm import label_log_probs
from tfkit.objectives.context import RowOrder, Stored, streams_of
from tfkit.objectives.log_probs import token_scores
from tfkit.objectives.masking import Masking
from tfkit.objectives.objective import IGNORED, Batch, Objective, Sum, perplexity, weighted_loss
from tfkit.recipe.schema.objective_sections import MaskedLMSection
from tfkit.tokenizer import Tokenizer


class MaskedLM(Objective):
    """Cross-entropy of masked tokens and, with `section.next_sentence`, of the next sentence."""

    def __init__(self, section: MaskedLMSection, tokenizer: Tokenizer, seed: int):
        """Raises ModelError if the tokenizer lacks BERT's special tokens."""
        self.section, self.frame = section, Frame.of(tokenizer)
        self.masking = Masking(section, tokenizer, seed)
        self.terms: Mapping[str, float] = MappingProxyType({"mlm": 1.0} | ({"next_sentence": 1.0} if section.next_sentence else {}))

    @property
    def reads_sentences(self) -> bool:
        """True for next-sentence prediction."""
        return self.section.next_sentence

    @property
    def reads_second_output(self) -> bool:
        """True for next-sentence prediction."""
        return self.section.next_sentence

    def open_rows(self, stored: Sequence[tuple[Stored, float]], order: RowOrder) -> Rows:
        """Return rows of texts between special tokens, or of pairs of texts."""
        streams, length, seed, counted = streams_of(stored), order.length, order.seed, self.section.rarity > 0
        if not self.section.next_sentence:
            return FramedRows(streams, length, seed, self.frame, count_tokens=counted)
        static = self.section.masking == "static"  # then a row has the same texts in every epoch, too
        return SentencePairRows(streams, length, seed, self.frame, short=self.section.short_rows, static=static, count_tokens=counted)

    def collate(self, rows: FramedBatch) -> Batch:
        """Return masked rows, with labels at the masked positions. The texts of a pair are segments; other texts are separate documents."""
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
        """Return the numbers of masked tokens and of rows."""
        counts = {"mlm": int((batch.labels != IGNORED).sum()), "next_sentence": len(batch.labels)}
        return {term: counts[term] for term in self.terms}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """Return the sums of -log p over masked tokens and over rows, in nats."""
        return self.losses(model, model(**batch.inputs()), batch)

    def losses(self, model: Transformer, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Return the losses, given the output of the model."""
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
        """Return `loss`, `perplexity` and `accuracy` of masked tokens; with next sentences also each loss and `next_sentence_accuracy`."""
        mlm_loss = sums["mlm"].mean
        metrics = {"loss": weighted_loss(self.terms, sums), "perplexity": perplexity(mlm_loss), "accuracy": sums["accuracy"].mean}
        if self.section.next_sentence:
            metrics |= {"mlm_loss": mlm_loss, "next_sentence_loss": sums["next_sentence"].mean}
            metrics["next_sentence_accuracy"] = sums["next_sentence_accuracy"].mean
        return metrics
