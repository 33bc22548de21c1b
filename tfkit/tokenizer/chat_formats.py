r"""The chat formats of model families, as pure functions from messages to segments of text, some of which are training targets.

    chatml    <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Hello<|im_end|>]\n                          SmolLM2
    llama2    <s>[INST] <<SYS>>\n...\n<</SYS>>\n\nHi [/INST][ Hello </s>]                  arXiv 2307.09288; <s> before each [INST]
    llama3    <|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>...[Hello<|eot_id|>]
    gemma     <bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n[Hello<end_of_turn>]\n
    mistral   <s>[INST] Hi [/INST][ Hello</s>]                                                        Mistral 7B v0.1
    chatml_tools   as chatml, with the tools in the system message, and <tool_call>, <tool_response>   Nous Hermes 2 Pro, Qwen2.5

Targets are in brackets; the brackets of [INST] and [/INST] belong to the text. A target includes the token that ends a turn, so that the
model learns to stop, but nothing after this token. Each format has a chat template, which is saved with
checkpoints, and writes the same text in transformers and `tfkit generate --chat`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROLES = ("system", "user", "assistant")
TOOL = "tool"  # the role of a message with the result of a function call


class Message(NamedTuple):
    """One turn of a conversation. `calls`: function calls by the assistant, each {"name", "arguments"}."""

    role: str
    content: str
    calls: tuple[Mapping[str, Any], ...] = ()


class Segment(NamedTuple):
    """A part of a conversation's text. `is_target`: whether the model is trained to generate this part."""

    text: str
    is_target: bool = False


class Ends(NamedTuple):
    """The texts of the tokenizer's bos and eos tokens, which some formats write; empty if the tokenizer has no such token."""

    bos: str
    eos: str


Write = Callable[[Sequence[Message], Ends], Iterator[Segment]]


class UnfitError(ValueError):
    """Error for a conversation that a format cannot express. `kind`: the reason in a few words, by which skipped rows are counted."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class ChatFormat:
    """A chat format: how it writes a conversation, which tokens it needs, and which conversations it can express."""

    name: str
    write: Write
    special: tuple[str, ...] = ()  # tokens of the format that must be special tokens of the tokenizer
    markers: tuple[str, ...] = ()  # texts that mark parts of a conversation, but are no special tokens
    turn_end: str | None = None  # the token that ends a turn; None: the tokenizer's eos
    bos: bool = True  # whether the format writes the tokenizer's bos
    has_system: bool = True  # whether the format has system messages
    has_tools: bool = False  # whether the format has tools, calls of tools, and messages with their results
    alternates: bool = False  # whether user and assistant must alternate, after an optional system message
    system: str | None = None  # the format's own system message for conversations without one

    def segments(
        self, messages: Sequence[Message], ends: Ends, system: str | None = None, tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[Segment]:
        """Return the segments of a conversation's text, in order. Raises UnfitError if the format cannot express the conversation.

        `system`: the system message if the conversation has none; None: the format's own. `tools`: as in transformers' chat templates.
        """
        system = system or self.system
        if system is not None and messages[0].role != "system":
            messages = [Message("system", system), *messages]
        if tools and not self.has_tools:
            raise self._unsupported("tools", "this conversation has tools")
        self._check(messages)
        return list(self.write(_with_tools(messages, tools) if tools else messages, ends))

    def jinja(self, system: str | None = None) -> str:
        """Return the chat template for a checkpoint. `system`: the system message of conversations without one; None: the format's own."""
        system = system or self.system
        template = (_TEMPLATES / f"{self.name}.jinja").read_text(encoding="utf-8")
        if system is None:
            return template
        return _WITH_SYSTEM.replace("SYSTEM", json.dumps(system, ensure_ascii=False)) + template  # Jinja reads JSON's escapes

    def _check(self, messages: Sequence[Message]) -> None:
        for number, message in enumerate(messages):
            if message.calls and not self.has_tools:
                raise self._unsupported("tool calls", f"message {number + 1} calls a tool")
            if message.role == TOOL and not self.has_tools:
                raise self._unsupported(f"role {TOOL!r}", f"message {number + 1} is what a tool returns")
            if message.role not in (*ROLES, TOOL):
                raise UnfitError(f"role {message.role!r}", f"message {number + 1} is by {message.role!r}; the roles are {', '.join(ROLES)}")
            if message.role == "system" and not self.has_system:
                raise UnfitError("a system message", f"the format {self.name} has no system message")
        turns = messages[1:] if messages[0].role == "system" else messages
        if self.alternates:
            for number, message in enumerate(turns):
                if message.role != ROLES[1 + number % 2]:
                    raise UnfitError(
                        "roles out of order",
                        f"in the format {self.name} user and assistant take turns, and turn {number + 1} is by {message.role}",
                    )

    def _unsupported(self, kind: str, what: str) -> UnfitError:
        able = " and ".join(chat_format.name for chat_format in FORMATS.values() if chat_format.has_tools)
        return UnfitError(kind, f"{what}, which the format {self.name} cannot express; {able} can, and the templates of some checkpoints")


def _chatml(messages: Sequence[Message], ends: Ends) -> Iterator[Segment]:
    for role, content, _ in messages:
        yield Segment(f"<|im_start|>{role}\n")
        yield Segment(f"{content}<|im_end|>", role == "assistant")
        yield Segment("\n")


def _llama2(messages: Sequence[Message], ends: Ends) -> Iterator[Segment]:
    system = ""
    for role, content, _ in messages:
        if role == "system":
            system = f"<<SYS>>\n{content}\n<</SYS>>\n\n"
        elif role == "user":
            yield Segment(f"{ends.bos}[INST] {(system + content).strip()} [/INST]")
            system = ""
        else:
            yield Segment(f" {content.strip()} {ends.eos}", is_target=True)


def _llama3(messages: Sequence[Message], ends: Ends) -> Iterator[Segment]:
    yield Segment(ends.bos)
    for role, content, _ in messages:
        yield Segment(f"<|start_header_id|>{role}<|end_header_id|>\n\n")
        yield Segment(f"{content.strip()}<|eot_id|>", role == "assistant")


def _gemma(messages: Sequence[Message], ends: Ends) -> Iterator[Segment]:
    yield Segment(ends.bos)
    for role, content, _ in messages:
        yield Segment(f"<start_of_turn>{'model' if role == 'assistant' else role}\n")
        yield Segment(f"{content.strip()}<end_of_turn>", role == "assistant")
        yield Segment("\n")


def _mistral(messages: Sequence[Message], ends: Ends) -> Iterator[Segment]:
    yield Segment(ends.bos)
    for role, content, _ in messages:
        yield Segment(f" {content}{ends.eos}", is_target=True) if role == "assistant" else Segment(f"[INST] {content} [/INST]")


def _chatml_tools(messages: Sequence[Message], ends: Ends) -> Iterator[Segment]:
    """Write ChatML with calls of tools and their results. Consecutive results become one turn of the user."""
    for before, (role, content, calls), after in zip([None, *messages], messages, [*messages[1:], None], strict=False):
        if role == TOOL:
            begins, is_last = before is None or before.role != TOOL, after is None or after.role != TOOL
            yield Segment(f"{'<|im_start|>user' if begins else ''}\n<tool_response>\n{content}\n</tool_response>")
            yield from [Segment("<|im_end|>\n")] if is_last else []
            continue
        call_texts = [f"<tool_call>\n{_json({name: call[name] for name in ('name', 'arguments')})}\n</tool_call>" for call in calls]
        text = "\n".join([*([content] if content or not call_texts else []), *call_texts])
        yield Segment(f"<|im_start|>{role}\n")
        yield Segment(f"{text}<|im_end|>", role == "assistant")
        yield Segment("\n")


_TOOLS_BEGIN = "You may call functions. Their signatures are here, as JSON:\n<tools>"
_TOOLS_END = """
</tools>

To call one, write its name and its arguments as JSON:
<tool_call>
{"name": NAME, "arguments": {...}}
</tool_call>"""


def _with_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return the conversation with a description of its tools at the end of the system message, which is added if there is none."""
    schemas = "".join(["\n" + _json(tool) for tool in tools])
    system, rest = ([messages[0].content, ""], messages[1:]) if messages[0].role == "system" else ([], messages)
    return [Message("system", "\n".join([*system, f"{_TOOLS_BEGIN}{schemas}{_TOOLS_END}"])), *rest]


def _json(value: Any) -> str:
    """Return JSON as transformers' chat templates write it with the filter `tojson`."""
    return json.dumps(value, ensure_ascii=False)


_TEMPLATES = Path(__file__).with_name("chat_templates")
_WITH_SYSTEM = """\
{%- if messages[0]['role'] != 'system' %}
    {%- set messages = [{'role': 'system', 'content': SYSTEM}] + messages %}
{%- endif %}
"""


_INSTRUCTION = ("[INST]", "[/INST]")
FORMATS = {
    chat_format.name: chat_format
    for chat_format in (
        ChatFormat(
            "chatml",
            _chatml,
            special=("<|im_start|>", "<|im_end|>"),
            turn_end="<|im_end|>",
            bos=False,
            system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",  # the text of SmolLM2's own template
        ),
        ChatFormat("llama2", _llama2, markers=(*_INSTRUCTION, "<<SYS>>", "<</SYS>>"), alternates=True),
        ChatFormat("llama3", _llama3, special=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), turn_end="<|eot_id|>"),
        ChatFormat(
            "gemma", _gemma, special=("<start_of_turn>", "<end_of_turn>"), turn_end="<end_of_turn>", has_system=False, alternates=True
        ),
        ChatFormat("mistral", _mistral, markers=_INSTRUCTION, has_system=False, alternates=True),
        ChatFormat("chatml_tools", _chatml_tools, special=("<|im_start|>", "<|im_end|>"), turn_end="<|im_end|>", bos=False, has_tools=True),
    )
}


def join_segments(segments: Iterable[Segment]) -> tuple[str, list[tuple[int, int]]]:
    """Return the text of all segments, and for each target the index of its first character and the index after its last one."""
    text, spans = "", []
    for segment in segments:
        if segment.is_target:
            spans.append((len(text), len(text) + len(segment.text)))
        text += segment.text
    return text, spans
