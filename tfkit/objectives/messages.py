"""Messages of rows: converted to the fields of chat templates, and rendered, unless their text has special tokens."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tfkit.tokenizer.chat_formats import UnfitError
from tfkit.tokenizer.conversations import Conversations, Json, Render, Spans
from tfkit.tokenizer.tool_calls import with_plain_calls

CONTROL = "special tokens in a text"
# The names that data sets use for the roles of chat templates.
ROLE_ALIASES = {
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
    """Return a message of a data set with the fields that templates read, and its other fields unchanged. Raises UnfitError."""
    role, content = (message.get(name, message.get(other)) for name, other in (("role", "from"), ("content", "value")))
    if isinstance(content, list) and all(map(_is_text, content)):
        content = "".join(part["text"] for part in content)  # the form of chat APIs
    if role == "function_call":  # ShareGPT: the content is the calls
        message, content = {**message, "tool_calls": content}, None
    if content is None and message.get("tool_calls"):
        content = ""
    if role in ("tool", "observation") and isinstance(content, dict | list):
        content = json.dumps(content, ensure_ascii=False, default=str)
    if not isinstance(role, str) or not isinstance(content, str):
        lacking = "content" if isinstance(role, str) else "role"
        raise UnfitError(f"a message without {lacking}", f"message {number} has no text under {lacking!r}, or under what ShareGPT calls it")
    rest = {name: value for name, value in with_plain_calls(message).items() if name not in ("from", "value")}
    plain: dict[str, Any] = json.loads(json.dumps(rest, default=str))  # templates read JSON, and parquet has further types
    return {**plain, "role": ROLE_ALIASES.get(role, role), "content": content}


def _is_text(part: Any) -> bool:
    """Whether a part of a message is a text, not an image."""
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def checked_text(
    conversations: Conversations, messages: Sequence[Json], place: str, render: Render, tools: Sequence[Json] = ()
) -> tuple[str, Spans]:
    """Return the rendered text of a conversation, and the spans of its answers.

    Raises UnfitError if the text would have special tokens that come from a message or a tool instead of the format, or if the template
    renders no tools or calls although there are some. Fields of a message that are not rendered may hold special tokens.
    """
    for number, message in enumerate(messages, 1):
        token = conversations.literal(message["content"]) or conversations.literal(message["role"])
        if token is not None and token != message["role"]:  # a format may have a special token for each role
            raise _special_token_error(number, token)
    text = render(messages, place, tools)
    _check_tools(conversations, messages, tools, lambda messages, tools: render(messages, place, tools)[0], text[0])
    for number, message in enumerate(messages, 1):
        rest = {name: value for name, value in message.items() if name not in ("role", "content")}
        token = next(filter(None, map(conversations.literal, _texts(rest))), None)
        if token is not None:
            cleaned = {**_without_special_tokens(rest, conversations.literal), "role": message["role"], "content": message["content"]}
            if render([*messages[: number - 1], cleaned, *messages[number:]], place, tools) != text:
                raise _special_token_error(number, token)
    return text


def _check_tools(
    conversations: Conversations,
    messages: Sequence[Json],
    tools: Sequence[Json],
    render: Callable[[Sequence[Json], Sequence[Json]], str],
    text: str,
) -> None:
    """Raise UnfitError for tools with special tokens, and for tools and calls that are not rendered."""
    if (token := next(filter(None, map(conversations.literal, _texts([*tools]))), None)) is not None:
        raise UnfitError(CONTROL, f"a tool has {token!r}, which would be read as a special token")
    if tools and render(messages, ()) == text:
        raise UnfitError("tools that are not shown", f"the chat template does not show the tools of the conversation; {_REMEDY}")
    for number, message in enumerate(messages):
        if message.get("tool_calls"):
            without_calls = {name: value for name, value in message.items() if name != "tool_calls"}
            if render([*messages[:number], without_calls, *messages[number + 1 :]], tools) == text:
                raise UnfitError(
                    "calls that are not shown", f"the chat template does not show the calls of message {number + 1}; {_REMEDY}"
                )


def _special_token_error(number: int, token: str) -> UnfitError:
    return UnfitError(CONTROL, f"message {number} has {token!r}, which would be read as a special token")


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value, including the names of fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in (*value, *value.values()) if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _without_special_tokens(value: Any, literal: Callable[[str], str | None]) -> Any:
    """Return a JSON value with each text that holds a special token made empty."""
    if isinstance(value, str):
        return "" if literal(value) is not None else value
    if isinstance(value, Mapping):
        return {_without_special_tokens(name, literal): _without_special_tokens(part, literal) for name, part in value.items()}
    return [_without_special_tokens(part, literal) for part in value] if isinstance(value, list) else value
