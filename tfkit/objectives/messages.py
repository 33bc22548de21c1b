"""The messages of rows: under the names that chat templates know, and rendered without special tokens that a message writes itself."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tfkit.tokenizer.chat_formats import UnfitError
from tfkit.tokenizer.conversations import Conversations, Json, Render, Spans
from tfkit.tokenizer.tool_calls import with_plain_calls

CONTROL = "special tokens in a text"
# The names that data sets have for the roles beside "system", "user" and "assistant".
SPEAKERS = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatbot": "assistant",
    "observation": "tool",
    "function_call": "assistant",
}
_REMEDY = "name objective.format: chatml_tools, or take a checkpoint whose template supports tools"


def plain_message(number: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message of a data set under the names that templates know, with whatever else it holds. Raises UnfitError."""
    role, content = (message.get(name, message.get(other)) for name, other in (("role", "from"), ("content", "value")))
    if isinstance(content, list) and all(map(_is_text, content)):
        content = "".join(part["text"] for part in content)  # as chat APIs have it
    if role == "function_call":  # ShareGPT's: the calls are the text
        message, content = {**message, "tool_calls": content}, None
    if content is None and message.get("tool_calls"):
        content = ""
    if role in ("tool", "observation") and isinstance(content, dict | list):
        content = json.dumps(content, ensure_ascii=False, default=str)
    if not isinstance(role, str) or not isinstance(content, str):
        lacking = "content" if isinstance(role, str) else "role"
        raise UnfitError(f"a message without {lacking}", f"message {number} has no text under {lacking!r}, or under what ShareGPT calls it")
    rest = {name: value for name, value in with_plain_calls(message).items() if name not in ("from", "value")}
    plain: dict[str, Any] = json.loads(json.dumps(rest, default=str))  # a template is given JSON, and parquet holds more than that
    return {**plain, "role": SPEAKERS.get(role, role), "content": content}


def _is_text(part: Any) -> bool:
    """Whether a part of a message is a text: not an image, nor what says nothing."""
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def checked_text(
    conversations: Conversations, messages: Sequence[Json], place: str, render: Render, tools: Sequence[Json] = ()
) -> tuple[str, Spans]:
    """Return the text of a conversation, and where its answers are.

    Raises UnfitError if it would have special tokens that a message or a tool writes, and not the format, or if it would not show tools or
    calls of them, as a template that does not know of tools. Besides role and content a message may have anything: what the text does not
    show of it may hold any token.
    """
    for number, message in enumerate(messages, 1):
        found = conversations.literal(message["content"]) or conversations.literal(message["role"])
        if found is not None and found != message["role"]:  # a format may have a special token for each role
            raise _control_token(number, found)
    text = render(messages, place, tools)
    _check_tools(conversations, messages, tools, lambda messages, tools: render(messages, place, tools)[0], text[0])
    for number, message in enumerate(messages, 1):
        rest = {name: value for name, value in message.items() if name not in ("role", "content")}
        found = next(filter(None, map(conversations.literal, _texts(rest))), None)
        if found is not None:
            blank = {**_blank(rest, conversations.literal), "role": message["role"], "content": message["content"]}
            if render([*messages[: number - 1], blank, *messages[number:]], place, tools) != text:
                raise _control_token(number, found)
    return text


def _check_tools(
    conversations: Conversations,
    messages: Sequence[Json],
    tools: Sequence[Json],
    render: Callable[[Sequence[Json], Sequence[Json]], str],
    text: str,
) -> None:
    """Raise UnfitError for tools that write special tokens, and for tools and calls that the text would be the same without."""
    if (token := next(filter(None, map(conversations.literal, _texts([*tools]))), None)) is not None:
        raise UnfitError(CONTROL, f"a tool has {token!r}, which would be read as a special token")
    if tools and render(messages, ()) == text:
        raise UnfitError("tools that are not shown", f"the chat template does not show the tools of the conversation; {_REMEDY}")
    for number, message in enumerate(messages):
        if message.get("tool_calls"):
            silent = {name: value for name, value in message.items() if name != "tool_calls"}
            if render([*messages[:number], silent, *messages[number + 1 :]], tools) == text:
                raise UnfitError(
                    "calls that are not shown", f"the chat template does not show the calls of message {number + 1}; {_REMEDY}"
                )


def _control_token(number: int, token: str) -> UnfitError:
    return UnfitError(CONTROL, f"message {number} has {token!r}, which would be read as a special token")


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value of JSON, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in (*value, *value.values()) if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _blank(value: Any, literal: Callable[[str], str | None]) -> Any:
    """A value of JSON with empty texts for those that hold a special token."""
    if isinstance(value, str):
        return "" if literal(value) is not None else value
    if isinstance(value, Mapping):
        return {_blank(name, literal): _blank(part, literal) for name, part in value.items()}
    return [_blank(part, literal) for part in value] if isinstance(value, list) else value
