"""Objectives of sampled responses: which prompts they are for, and how a response is laid out for the loss.

The loader of tfkit/alignment samples the responses of an iteration, rewards them, and hands them over as batches. A response is all that
follows its prompt, the token that ends it included: that is an action like any other, and nothing behind it exists.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from tfkit.data import Encoded, Example, ExampleBatch, ExampleRows, Row, Rows
from tfkit.data.columns.rows import BadRow
from tfkit.errors import ModelError
from tfkit.model.padding import pad, padding_mask
from tfkit.objectives.companion import Companion
from tfkit.objectives.context import LONGER_ROWS, ModelContext, RowOrder, Stored, example_rows
from tfkit.objectives.conversation_texts import Asked, ConversationTexts, Turns, bare_text
from tfkit.objectives.gold_model import GoldModel
from tfkit.objectives.labelled import LabelledObjective, RowResult
from tfkit.objectives.messages import SPEAKERS
from tfkit.objectives.objective import IGNORED, Batch, ReferenceUse, Sum
from tfkit.objectives.score_model import ScoreModel
from tfkit.recipe.schema.rollout_sections import RolloutSection
from tfkit.tokenizer import Tokenizer


@dataclass(frozen=True)
class GroupBaseline:
    """A response is as good as its reward is above the mean of the responses to the same prompt."""

    is_scaled: bool  # by the deviation of the group


@dataclass(frozen=True)
class ValueBaseline:
    """A token is as good as what follows it is better than its value model expected (GAE, arXiv 1506.02438)."""

    model: ScoreModel | None  # None in an evaluation, which credits no token
    gamma: float
    gae_lambda: float
    kl_target: float | None  # nats a response, which beta follows; None: beta stays
    kl_horizon: float  # responses


@dataclass(frozen=True)
class Rollouts:
    """How the responses of an objective are sampled and judged."""

    section: RolloutSection
    tokenizer: Tokenizer
    end_ids: Sequence[int]  # the tokens that end a response
    baseline: GroupBaseline | ValueBaseline
    reward: ScoreModel | None = None  # whose score is added to what the rules give
    gold: GoldModel | None = None  # whose score is only reported

    @property
    def responses(self) -> int:
        """The responses of an iteration."""
        return self.section.prompts * self.section.completions

    @property
    def readings(self) -> int:
        """How often an iteration trains on a response to each prompt."""
        return self.section.completions * self.section.inner_epochs


@dataclass(frozen=True)
class Response:
    """A sampled response, and the numbers of its tokens that the loss reads."""

    prompt: NDArray[np.int64]  # ids
    ids: NDArray[np.int64]  # (n,), the end token included
    of_tokens: Mapping[str, NDArray[np.float32]]  # (n,) each


class PromptRows:
    """Prompts as rows of the length that responses give them, each as often as an iteration trains on responses to it."""

    def __init__(self, prompts: Rows, rollouts: Rollouts):
        self.prompts, self.readings, self.new_tokens = prompts, rollouts.readings, rollouts.section.max_new_tokens

    def __len__(self) -> int:
        return len(self.prompts) * self.readings

    @property
    def mean_tokens(self) -> float:
        """Tokens of a prompt and the longest response, which are more than those of most."""
        return self.prompts.mean_tokens + self.new_tokens

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt and the longest response."""
        return self.prompts.longest + self.new_tokens

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the numbers of an epoch's prompts, each repeated."""
        return np.repeat(self.prompts.order(epoch), self.readings)

    def gather(self, epochs: NDArray[np.int64], numbers: NDArray[np.int64]) -> Any:
        """Return the prompts of these numbers."""
        return self.prompts.gather(epochs, numbers)


class RolloutObjective(LabelledObjective, Protocol):
    """An objective whose rows are prompts. Each gives its `rollouts`, a `loss` of the batches of `response_batch`, and its terms."""

    ids: tuple[str, ...] = ("input_ids",)
    section: RolloutSection
    tokenizer: Tokenizer
    prompt_encoder: "PromptEncoder"
    reward: ScoreModel | None
    gold: GoldModel | None

    @property
    def companions(self) -> Sequence[Companion]:
        """The reward model and the gold model."""
        return tuple(one.companion for one in (self.reward, self.gold) if one is not None)

    @property
    def draws_dropout(self) -> bool:
        """Never: the probabilities of a response before and after a step would differ by more than the step."""
        return False

    @property
    def reference_use(self) -> ReferenceUse:
        """In every iteration."""
        return "throughout"

    @property
    def end_ids(self) -> Sequence[int]:
        """The tokens that end a response."""
        return self.prompt_encoder.end_ids

    def open_rows(self, stored: Sequence[tuple[Stored, float]], order: RowOrder) -> ExampleRows:
        """Each prompt is a row; an iteration has prompts of like lengths."""
        return example_rows(stored, RowOrder(order.length, order.seed, self.section.prompts, order.length_groups))

    def fingerprint(self) -> str:
        """Of what `encode` depends on."""
        return self.prompt_encoder.fingerprint()

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """The ids of each prompt, and its text, answers and place as UTF-8."""
        return self.prompt_encoder.encode(rows)

    def collate(self, rows: ExampleBatch) -> Batch:
        """Prompts without responses, padded on the right: nothing has a loss."""
        nothing: dict[str, NDArray[np.float32]] = {}
        prompts = [Response(one["input_ids"].astype(np.int64), np.empty(0, np.int64), nothing) for one in rows.single()]
        return response_batch(prompts, self.tokenizer.pad_id or 0)

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        """The means over held-out prompts, with a response each: `reward`, `accuracy`, `kl`, `response_length`, `ended`."""
        return {name: sums[name].mean for name in self.section.metrics if name in sums}

    def wrong(self, row: Row) -> RowResult | None:
        """A prompt without a response is not right, where rules say what is; it has no reward, and no distance."""
        return RowResult({"accuracy": Sum(0.0, 1)}, {}) if self.section.rules else None

    def legend(self) -> list[str]:
        """A prompt has no loss."""
        return ["the rows are prompts: the responses that have a loss are sampled in training"]


class PromptEncoder:
    """Encodes prompts: a text is continued as it is, and messages are written by the tokenizer's chat template."""

    def __init__(self, section: RolloutSection, context: ModelContext):
        """Raises ModelError if a row has no room for a response, or no token can end one."""
        self.section, self.texts = section, ConversationTexts(context.tokenizer, context.folder, chat=section.chat)
        self.longest = context.row_length - section.max_new_tokens  # prompt
        if self.longest < 1:
            raise ModelError(
                f"objective.max_new_tokens: {section.max_new_tokens:,} tokens of a response leave no room for a prompt in a row of "
                f"{context.row_length:,}: lower it, or {LONGER_ROWS}"
            )
        self.end_ids = self.texts.end_ids
        if not self.end_ids:
            raise ModelError(f"{context.folder}: the tokenizer has no token that ends a text, so no response would end: take one that has")

    def fingerprint(self) -> str:
        """Of what the examples depend on."""
        about = ("prompts", self.texts.fingerprint(), self.longest, self.section.needs_answer)
        return hashlib.blake2b("\0".join(map(str, about)).encode(), digest_size=16).hexdigest()

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """An example or an error for each row. Raises ModelError for messages without a chat template."""
        prompts = [_unanswered(row.values["prompt"]) for row in rows]
        found = self.texts.encode([Asked(row.place, prompt) for row, prompt in zip(rows, prompts, strict=True)])
        return [
            ids if isinstance(ids, BadRow) else self._example(row, bare_text(prompt), ids.ids)
            for row, prompt, ids in zip(rows, prompts, found, strict=True)
        ]

    def _example(self, row: Row, text: str, ids: Sequence[int]) -> Encoded | BadRow:
        answers = row.values.get("answer", [])
        if self.section.needs_answer and not any(answer.strip() for answer in answers):
            return BadRow("no answer", f"{row.place}: no answer, with which a rule of objective.rules compares; add one, or remove the row")
        if not ids:
            return BadRow("an empty prompt", f"{row.place}: the prompt has no tokens; remove the row")
        if len(ids) > self.longest:
            return BadRow(
                "no room for a response",
                f"{row.place}: {len(ids):,} tokens, but with objective.max_new_tokens there is room for a prompt of only {self.longest:,}; "
                "shorten or remove the row, or lower objective.max_new_tokens",
                lost=True,
            )
        beside = {"prompt": text, "answers": json.dumps(answers), "place": row.place}
        arrays = {name: np.frombuffer(value.encode(errors="replace"), np.uint8) for name, value in beside.items()}
        return Encoded({"input_ids": list(ids), **arrays}, len(ids))


def _unanswered(prompt: Turns) -> Turns:
    """Return a prompt without the answer with which messages may end: another one is sampled."""
    if isinstance(prompt, str) or len(prompt) < 2:
        return prompt
    last = prompt[-1].get("role", prompt[-1].get("from"))
    return prompt[:-1] if SPEAKERS.get(str(last), last) == "assistant" else prompt


def beside_prompt(example: Example, name: str) -> str:
    """Return a text that is stored with a prompt: `prompt`, `answers` (a list in JSON) or `place`."""
    return bytes(example[name]).decode()


def response_batch(responses: Sequence[Response], pad_id: int) -> Batch:
    """Return prompts with their responses, padded on the right; the label of a position is the token of the response that follows.

    The numbers of the tokens are among the extras, (B, T) each, at the positions of the labels, and 0 elsewhere.
    """
    texts = [np.concatenate([one.prompt, one.ids]) for one in responses]
    labels = [np.concatenate([np.full(len(one.prompt) - 1, IGNORED), one.ids, [IGNORED]]) for one in responses]
    padded = pad(labels, IGNORED)
    names = responses[0].of_tokens if responses else {}
    extras = {name: torch.zeros(padded.shape) for name in names}
    for name, values in extras.items():
        values[padded != IGNORED] = torch.from_numpy(np.concatenate([one.of_tokens[name] for one in responses]))
    return Batch(pad(texts, pad_id), padded, padding_mask=padding_mask(texts), extras=extras)
