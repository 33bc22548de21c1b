"""Supervised fine-tuning on conversations: only the assistant's answers, with the tokens that end its turns, have a loss.

The positions of answers come from rendering a conversation up to each answer (tokenizer/conversations.py), so a chat template need not
mark them. A row is stored as input ids and labels. A position's label is the next id if it is part of an answer with a loss, else IGNORED.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfkit.data import Encoded, Example, ExampleBatch, ExampleRows, ExampleSet, Row, digest
from tfkit.data.columns.rows import BadRow
from tfkit.errors import ModelError
from tfkit.model.padding import pad, padding_mask
from tfkit.objectives.context import LONGER_ROWS, RowOrder, Stored, example_rows
from tfkit.objectives.conversation_texts import CONTROL, checked_text, plain_message
from tfkit.objectives.labelled import RowResult, WritingObjective, not_blank
from tfkit.objectives.objective import IGNORED, Batch
from tfkit.objectives.sequence_to_sequence import TokenTargets
from tfkit.recipe.schema.objective_sections import ChatSection
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.chat_formats import UnfitError
from tfkit.tokenizer.conversations import ANSWER, TRAINING_DATE, ChatIds, Conversations, Render, Spans, chat_tokenizer, resolve_format
from tfkit.tokenizer.template import reads_reasoning


def fit_tokenizer(section: ChatSection, tokenizer: Tokenizer, *, is_finished: bool = False) -> Tokenizer:
    """Return the tokenizer to train with and to save: it has the format's chat template or its own, and reads special tokens.

    A tokenizer not trained by this run (`is_finished`) also gets the format's special tokens. Raises UsageError without a usable format.
    """
    form = resolve_format(section.format, tokenizer, section.system)
    if form is not None and is_finished:
        tokenizer = tokenizer.with_special_tokens(form.special)
    return chat_tokenizer(tokenizer, form, section.system)


class Chat(TokenTargets, WritingObjective):
    """Next-token prediction on the assistant's turns."""

    ids = ("input_ids", "labels")
    reads_special_tokens = True  # a chat template writes special tokens as text; `checked_text` rejects them inside messages

    def __init__(self, section: ChatSection, tokenizer: Tokenizer, row_length: int, folder: Path):
        """`tokenizer`: the result of `fit_tokenizer`; `folder`: where it was loaded from, for error messages. Raises UsageError if
        there is no usable format, ModelError if the tokenizer's chat template cannot be used for training.
        """
        self.section, self.tokenizer, self.row_length = section, tokenizer, row_length
        form = resolve_format(section.format, tokenizer, section.system)
        self.conversations = Conversations(tokenizer, form, section.system, folder)

    def open_rows(self, stored: Sequence[tuple[Stored, float]], order: RowOrder) -> ExampleRows:
        """Return rows of one conversation each or, packed, of several."""
        return example_rows(stored, order, packed=self.section.pack)

    def prompts(self, texts: Sequence[str]) -> tuple[list[str], bool]:
        """Return each text rendered as a user's message, up to where the answer begins; and True, as templates spell out special tokens."""
        with self.conversations.renderer() as render:
            rendered = [render([{"role": "user", "content": text}, *ANSWER], "generation.prompts") for text in texts]
        return [text[: spans[0][0]] for text, spans in rendered], True

    def fingerprint(self) -> str:
        """Return a hash of everything that `encode` depends on."""
        template = self.tokenizer.chat_template
        date = (TRAINING_DATE,) if template is not None and "strftime_now" in template else ()
        last = ("last",) if self.section.train_on == "last" else ()
        tools = ("tools",) if self.conversations.format is None and template is not None and "tools" in template else ()
        reasoning = ("reasoning",) if self.conversations.format is None and reads_reasoning(template) else ()
        about = ("chat", self.section.system, template, self.tokenizer.fingerprint(), self.row_length, *date, *last, *tools, *reasoning)
        return digest(*about)

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return the input_ids and labels of each row, or its error."""
        with self.conversations.renderer() as render:
            texts = [self._text(row, render) for row in rows]
        first = -1 if self.section.train_on == "last" else 0  # the index of the first answer with a loss
        rendered = [(text[0], text[1][first:]) for text in texts if not isinstance(text, BadRow)]
        encoded = iter(self.conversations.encode(rendered))
        return [text if isinstance(text, BadRow) else self._example(row, next(encoded)) for row, text in zip(rows, texts, strict=True)]

    def encode_unlabelled(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return the ids of each conversation up to the requested answer, or the row's error. Only the last id has a label, a placeholder.

        If the messages end with an answer, the model is asked for this answer, and its text is left out.
        """
        with self.conversations.renderer() as render:
            texts = [self._text(row, render, is_prompt=True) for row in rows]
        prompts = iter(self.conversations.encode([(text[0][: text[1][-1][0]], []) for text in texts if not isinstance(text, BadRow)]))
        return [text if isinstance(text, BadRow) else self._prompt(row, next(prompts).ids) for row, text in zip(rows, texts, strict=True)]

    def collate(self, rows: ExampleBatch) -> Batch:
        """Return rows padded on the right; conversations that are packed into a row are separate documents."""
        joined = {name: [np.concatenate([example[name] for example in row]) for row in rows.rows] for name in self.ids}
        documents = None
        if any(len(row) > 1 for row in rows.rows):
            numbers = [np.repeat(np.arange(len(row), dtype=np.int32), [len(example["labels"]) for example in row]) for row in rows.rows]
            documents = pad(numbers, IGNORED)
        ids = joined["input_ids"]
        return Batch(pad(ids, self.tokenizer.pad_id or 0), pad(joined["labels"], IGNORED), documents, padding_mask=padding_mask(ids))

    def prompt_ids(self, example: Example) -> list[int]:
        """Return the ids up to the beginning of the last answer."""
        ids: list[int] = example["input_ids"][: _answer_positions(example)[-1] + 1].tolist()
        return ids

    def references(self, row: Row, example: Example) -> list[str]:
        """Return the right answers: of a row with an instruction, its outputs that are not blank; else the last answer that has a loss."""
        if "output" in row.values:
            return not_blank(row.values["output"])
        answers = answer_texts(row)
        count = len(answers) if self.section.train_on == "last" else len(_answer_positions(example))  # how many answers truncation left
        return [answers[count - 1]]

    def wrong(self, row: Row) -> RowResult:
        """Return the result of a row that cannot be encoded: an empty text, which counts as a wrong answer."""
        answers = answer_texts(row)
        return RowResult({}, {"text": "", "references": not_blank(row.values.get("output", answers[-1:]))})

    def notes(self, stored: Sequence[Stored]) -> list[str]:
        """Return a remark for the user: the fraction of the tokens that are targets."""
        labels = [np.asarray(examples.arrays["labels"][0]) for examples in stored if isinstance(examples, ExampleSet)]
        fraction = sum(int((part != IGNORED).sum()) for part in labels) / sum(map(len, labels))
        every, last = "what the assistant says, and the ends of its turns", "what the assistant says last, and the end of that turn"
        return [f"{fraction:.1%} of the training tokens are targets: {last if self.section.train_on == 'last' else every}"]

    def _text(self, row: Row, render: Render, *, is_prompt: bool = False) -> tuple[str, Spans] | BadRow:
        """Render a row's conversation; `is_prompt`: with a placeholder for the answer that the model is asked for."""
        try:
            messages = prompt_messages(row) if is_prompt else conversation(row)
            return checked_text(self.conversations, messages, row.place, render, row.values.get("tools", ()))
        except UnfitError as error:
            return BadRow(error.kind, f"{row.place}: {error}; correct the row", lost=error.kind == CONTROL)
        except ModelError as error:  # raised by the template
            return BadRow("refused by the chat template", str(error), lost=True)

    def _prompt(self, row: Row, ids: NDArray[np.int64]) -> Encoded | BadRow:
        if len(ids) >= self.row_length:
            return BadRow(
                "no room for an answer",
                f"{row.place}: the messages have {len(ids):,} tokens, which leave no room for an answer in a row of {self.row_length:,}; "
                "shorten or remove the row",
            )
        labels = [*[IGNORED] * (len(ids) - 1), self.conversations.end_id]
        return Encoded({"input_ids": ids.tolist(), "labels": labels}, len(ids), False)

    def _example(self, row: Row, encoded: ChatIds) -> Encoded | BadRow:
        length = self.row_length
        ids, targets = encoded.ids[:length], encoded.targets[:length]
        labels = np.append(np.where(targets, ids, IGNORED)[1:], IGNORED)  # nothing follows the last id
        if not self.conversations.ends_turn(encoded):
            return BadRow("a turn without an end", f"{row.place}: an answer does not end with a special token; correct the row")
        if not targets[1:].any():
            return BadRow(
                "no answer within the context",
                f"{row.place}: the conversation has {len(encoded.ids):,} tokens, and no answer begins within the first {length:,}; "
                f"{LONGER_ROWS}, or remove the row",
                lost=True,
            )
        unread = max(0, len(exchange_answers(row)) - 1)
        return Encoded({"input_ids": ids.tolist(), "labels": labels.tolist()}, len(ids), len(encoded.ids) > length, unread)


def _answer_positions(example: Example) -> list[int]:
    """Return the positions whose label (the id of the next position) is the first id of an answer."""
    is_target = example["labels"] != IGNORED
    begins: list[int] = np.flatnonzero(is_target & ~np.append(False, is_target[:-1])).tolist()
    return begins


def conversation(row: Row) -> list[dict[str, Any]]:
    """Return the messages of a row, each with role and content. Raises UnfitError without an answer, or for one without text and calls.

    A system message among the messages replaces the text of a column `system`; if `columns.system` names the column, both must agree.
    """
    messages = _messages(row)
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        raise UnfitError("no answer", "the assistant says nothing in this conversation, so there is nothing to learn")
    if not all(answer["content"].strip() or answer.get("tool_calls") for answer in answers):
        raise UnfitError("an empty answer", "an answer of the assistant is empty")
    return messages


def prompt_messages(row: Row) -> list[dict[str, Any]]:
    """Return the messages up to the answer that is asked for, and a placeholder for it. Raises UnfitError if no message is a user's."""
    messages = _messages(row)
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not any(message["role"] == "user" for message in messages):
        raise UnfitError("no question", "there is no message of a user to answer")
    return [*messages, *ANSWER]


def answer_texts(row: Row) -> list[str]:
    """Return the text of each answer, as a reference for generated texts; its tool calls follow as JSON, one per line."""
    answers = [message for message in conversation(row) if message["role"] == "assistant"]
    return ["\n".join(filter(str.strip, (answer["content"], *_calls_as_text(answer)))) for answer in answers]


def _calls_as_text(message: Mapping[str, Any]) -> list[str]:
    functions = [call["function"] for call in message.get("tool_calls", ())]
    return [json.dumps({name: call[name] for name in ("name", "arguments")}, ensure_ascii=False) for call in functions]


def _messages(row: Row) -> list[dict[str, Any]]:
    """Return the messages of a row, its system message included; a row with an instruction gives a question and an answer, maybe empty."""
    values = row.values
    if "messages" in values:
        messages = [plain_message(number, message) for number, message in enumerate(values["messages"], 1)]
    else:
        question = [part for part in (values["instruction"], values.get("input", "")) if part.strip()]
        answer = next(iter(exchange_answers(row)), "")
        messages = [{"role": "user", "content": "\n\n".join(question)}, {"role": "assistant", "content": answer}]
    system = values.get("system", "")
    if messages[0]["role"] != "system":
        messages[:0] = [{"role": "system", "content": system}] if system.strip() else []
    elif "system" in row.named and system.strip() not in ("", messages[0]["content"].strip()):
        raise UnfitError(
            "two system messages", "there is a system message among the messages, and another one in the column that columns.system names"
        )
    return messages


def exchange_answers(row: Row) -> list[str]:
    """Return the outputs, without blank ones, of a row with an instruction; the first is the target. A conversation has none."""
    return [answer for answer in row.values.get("output", ()) if answer.strip()]
