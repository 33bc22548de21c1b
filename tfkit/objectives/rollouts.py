"""Objectives of sampled responses: the encoding of prompts, the layout of responses in batches, and pretraining text for the same steps.

In each iteration, the loader of tfkit/alignment samples and rewards responses, and makes the batches of the steps that train on them. A
response is what follows its prompt: at most `max_new_tokens` ids, including the end token, which is an action of the policy, too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from tfkit.data import Encoded, Encoder, Example, ExampleBatch, ExampleRows, PackedBatch, Row, Rows, digest
from tfkit.data.columns.preference_forms import ASSISTANT, HUMAN, is_dialogue
from tfkit.data.columns.rows import BadRow
from tfkit.errors import ModelError
from tfkit.model.padding import pad, padding_mask
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.companion import Companion
from tfkit.objectives.context import LONGER_ROWS, ModelContext, RowOrder, Stored, example_rows
from tfkit.objectives.conversation_texts import ROLE_ALIASES, ConversationTexts, PromptCompletion, Turns, bare_text
from tfkit.objectives.labelled import EncoderObjective, RowResult
from tfkit.objectives.objective import IGNORED, Batch, ReferenceUse, Sum
from tfkit.objectives.score_model import GoldModel, ScoreModel
from tfkit.recipe.schema.rollout_sections import RolloutSection
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.conversations import end_ids


@dataclass(frozen=True)
class GroupBaseline:
    """The advantage of a response is its reward minus the mean over the responses to the same prompt (GRPO)."""

    is_scaled: bool  # whether advantages are divided by the group's standard deviation


@dataclass(frozen=True)
class ValueBaseline:
    """The advantage of a token comes from a value model (GAE, arXiv 1506.02438)."""

    model: ScoreModel | None  # None in an evaluation, which has no advantages
    gamma: float
    gae_lambda: float
    kl_target: float | None  # the KL, in nats per response, that an adaptive beta (the KL's weight) aims at; None: beta is constant
    kl_horizon: float  # the number of responses over which beta adapts


@dataclass(frozen=True)
class Rollouts:
    """How the responses of an objective are sampled and scored."""

    section: RolloutSection
    tokenizer: Tokenizer  # the policy's tokenizer; its end tokens end a response
    baseline: GroupBaseline | ValueBaseline
    reward: ScoreModel | None = None  # its score is added to the reward from objective.rules; None: rules alone
    gold: GoldModel | None = None  # its score is only reported; in AI feedback, it ranks the responses

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The ids that end a response."""
        return frozenset(end_ids(self.tokenizer))

    @property
    def responses(self) -> int:
        """The number of responses in an iteration."""
        return self.section.prompts * self.section.completions

    @property
    def readings(self) -> int:
        """The number of times that an iteration trains on each prompt: the completions per prompt times the inner epochs."""
        return self.section.completions * self.section.inner_epochs


@dataclass(frozen=True)
class Response:
    """A sampled response, and the values of its tokens that the loss reads."""

    prompt: NDArray[np.int64]  # the ids of the prompt
    ids: NDArray[np.int64]  # (n,): the ids of the response, including the end token if it ended
    token_values: Mapping[str, NDArray[np.float32]]  # (n,) each, by name, such as `advantages`


class PromptRows:
    """Prompts as rows, each repeated `readings` times in succession; the length of a row includes its response."""

    def __init__(self, prompts: Rows, rollouts: Rollouts):
        self.prompts, self.readings, new_tokens = prompts, rollouts.readings, rollouts.section.max_new_tokens
        # Every response is counted as if it had the largest length, `max_new_tokens`.
        self.mean_tokens, self.longest = prompts.mean_tokens + new_tokens, prompts.longest + new_tokens

    def __len__(self) -> int:
        return len(self.prompts) * self.readings

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the prompt indices of an epoch, each `readings` times in succession."""
        return np.repeat(self.prompts.order(epoch), self.readings)

    def gather(self, epochs: NDArray[np.int64], numbers: NDArray[np.int64]) -> Any:
        """Return the prompts with the indices `numbers`."""
        return self.prompts.gather(epochs, numbers)


class RolloutObjective(EncoderObjective, Protocol):
    """An objective whose rows are prompts. A subclass defines `rollouts`, `terms`, and the `loss` of batches from `response_batch`."""

    draws_dropout: bool = False  # ratios of probabilities before and after a step must not include the noise of dropout
    reference_use: ReferenceUse = "throughout"  # every iteration computes log-probabilities with the reference model
    section: RolloutSection
    tokenizer: Tokenizer
    reward: ScoreModel | None
    gold: GoldModel | None

    @property
    def companions(self) -> Sequence[Companion]:
        """The reward model and the gold model, as far as the section names them."""
        return tuple(model.companion for model in (self.reward, self.gold) if model is not None)

    def open_rows(self, stored: Sequence[tuple[Stored, float]], order: RowOrder) -> ExampleRows:
        """Return rows of one prompt each; with `length_groups`, the prompts of an iteration have similar lengths."""
        return example_rows(stored, RowOrder(order.length, order.seed, self.section.prompts, order.length_groups))

    def collate(self, rows: ExampleBatch) -> Batch:
        """Return prompts without responses, padded on the right; no position has a loss."""
        prompts = [Response(example["input_ids"].astype(np.int64), np.empty(0, np.int64), {}) for example in rows.single()]
        return response_batch(prompts, self.tokenizer.pad_id or 0)

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        """Return the means of the section's metrics, such as `reward` and `kl`, over held-out prompts with one response each."""
        return {name: sums[name].mean for name in self.section.metrics if name in sums}

    def wrong(self, row: Row) -> RowResult | None:
        """Return the result of a prompt that cannot be encoded: a wrong answer, without reward and KL; None without objective.rules."""
        return RowResult({"accuracy": Sum(0.0, 1)}, {}) if self.section.rules else None

    def legend(self) -> list[str]:
        """Return a sentence for `tfkit inspect`, which says that a prompt has no loss."""
        return ["the rows are prompts: the responses that have a loss are sampled in training"]


class PromptEncoder(Encoder):
    """Encodes prompts: messages and, with `chat`, texts by the tokenizer's chat template; other texts as they are."""

    def __init__(self, section: RolloutSection, context: ModelContext):
        """Raises ModelError if a row has no room for a prompt and its response, or if no token ends a response."""
        self.section, self.texts = section, ConversationTexts(context.tokenizer, context.folder, chat=section.chat)
        self.longest = context.row_length - section.max_new_tokens  # the most tokens of a prompt
        if self.longest < 1:
            raise ModelError(
                f"objective.max_new_tokens: {section.max_new_tokens:,} tokens of a response leave no room for a prompt in a row of "
                f"{context.row_length:,}: lower it, or {LONGER_ROWS}"
            )
        if not end_ids(context.tokenizer):
            raise ModelError(f"{context.folder}: the tokenizer has no token that ends a text, so no response would end: take one that has")

    def fingerprint(self) -> str:
        """Return a hash of everything that `encode` depends on."""
        return digest("prompts", self.texts.fingerprint(), self.longest, self.section.needs_answer)

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return each prompt's ids, text, answers and place; or the row's error. Raises ModelError if a needed chat template is missing."""
        prompts = [_without_answer(row.values["prompt"]) for row in rows]
        encoded = self.texts.encode([PromptCompletion(row.place, prompt) for row, prompt in zip(rows, prompts, strict=True)])
        return [
            ids if isinstance(ids, BadRow) else self._example(row, bare_text(prompt), ids.ids)
            for row, prompt, ids in zip(rows, prompts, encoded, strict=True)
        ]

    def _example(self, row: Row, text: str, ids: Sequence[int]) -> Encoded | BadRow:
        answers = row.values.get("answer", [])
        if self.section.needs_answer and not any(answer.strip() for answer in answers):
            return BadRow("no answer", f"{row.place}: there is no answer for a rule of objective.rules; add one, or remove the row")
        if not ids:
            return BadRow("an empty prompt", f"{row.place}: the prompt has no tokens; remove the row")
        if len(ids) > self.longest:
            return BadRow(
                "no room for a response",
                f"{row.place}: the prompt has {len(ids):,} tokens, but objective.max_new_tokens leaves room for only {self.longest:,}; "
                "shorten or remove the row, or lower objective.max_new_tokens",
                lost=True,
            )
        texts = {"prompt": text, "answers": json.dumps(answers), "place": row.place}
        arrays = {name: np.frombuffer(value.encode(errors="replace"), np.uint8) for name, value in texts.items()}
        return Encoded({"input_ids": list(ids), **arrays}, len(ids))


def _without_answer(prompt: Turns) -> Turns:
    """Return a prompt without the assistant's message, if one ends it, in whose place a response is sampled."""
    if isinstance(prompt, str):
        end = prompt.rfind(ASSISTANT) + len(ASSISTANT)
        return prompt[:end] if is_dialogue(prompt) and HUMAN not in prompt[end:] else prompt
    if len(prompt) < 2:
        return prompt
    last = prompt[-1].get("role", prompt[-1].get("from"))
    return prompt[:-1] if ROLE_ALIASES.get(str(last), last) == "assistant" else prompt


def stored_text(example: Example, name: str) -> str:
    """Return a text that is stored with a prompt: `prompt`, `answers` (a list in JSON) or `place` (file and line)."""
    return bytes(example[name]).decode()


def response_batch(responses: Sequence[Response], pad_id: int) -> Batch:
    """Return prompts with their responses, padded on the right; the label of a position is the response token at the next position.

    `extras` has the token values, (B, T) each, at the positions of the labels, and 0 elsewhere.
    """
    texts = [np.concatenate([response.prompt, response.ids]) for response in responses]
    labels = [np.concatenate([np.full(len(response.prompt) - 1, IGNORED), response.ids, [IGNORED]]) for response in responses]
    padded = pad(labels, IGNORED)
    names = responses[0].token_values if responses else {}
    extras = {name: torch.zeros(padded.shape) for name in names}
    for name, values in extras.items():
        values[padded != IGNORED] = torch.from_numpy(np.concatenate([response.token_values[name] for response in responses]))
    return Batch(pad(texts, pad_id), padded, padding_mask=padding_mask(texts), extras=extras)


class PretrainingMix(CausalLM):
    """The pretraining text that a step reads after its responses, in micro-batches of its own, cut as for causal language modelling.

    It prevents forgetting: InstructGPT (arXiv 2203.02155, 3.5 and C.4) adds 27.8 times the text's gradient to the gradient of a step.
    """

    def __init__(self, ratio: int, separator_id: int | None):
        """`ratio`: the number of rows of text per response."""
        super().__init__(separator_id=separator_id)
        self.ratio = ratio

    def collate(self, rows: PackedBatch) -> Batch:
        """Return a batch with `is_pretraining` set."""
        return replace(super().collate(rows), is_pretraining=True)
