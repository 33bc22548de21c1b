"""A reward model (InstructGPT, arXiv 2203.02155, section 3.5): a score for each completion of a prompt, higher for better ones.

The loss of a prompt is the mean over its pairs of -log sigmoid(r_better - r_worse). All completions of a prompt are in one batch, and each
is read once: in separate pairs each of K completions would be read K - 1 times, which overfits. The loss depends on differences alone, so
a finished model's scores are shifted to average 0 over the best completions of up to 4,096 training rows, the demonstrations.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tfkit.data import Encoded, Example, ExampleBatch, ExampleSet, Row
from tfkit.data.columns.rows import BadRow
from tfkit.errors import ModelError
from tfkit.model.config import ClassesHeadConfig
from tfkit.model.task_heads import ClassesHead
from tfkit.model.transformer import Transformer
from tfkit.objectives.context import ModelContext, Stored
from tfkit.objectives.conversation_texts import ConversationTexts
from tfkit.objectives.labelled import Answer, EncoderObjective, RowResult, short
from tfkit.objectives.metrics import Scores
from tfkit.objectives.objective import Batch, Sum
from tfkit.objectives.preference_rows import PreferenceEncoder, calibration_metrics, differences, pair_losses, pair_results, prompts_in
from tfkit.recipe.schema.preference_sections import RewardSection
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.tokenizer import token_text

PAD = "<|pad|>"
MAX_DEMONSTRATIONS = 4096  # the most training rows whose best completions are scored to compute the shift
_SHIFT = "reward_shift"  # a key of tfkit.json
_HEAD = "head.classes.weight"


class Reward(EncoderObjective):
    """The loss of pairs of completions, from their scores, summed over prompts."""

    terms: Mapping[str, float] = {"reward": 1.0}
    means = ("accuracy", "margin")  # means over pairs; the loss, in nats, is a mean over prompts
    draws_dropout = False
    evaluates_answers = True
    has_facts = True
    encoder: PreferenceEncoder

    def __init__(self, encoder: PreferenceEncoder, tokenizer: Tokenizer, seed: int, shift: float = 0.0, *, every_token: bool = False):
        """`shift` is subtracted from the scores of a finished model; `every_token`: whether every token of a completion has a loss."""
        self.encoder, self.tokenizer, self.seed, self.shift, self.every_token = encoder, tokenizer, seed, shift, every_token

    def encode_unlabelled(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return the sequence of each prompt and its completion, or the row's error."""
        return self.encoder.encode_unlabelled(rows)

    def collate(self, rows: ExampleBatch) -> Batch:
        """Return one sequence for each of C completions, its rank (1: best) as label, and its prompt's number of tokens in `prompts`."""
        assert self.tokenizer.pad_id is not None  # ensured by `fit_tokenizer`
        batch = self.encoder.collate(rows, self.tokenizer.pad_id)
        ranks = np.concatenate([example["ranks"] for example in rows.single()])
        prompts = torch.from_numpy(np.concatenate([example["prompts"] for example in rows.single()])).long()
        return replace(batch, labels=torch.from_numpy(ranks + 1).float(), extras={**batch.extras, "prompts": prompts})

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of prompts."""
        return {"reward": prompts_in(batch)}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """Return the sum over prompts of the mean loss of their pairs."""
        if self.every_token:
            return {"reward": losses_at_every_token(model, batch).sum()}
        return {"reward": pair_losses(reward_scores(model, batch), batch).sum()}

    def predict(self, model: Transformer, batch: Batch) -> Iterator[RowResult]:
        """Yield the scores of each prompt's completions, best first, and the margin of each pair: the better score minus the worse."""
        scores = reward_scores(model, batch)
        scores_by_row = (scores - self.shift).split(batch.extras["row"].bincount().tolist())
        for result, row_scores in zip(pair_results("reward", scores, batch), scores_by_row, strict=True):
            yield RowResult(result.sums, {"scores": row_scores.tolist(), **result.prediction})

    def answers(self, model: Transformer, batch: Batch, rows: Sequence[Row], *, all_labels: bool = False) -> Iterator[Answer]:
        """Yield the score of each completion, without a probability."""
        yield from (Answer(short(score)) for score in (reward_scores(model, batch).double() - self.shift).tolist())

    def answer_metrics(self, predictions: Sequence[Mapping[str, Any]]) -> list[Scores]:
        """Return a list with one function, which computes the calibration of the pairs, given a weight for each row."""
        return [calibration_metrics([row["margins"] for row in predictions])]

    def wrong(self, row: Row) -> RowResult:
        """Return the result of a row that cannot be encoded: it counts as one pair in the wrong order."""
        return RowResult({"accuracy": Sum(0.0, 1)}, {"scores": [], "margins": []})

    def initialize(self, model: Transformer, new: Sequence[str] | None) -> None:
        """Initialize the head, if it is new, with std 1 / sqrt(dim + 1) (Stiennon et al. 2020, arXiv 2009.01325, appendix B.1)."""
        if new is not None and _HEAD not in new:
            return
        head = dict(model.named_parameters())[_HEAD]
        with torch.no_grad():
            head.normal_(0.0, 1 / math.sqrt(head.shape[1] + 1), generator=torch.Generator().manual_seed(self.seed))

    def facts(self, model: Transformer, stored: Sequence[Stored], batch_size: int) -> dict[str, Any]:
        """Return the mean score and the number of the demonstrations, the best completions of the first 4,096 training rows.

        The mean is that of the saved model, except for an adapter trained in bf16: its base model is in bf16 here, but not when loaded.
        """
        best = [example for part in stored if isinstance(part, ExampleSet) for example in _best(part)][:MAX_DEMONSTRATIONS]
        best.sort(key=lambda example: -int(example["sizes"][0]))  # to reduce padding
        total, device = 0.0, next(model.parameters()).device
        for first in range(0, len(best), batch_size):
            rows = [[example] for example in best[first : first + batch_size]]
            numbers = np.arange(len(rows))
            batch = self.collate(ExampleBatch(rows, np.zeros_like(numbers), numbers)).to(device)
            total += float(reward_scores(model, batch).double().sum())
        return {_SHIFT: total / len(best), "demonstrations": len(best)}

    def legend(self) -> list[str]:
        """Return a sentence for `tfkit inspect` on the meaning of a row's choice numbers and labels."""
        return ["choice 0 is the best completion of its prompt; label: its rank"]


def open_reward(section: RewardSection, context: ModelContext) -> Reward:
    """Construct the objective. Raises ModelError for a bad shift in tfkit.json, or `every_token` if the model scores only whole texts."""
    config = context.config
    if section.every_token and (config.encoder_layers or (isinstance(config.head, ClassesHeadConfig) and config.head.pool != "last")):
        raise ModelError(
            f"{context.folder}: objective.every_token is for a model with a decoder alone, and this one scores only whole texts: remove it"
        )
    texts = ConversationTexts(context.tokenizer, context.folder, chat=section.chat)
    encoder = PreferenceEncoder(texts, context.row_length)
    shift = read_shift(context.facts, str(context.folder))
    return Reward(encoder, context.tokenizer, context.seed, shift, every_token=section.every_token)


def fit_tokenizer(section: RewardSection, tokenizer: Tokenizer, *, is_finished: bool) -> Tokenizer:
    """Return the tokenizer with a padding token other than eos, by which Hugging Face's classifiers find the last token of a text."""
    if tokenizer.pad_id is not None and tokenizer.pad_id != tokenizer.eos_id:
        return tokenizer
    ends = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.sep_id}
    pad = PAD if tokenizer.unk_id is None or tokenizer.unk_id in ends else token_text(tokenizer.settings["unk_token"]) or PAD
    padded = tokenizer.with_special_tokens([pad])
    return padded.changed(padded.tokenizer_json, {**padded.settings, "pad_token": pad}, padded.chat_template)


def read_shift(facts: Mapping[str, Any], place: str) -> float:
    """Return the shift, from tfkit.json, to subtract from a reward model's scores; default 0. Raises ModelError if it is not a number."""
    shift = facts.get(_SHIFT, 0.0)
    if not isinstance(shift, int | float) or isinstance(shift, bool) or not math.isfinite(shift):
        raise ModelError(f"{place}: {_SHIFT} in tfkit.json is {shift!r}, which is not a number; take the file from the model's origin")
    return float(shift)


def reward_scores(model: Transformer, batch: Batch) -> Tensor:
    """Return the score of each sequence, before the shift: (C,) in float32."""
    scores: Tensor = model(**batch.inputs()).logits[:, 0].float()
    return scores


def losses_at_every_token(model: Transformer, batch: Batch) -> Tensor:
    """Return each pair's mean loss over the tokens of its completions, times the pair's weight in the mean of its prompt: (P,).

    At token t the scores of both completions' first t tokens are compared; a shorter completion keeps its final score (Cobbe et al. 2021,
    arXiv 2110.14168, section 4.2, where a verifier is trained on every token of a solution).
    """
    output = model(**batch.inputs())
    assert isinstance(output.head, ClassesHead)
    scores = output.head.of_states(output.hidden)[..., 0].float()  # (C, T)
    count, width = scores.shape
    positions = torch.arange(width, device=scores.device)
    sizes = torch.full((count, 1), width, device=scores.device) if batch.padding_mask is None else batch.padding_mask.sum(1, keepdim=True)
    scores = scores.gather(1, torch.minimum(positions, sizes - 1))
    is_completion = (positions >= batch.extras["prompts"][:, None]) & (positions < sizes)  # (C, T)
    compared = is_completion[batch.extras["better"]] | is_completion[batch.extras["worse"]]  # (P, T)
    losses = -F.logsigmoid(differences(scores, batch)).masked_fill(~compared, 0.0)
    return losses.sum(1) / compared.sum(1) * batch.extras["share"]


def _best(stored: ExampleSet) -> Iterator[Example]:
    """Yield the best completion of each of the first MAX_DEMONSTRATIONS examples, as an example of its own."""
    for number in range(min(len(stored), MAX_DEMONSTRATIONS)):
        example = stored[number]
        first = {name: example[name][:1] for name in ("sizes", "prompts", "ranks")}
        yield {"input_ids": example["input_ids"][: int(first["sizes"][0])], **first}
