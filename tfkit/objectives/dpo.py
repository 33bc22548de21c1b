"""Direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290): learning from preferences without a reward model.

The implicit reward of a completion is beta * (log p(completion) - log p_ref(completion)). The initial model gives p_ref, and a completion
includes the token that ends it. The loss of a prompt is the mean of -log sigmoid(better reward - worse reward) over its
pairs of a better and a worse completion; for a single pair, without label smoothing, it is equation 7 of the paper.
"""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from tfkit.data import ExampleBatch, Row
from tfkit.errors import ModelError
from tfkit.model.transformer import Transformer
from tfkit.objectives.context import ModelContext
from tfkit.objectives.conversation_texts import ConversationTexts
from tfkit.objectives.labelled import EncoderObjective, RowResult
from tfkit.objectives.log_probs import response_log_probs, sequence_sums
from tfkit.objectives.objective import Batch, ReferenceUse, Sum
from tfkit.objectives.preference_rows import PreferenceEncoder, pair_losses, pair_results, pair_rows, prompts_in
from tfkit.recipe.schema.preference_sections import DPOSection
from tfkit.tokenizer import Tokenizer


class DPO(EncoderObjective):
    """The loss of pairs of completions, from their implicit rewards, summed over prompts."""

    terms: Mapping[str, float] = {"dpo": 1.0}
    means = ("accuracy", "margin", "reward_chosen", "reward_rejected")  # means over pairs; the loss, in nats, is a mean over prompts
    reference_use: ReferenceUse = "once"
    draws_dropout = False
    evaluates_answers = True

    encoder: PreferenceEncoder

    def __init__(self, section: DPOSection, encoder: PreferenceEncoder, tokenizer: Tokenizer):
        self.section, self.encoder, self.tokenizer = section, encoder, tokenizer

    def collate(self, rows: ExampleBatch) -> Batch:
        """Return one sequence per completion, C in all, with the completion's tokens as labels."""
        return self.encoder.collate(rows, self.tokenizer.pad_id or 0)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of prompts."""
        return {"dpo": prompts_in(batch)}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """Return the sum over prompts of the mean loss of their pairs."""
        return {"dpo": pair_losses(self.rewards(model, batch), batch, self.section.label_smoothing).sum()}

    def rewards(self, model: Transformer, batch: Batch) -> Tensor:
        """Return the implicit reward of each completion: (C,)."""
        return self.section.beta * (self.reference_values(model, batch) - batch.extras["reference"])

    def reference_values(self, model: Transformer, batch: Batch) -> Tensor:
        """Return the log-probability of each completion, summed over its tokens: (C,), in nats."""
        return sequence_sums(response_log_probs(model, batch), batch.labels)

    def predict(self, model: Transformer, batch: Batch) -> Iterator[RowResult]:
        """Yield the rewards of each prompt's completions, best first, and the margin of each pair: the better reward minus the worse."""
        rewards = self.rewards(model, batch)
        rows = pair_rows(batch).cpu()
        better, worse = (rewards[batch.extras[side]].cpu().double() for side in ("better", "worse"))
        rewards_by_row = rewards.split(batch.extras["row"].bincount().tolist())
        results = pair_results("dpo", rewards, batch, self.section.label_smoothing)
        for number, (result, row_rewards) in enumerate(zip(results, rewards_by_row, strict=True)):
            pairs = rows == number
            count = int(pairs.sum())
            sides = {"reward_chosen": Sum(float(better[pairs].sum()), count), "reward_rejected": Sum(float(worse[pairs].sum()), count)}
            yield RowResult(result.sums | sides, {"rewards": row_rewards.tolist(), **result.prediction})

    def wrong(self, row: Row) -> RowResult:
        """Return the result of a row that cannot be encoded: it counts as one pair in the wrong order."""
        return RowResult({"accuracy": Sum(0.0, 1)}, {"rewards": [], "margins": []})

    def initialize(self, model: Transformer, new: Sequence[str] | None) -> None:
        """Raise ModelError if the initial checkpoint is no language model: missing parameters would be random in the reference model."""
        if new:
            raise ModelError(
                f"dpo compares the model with its initial checkpoint, which lacks {', '.join(new)}: start from a language model, such as "
                "one that was trained with objective: {kind: causal_lm} or {kind: chat}"
            )

    def legend(self) -> list[str]:
        """Return a sentence for `tfkit inspect` on the order of the completions of a row."""
        return ["choice 0 is the best completion of its prompt"]


def open_dpo(section: DPOSection, context: ModelContext) -> DPO:
    """Construct the objective for a model."""
    texts = ConversationTexts(context.tokenizer, context.folder, chat=section.chat)
    return DPO(section, PreferenceEncoder(texts, context.row_length), context.tokenizer)
