"""The messages of a row, which is a conversation or an exchange (an instruction and its output)."""

import json
from collections.abc import Mapping
from typing import Any

from tfkit.data import Row
from tfkit.objectives.messages import plain_message
from tfkit.tokenizer.chat_formats import UnfitError
from tfkit.tokenizer.conversations import ANSWER


def conversation(row: Row) -> list[dict[str, Any]]:
    """Return the messages of a row, each with role and content. Raises UnfitError.

    A system message among the messages takes precedence over a column that was recognised, but not named, as the system message.
    """
    messages = _messages(row)
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        raise UnfitError("no answer", "the assistant says nothing in this conversation, so there is nothing to learn")
    if not all(answer["content"].strip() or answer.get("tool_calls") for answer in answers):
        raise UnfitError("an empty answer", "an answer of the assistant is empty")
    return messages


def prompt_messages(row: Row) -> list[dict[str, Any]]:
    """Return the messages before a final answer, if there is one, and a placeholder for the answer. Raises UnfitError."""
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
    """Return the messages of a row; those of an exchange end with its answer, which may be empty."""
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
    """Return the answers of an exchange that are not blank, first the one that is the target; none for a conversation."""
    return [answer for answer in row.values.get("output", ()) if answer.strip()]
