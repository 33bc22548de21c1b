"""The rendered texts of conversations, whose messages must hold no special tokens, and the ids of prompts and completions.

Messages and, with `chat`, texts are rendered by the checkpoint's chat template; other texts are encoded as they are, with eos after the
completion. The ids of a prompt do not depend on its completion, since a model reads the prompt alone before it generates one.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from tfkit.data.columns.forms import find_surrogate
from tfkit.data.columns.preference_forms import ASSISTANT, HUMAN, is_dialogue
from tfkit.data.columns.rows import BadRow
from tfkit.errors import ModelError
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.chat_formats import UnfitError
from tfkit.tokenizer.conversations import ANSWER, TRAINING_DATE, Conversations, Json, Render, Spans, resolve_format
from tfkit.tokenizer.template import reads_reasoning
from tfkit.tokenizer.tool_calls import with_plain_calls

Turns = str | list[dict[str, Any]]  # a text, or messages
CONTROL = "special tokens in a text"  # the `kind` of the UnfitError for special tokens in a message or tool
# The names of roles in some data sets, each with the name that chat templates read.
ROLE_ALIASES = {"human": "user", "observation": "tool"} | dict.fromkeys(("gpt", "bot", "model", "chatbot", "function_call"), "assistant")
_REMEDY = "name objective.format: chatml_tools, or take a checkpoint whose template supports tools"


def plain_message(number: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a data set's message as templates read it, in JSON values. Raises UnfitError without a role, or without content and calls."""
    role, content = message.get("role", message.get("from")), _content(message)
    if role == "function_call":  # in ShareGPT, a message with this role has its calls as its content
        message, content = {**message, "tool_calls": content}, None
    if content is None and message.get("tool_calls"):
        content = ""
    if role in ("tool", "observation") and isinstance(content, dict | list):
        content = json.dumps(content, ensure_ascii=False, default=str)
    if not isinstance(role, str) or not isinstance(content, str):
        lacking = "content" if isinstance(role, str) else "role"
        alias = "value" if lacking == "content" else "from"
        raise UnfitError(
            f"a message without {lacking}", f"message {number} has no text under {lacking!r}, or under {alias!r} as in ShareGPT"
        )
    rest = {name: value for name, value in with_plain_calls(message).items() if name not in ("from", "value")}
    plain: dict[str, Any] = json.loads(json.dumps(rest, default=str))  # templates read JSON values; parquet has others, such as dates
    return {**plain, "role": ROLE_ALIASES.get(role, role), "content": content}


def _content(message: Mapping[str, Any]) -> Any:
    """Return the content of a data set's message; a list of parts that are all texts is joined to one text."""
    content = message.get("content", message.get("value"))
    if isinstance(content, list) and all(map(_is_text, content)):
        return "".join(part["text"] for part in content)  # a list of parts, as in chat APIs
    return content


def _is_text(part: Any) -> bool:
    """Whether a part of a message is a text, not an image."""
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def checked_text(
    conversations: Conversations, messages: Sequence[Json], place: str, render: Render, tools: Sequence[Json] = ()
) -> tuple[str, Spans]:
    """Return the rendered text of a conversation, and the spans of its answers.

    Raises UnfitError if a message or a tool has half a surrogate pair, or text that would be read as a special token, or if the template
    leaves out the tools or a message's calls. Fields of a message that are not rendered may hold special tokens.
    """
    if position := find_surrogate(_texts([*messages, *tools])):
        raise UnfitError("half a surrogate pair", f"a message or a tool holds half a surrogate pair at {position}")
    for number, message in enumerate(messages, 1):
        token = conversations.literal(message["content"]) or conversations.literal(message["role"])
        if token is not None and token != message["role"]:  # a role may be a special token of the format
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
    """Raise UnfitError for tools with special tokens, and for tools and calls that the chat template does not render."""
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
    """Return a JSON value in which an empty text replaces each text that holds a special token."""
    if isinstance(value, str):
        return "" if literal(value) is not None else value
    if isinstance(value, Mapping):
        return {_without_special_tokens(name, literal): _without_special_tokens(part, literal) for name, part in value.items()}
    return [_without_special_tokens(part, literal) for part in value] if isinstance(value, list) else value


class PromptCompletion(NamedTuple):
    """A prompt and its `completion` (None if there is only a prompt). `place`: the file and line of the row, for error messages."""

    place: str
    prompt: Turns
    completion: Turns | None = None


class PromptedIds(NamedTuple):
    """The ids of a prompt and its completion; `prompt`: how many of them belong to the prompt."""

    ids: list[int]
    prompt: int


class ConversationTexts:
    """Encodes prompts and completions with a tokenizer that was loaded from `folder`. `chat`: use the chat template for texts, too."""

    def __init__(self, tokenizer: Tokenizer, folder: Path, *, chat: bool):
        self.tokenizer, self.folder, self.chat = tokenizer, folder, chat

    def fingerprint(self) -> str:
        """Return all that the ids depend on as one text: tokenizer, `chat`, template, and whether the template reads dates or reasoning."""
        template = self.tokenizer.chat_template
        date = TRAINING_DATE if template is not None and "strftime_now" in template else ""
        reasoning = ["reasoning"] if reads_reasoning(template) else []
        return "\0".join([self.tokenizer.fingerprint(), str(self.chat), str(template), date, *reasoning])

    def encode(self, items: Sequence[PromptCompletion]) -> list[PromptedIds | BadRow]:
        """Return the ids of each item, with the end token, or the row's error. Raises ModelError if a needed chat template is missing."""
        are_chats = [self.chat or isinstance(item.prompt, list) or isinstance(item.completion, list) for item in items]
        chats = iter(self._chats([item for item, is_chat in zip(items, are_chats, strict=True) if is_chat]) if any(are_chats) else ())
        texts = iter(self._texts([item for item, is_chat in zip(items, are_chats, strict=True) if not is_chat]))
        return [next(chats if is_chat else texts) for is_chat in are_chats]

    def _texts(self, items: Sequence[PromptCompletion]) -> list[PromptedIds | BadRow]:
        """Encode texts. A prompt and its completion are encoded separately, since the model generates the completion after the prompt."""
        prompts = self.tokenizer.encode_bare([str(item.prompt) for item in items])
        completions = self.tokenizer.encode_bare([str(item.completion or "") for item in items])
        end = [] if self.tokenizer.eos_id is None else [self.tokenizer.eos_id]
        encoded: list[PromptedIds | BadRow] = []
        for item, prompt, completion in zip(items, prompts, completions, strict=True):
            before = [*self.tokenizer.prefix, *prompt.tolist()]
            after = [] if item.completion is None else [*completion.tolist(), *end]
            encoded.append(PromptedIds([*before, *after], len(before)))
        return encoded

    @cached_property
    def _conversations(self) -> Conversations:
        """The renderer of conversations. Raises ModelError for a template that cannot be used for training."""
        return Conversations(self.tokenizer, resolve_format("auto", self.tokenizer, None), None, self.folder)

    def _chats(self, items: Sequence[PromptCompletion]) -> list[PromptedIds | BadRow]:
        if self.tokenizer.chat_template is None:
            why = "objective.chat is set" if self.chat else "the prompt or its completion is messages"
            raise ModelError(
                f"{items[0].place}: {why}, but {self.folder} has no chat template, so nothing says how messages are written: start from a "
                "checkpoint that has one, or give texts, such as columns: {prompt: '{question}\\n'}"
            )
        with self._conversations.renderer() as render:
            texts = [self._rendered(item, render) for item in items]
        all_ids = iter(self._conversations.encode([text for text in texts if not isinstance(text, BadRow)]))
        encoded: list[PromptedIds | BadRow] = []
        for item, text in zip(items, texts, strict=True):
            if isinstance(text, BadRow):
                encoded.append(text)
                continue
            ids, targets = next(all_ids)
            prompt = int(targets.argmax()) if targets.any() else len(ids)
            encoded.append(PromptedIds(ids[:prompt].tolist() if item.completion is None else ids.tolist(), prompt))
        return encoded

    def _rendered(self, item: PromptCompletion, render: Render) -> tuple[str, list[tuple[int, int]]] | BadRow:
        """Return the rendered text up to the end of the completion, and the completion's span; or the row's error."""
        try:
            prompt = _messages(item.prompt, "user")
            completion = [*ANSWER] if item.completion is None else _messages(item.completion, "assistant")
            if len(completion) != 1 or completion[0]["role"] != "assistant":
                raise UnfitError("a completion of several turns", "a completion must be one message of the assistant")
            text, spans = checked_text(self._conversations, [*prompt, *completion], item.place, render)
        except UnfitError as error:
            return BadRow(error.kind, f"{item.place}: {error}; correct the row", lost=error.kind == CONTROL)
        except ModelError as error:  # raised by the template
            return BadRow("refused by the chat template", str(error), lost=True)
        return text[: spans[-1][1]], spans[-1:]


def _messages(turns: Turns, speaker: str) -> list[dict[str, Any]]:
    """Return turns as messages: a text becomes one message of `speaker`, or several if it has HH-RLHF's marks of speakers."""
    if isinstance(turns, list):
        return [plain_message(number, message) for number, message in enumerate(turns, 1)]
    if not is_dialogue(turns):
        return [{"role": speaker, "content": turns.strip()}] if turns.strip() else []
    marks = {HUMAN: "user", ASSISTANT: "assistant"}
    _, *parts = re.split(f"({'|'.join(marks)})", turns)
    messages = [{"role": marks[mark], "content": text.strip()} for mark, text in zip(parts[::2], parts[1::2], strict=True)]
    return messages if messages[-1]["content"] else messages[:-1]  # the last mark of a prompt, "Assistant:", has no content


def bare_text(turns: Turns) -> str:
    """Return the plain text of turns, without roles; a message that has only tool calls gives an empty text."""
    if isinstance(turns, str):
        return turns
    return "\n".join("" if content is None else str(content) for content in map(_content, turns))
