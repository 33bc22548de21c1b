"""Prompts and their completions as ids: messages by the checkpoint's chat template, texts as they are, each closed by the end of a text.

A completion is what the model writes behind a prompt, so the ids of a prompt are the same alone and before any completion.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from tfkit.data.columns.preference_forms import ASSISTANT, HUMAN, is_dialogue
from tfkit.data.columns.rows import BadRow
from tfkit.errors import ModelError
from tfkit.objectives.messages import CONTROL, checked_text, plain_message
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.chat_formats import UnfitError
from tfkit.tokenizer.conversations import ANSWER, TRAINING_DATE, Conversations, Render, resolve_format

Turns = str | list[dict[str, Any]]  # a text, or messages


class Asked(NamedTuple):
    """A prompt with a completion; None: the prompt alone. `place` is that of its row."""

    place: str
    prompt: Turns
    completion: Turns | None = None


class PromptedIds(NamedTuple):
    """Ids, of which the first `prompt` ones are the prompt's."""

    ids: list[int]
    prompt: int


class ConversationTexts:
    """Encodes prompts and completions for one tokenizer, loaded from `folder`. `chat`: texts go through the chat template, too."""

    def __init__(self, tokenizer: Tokenizer, folder: Path, *, chat: bool):
        self.tokenizer, self.folder, self.chat = tokenizer, folder, chat

    def fingerprint(self) -> str:
        """Return what the ids depend on."""
        template = self.tokenizer.chat_template
        date = TRAINING_DATE if template is not None and "strftime_now" in template else ""
        return "\0".join([self.tokenizer.fingerprint(), str(self.chat), str(template), date])

    def encode(self, asked: Sequence[Asked]) -> list[PromptedIds | BadRow]:
        """Return the ids of each prompt, with those of its completion and of what ends it. Raises ModelError without a chat template."""
        found: dict[int, PromptedIds | BadRow] = {}
        chats = [number for number, one in enumerate(asked) if self._is_chat(one)]
        texts = [number for number in range(len(asked)) if number not in {*chats}]
        if chats:
            found |= dict(zip(chats, self._chats([asked[number] for number in chats]), strict=True))
        if texts:
            found |= dict(zip(texts, self._texts([asked[number] for number in texts]), strict=True))
        return [found[number] for number in range(len(asked))]

    @property
    def end_ids(self) -> list[int]:
        """The ids that end a completion: that of a text, and of a turn where there is a chat template."""
        turn = [self._conversations.end_id] if self.tokenizer.chat_template is not None else []
        return list(dict.fromkeys([*([] if self.tokenizer.eos_id is None else [self.tokenizer.eos_id]), *turn]))

    def _is_chat(self, one: Asked) -> bool:
        return self.chat or isinstance(one.prompt, list) or isinstance(one.completion, list)

    def _texts(self, asked: Sequence[Asked]) -> list[PromptedIds | BadRow]:
        """Texts are encoded apart: the model writes a completion behind the ids of the prompt."""
        prompts = self.tokenizer.encode_bare([str(one.prompt) for one in asked])
        completions = self.tokenizer.encode_bare([str(one.completion or "") for one in asked])
        end = [] if self.tokenizer.eos_id is None else [self.tokenizer.eos_id]
        found: list[PromptedIds | BadRow] = []
        for one, prompt, completion in zip(asked, prompts, completions, strict=True):
            before = [*self.tokenizer.prefix, *prompt.tolist()]
            after = [] if one.completion is None else [*completion.tolist(), *end]
            found.append(PromptedIds([*before, *after], len(before)))
        return found

    @cached_property
    def _conversations(self) -> Conversations:
        """Raises ModelError for a template that cannot be trained on."""
        return Conversations(self.tokenizer, resolve_format("auto", self.tokenizer, None), None, self.folder)

    def _chats(self, asked: Sequence[Asked]) -> list[PromptedIds | BadRow]:
        if self.tokenizer.chat_template is None:
            why = "objective.chat is set" if self.chat else "the prompt or its completion is messages"
            raise ModelError(
                f"{asked[0].place}: {why}, but {self.folder} has no chat template, so nothing says how messages are written: start from a "
                "checkpoint that has one, or give texts, such as columns: {prompt: '{question}\\n'}"
            )
        with self._conversations.renderer() as render:
            texts = [self._rendered(one, render) for one in asked]
        encoded = iter(self._conversations.encode([text for text in texts if not isinstance(text, BadRow)]))
        found: list[PromptedIds | BadRow] = []
        for one, text in zip(asked, texts, strict=True):
            if isinstance(text, BadRow):
                found.append(text)
                continue
            ids, targets = next(encoded)
            prompt = int(targets.argmax()) if targets.any() else len(ids)
            found.append(PromptedIds(ids[:prompt].tolist() if one.completion is None else ids.tolist(), prompt))
        return found

    def _rendered(self, one: Asked, render: Render) -> tuple[str, list[tuple[int, int]]] | BadRow:
        """The text up to the end of the last turn, and where that turn is."""
        try:
            prompt, completion = (
                _messages(one.prompt, "user"),
                [*ANSWER] if one.completion is None else _messages(one.completion, "assistant"),
            )
            if len(completion) != 1 or completion[0]["role"] != "assistant":
                raise UnfitError("a completion of several turns", "a completion must be one message of the assistant")
            text, spans = checked_text(self._conversations, [*prompt, *completion], one.place, render)
        except UnfitError as error:
            return BadRow(error.kind, f"{one.place}: {error}; correct the row", lost=error.kind == CONTROL)
        except ModelError as error:  # the template refuses it
            return BadRow("refused by the chat template", str(error), lost=True)
        return text[: spans[-1][1]], spans[-1:]


def _messages(turns: Turns, speaker: str) -> list[dict[str, Any]]:
    """Return turns as messages: a text is one of `speaker`; a dialogue in the form of HH-RLHF has several."""
    if isinstance(turns, list):
        return [plain_message(number, message) for number, message in enumerate(turns, 1)]
    if not is_dialogue(turns):
        return [{"role": speaker, "content": turns.strip()}] if turns.strip() else []
    found: list[dict[str, Any]] = []
    for part in turns.replace(HUMAN, "\0user\0").replace(ASSISTANT, "\0assistant\0").split("\0")[1:]:
        if part in ("user", "assistant"):
            found.append({"role": part, "content": ""})
        else:
            found[-1]["content"] = part.strip()
    return found if found[-1]["content"] else found[:-1]  # a prompt ends with "Assistant:", where the answer begins


def bare_text(turns: Turns) -> str:
    """Return all that turns say, for what reads words alone."""
    if isinstance(turns, str):
        return turns
    return "\n".join(str(message.get("content", message.get("value", ""))) for message in turns)
